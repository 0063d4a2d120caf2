"""Checkpoints of runs that go on bit for bit: written whole or not at all, one random state a process."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from dystyle.errors import InputError


def write(path: Path, state: dict) -> None:
    """Replace a checkpoint; an interruption leaves the one before."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def read(path: Path, processes: int) -> dict:
    """A checkpoint's state, on the CPU; "random" holds one entry for each process of its run.

    Raises:
        InputError: it was written by another number of processes.
    """
    state = torch.load(path, weights_only=True, map_location="cpu")
    if len(state["random"]) != processes:
        raise InputError(
            f"This run was of {len(state['random'])} process(es) and now there are {processes}; go on with "
            "as many, or start a new run in another folder (--out)."
        )
    return state


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of this process's random numbers, on the CPU and on its GPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on with random numbers where `random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def recipe(config) -> dict:
    """A dataclass of settings without the run's folders; of files given by a path only their names."""

    def known(value):
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {k: known(v) for k, v in asdict(config).items() if not isinstance(v, Path)}
