"""Freed memory stays with the process where its C library can be told so."""

import subprocess
import sys

import pytest

from dystyle.memory import keep_freed_memory

COUNT_FAULTS = """
import resource, sys
import numpy as np
from dystyle.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


def test_large_arrays_are_not_paged_in_again():
    def faults(mode: str) -> int:
        run = [sys.executable, "-c", COUNT_FAULTS, mode]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)

    if not keep_freed_memory():
        pytest.skip("this C library cannot be told")
    assert faults("keep") == 0 < faults("default")
