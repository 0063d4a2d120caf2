"""Runs that go on bit for bit where they stopped, or not at all.

A run's folder holds its recipe (`recipe.json`), the newest checkpoint and the one before it. Every file is
written whole or not at all; each process has a random state of its own.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from dystyle.errors import InputError
from dystyle.torch_files import read_torch

RECIPE, NEWEST = "recipe.json", "checkpoint.pt"


def recipe(config, free: tuple[str, ...] = ()) -> dict:
    """A dataclass of settings without the run's folders; of files given by a path only their names.

    Args:
        free: names of settings to leave out, which may change while a run goes on.
    """

    def known(value):
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    settings = asdict(config).items()
    return {k: known(v) for k, v in settings if not isinstance(v, Path) and k not in free}


def make_folder(folder: Path) -> None:
    """Make a folder to write to, before the work whose result goes there.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"Nothing can be written to '{folder}': {error.strerror}.") from error


def begin(folder: Path, recipe: dict) -> None:
    """Make a run's folder and note its recipe, or check that the run which is there has the same.

    Args:
        recipe: all that shapes the run, its data included. As long as nothing else lies in the folder it may
            still change.

    Raises:
        InputError: the run was begun with another recipe, or the folder cannot be written.
    """
    make_folder(folder)
    others = [path for path in folder.iterdir() if path.name != RECIPE]
    path, text = folder / RECIPE, json.dumps(recipe, indent=2) + "\n"
    if path.exists() and others:
        _compare(folder, path, json.loads(text))
        return
    if unknown := [other.name for other in others if other.suffix == ".pt"]:
        raise InputError(
            f"'{folder}' holds {min(unknown)} and no {RECIPE} that says how it was made; begin a new run in "
            "another folder (--out)."
        )
    with whole(path) as file:
        file.write(text.encode())


def _compare(folder: Path, path: Path, wanted: dict) -> None:
    try:
        begun = dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is damaged; begin a new run in another folder (--out).") from error
    missing = object()
    for name in wanted | begun:
        old, new = begun.get(name, missing), wanted.get(name, missing)
        if old != new:
            old, new = ("not set" if value is missing else json.dumps(value) for value in (old, new))
            raise InputError(
                f"The run in '{folder}' was begun with another {name} ({old}, now {new}); go on as it was "
                "begun, or begin a new run in another folder (--out)."
            )


@contextmanager
def whole(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` once all of it is on the disk, and not before.

    Args:
        keep: where what was at `path` goes; otherwise it is gone.

    Raises:
        InputError: it cannot be written; `path` is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns the one into the other
        raise InputError(f"'{path}' cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def before(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_stem(f"{path.stem}-before")


def write(path: Path, state: dict) -> None:
    """Write a checkpoint, and keep the one before it.

    Raises:
        InputError: it cannot be written; the one that was there still is.
    """
    with whole(path, keep=before(path)) as file:
        torch.save(state, file)


def read(path: Path, processes: int | None = None) -> dict | None:
    """A checkpoint's state, on the CPU, or None if there is none; in place of a damaged one that before it.

    Args:
        processes: of this run; the state's "random" holds one entry for each.

    Raises:
        InputError: it was written by another number of processes, or is damaged and there is none before it.
    """
    files = [file for file in (path, before(path)) if file.exists()]
    for file in files:
        try:
            state = read_torch(file, "this training")
        except InputError:
            continue
        if file != path:
            print(f"'{path}' is damaged or missing: going on from the one before it.", file=sys.stderr)
            file.replace(path)
        if processes is not None and len(state["random"]) != processes:
            raise InputError(
                f"This run was of {len(state['random'])} process(es) and now there are {processes}; go on "
                "with as many, or start a new run in another folder (--out)."
            )
        return state
    if files:
        raise InputError(
            f"'{path}' is damaged, and there is none before it to go on from; start a new run in another "
            "folder (--out)."
        )
    return None


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
