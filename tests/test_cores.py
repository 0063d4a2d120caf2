"""Threads that leave others their cores."""

import os
import subprocess
import sys

import pytest

from dystyle import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_limit_counts(files, expected, monkeypatch, tmp_path):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cores.cores.__wrapped__() == expected


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("99", 8), ("0", 1), ("some", 8)])
def test_some_cores_can_be_left_to_others(asked, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setenv("DYSTYLE_CORES", asked)
    assert cores.cores.__wrapped__() == expected


def test_waiting_threads_sleep_from_the_first_import_on():
    """OpenMP reads the environment when PyTorch loads it; what somebody has set there stays."""
    program = "import dystyle, os; print(os.environ['OMP_WAIT_POLICY'], os.getenv('OMP_NUM_THREADS'))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    for given, expected in (
        ({}, ["PASSIVE", str(cores.cores() if cores.limited() else None)]),
        ({"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}, ["ACTIVE", "3"]),
    ):
        told = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | given,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.split() == expected
