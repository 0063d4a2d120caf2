"""Freed memory stays with the process where its C library can be told so."""

import subprocess
import sys

import pytest

from dystyle.memory import keep_freed_memory, share_freed_memory

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

COUNT_POOLS = """
import ctypes, sys, threading
from dystyle.memory import share_freed_memory
if sys.argv[1] == "share":
    share_freed_memory()
library, meet = ctypes.CDLL(None), threading.Barrier(8)
library.malloc.restype = library.fopen.restype = ctypes.c_void_p
def allocate():
    meet.wait()
    assert library.malloc(1000)
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
file = ctypes.c_void_p(library.fopen(sys.argv[2].encode(), b"w"))
library.malloc_info(0, file), library.fclose(file)
print(open(sys.argv[2]).read().count("<heap nr"))
"""


def test_threads_share_what_was_freed(tmp_path):
    def pools(mode: str) -> int:
        run = [sys.executable, "-c", COUNT_POOLS, mode, str(tmp_path / mode)]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)

    if not share_freed_memory():
        pytest.skip("this C library cannot be told")
    assert pools("share") <= 2 < pools("default")


def test_large_arrays_are_not_paged_in_again():
    def faults(mode: str) -> int:
        run = [sys.executable, "-c", COUNT_FAULTS, mode]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)

    if not keep_freed_memory():
        pytest.skip("this C library cannot be told")
    assert faults("keep") == 0 < faults("default")
