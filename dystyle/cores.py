"""The cores that this process may use, and how its threads wait for one another."""

import math
import os
from functools import cache
from pathlib import Path

CORES = "DYSTYLE_CORES"
CONTROL_GROUP = Path("/sys/fs/cgroup")
# Files of a container's limits there: microseconds of computing time in every so many microseconds.
_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # control groups 2 and 1


@cache
def cores() -> int:
    """How many threads can compute at once: the machine's cores, less those that this process may not use.

    `DYSTYLE_CORES` leaves some of them to others.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in _QUOTAS:
        try:
            words = " ".join((CONTROL_GROUP / file).read_text() for file in files).split()
            quota, period = map(int, words)
        except (OSError, ValueError):  # no such limit
            continue
        if quota > 0:
            allowed = min(allowed, math.ceil(quota / period))
    if (asked := os.environ.get(CORES, "")).isdecimal():
        allowed = min(allowed, int(asked))
    return max(1, allowed)


def limited() -> bool:
    """Whether this process may use less than the machine has, which runtimes go by."""
    return cores() < (os.cpu_count() or 1)


def share_cores() -> None:
    """Let OpenMP's threads, which PyTorch computes with, sleep while they wait, and be no more than cores.

    By default they keep their cores busy: where something else wants these, a step waits for a thread that
    waits in vain, and takes many times as long. What the environment says already stays. To be called before
    anything loads OpenMP, which reads the environment once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if limited():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
