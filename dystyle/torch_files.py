"""Read foreign PyTorch checkpoints (.pt) without running anything in them, and check what they hold."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dystyle.errors import InputError


def read_torch(path: Path, what: str) -> dict[str, object]:
    """A checkpoint's dictionary. Float32 weights stay mapped from the file.

    Nothing but tensors, plain values and `argparse.Namespace` is unpickled.

    Args:
        what: which checkpoint it should be, for the message.

    Raises:
        InputError: the file is damaged, holds anything else, is no dictionary with names, or would expand.
    """
    try:
        packed = zipfile.is_zipfile(path)
        if packed:  # torch ignores the archive's checksums
            with zipfile.ZipFile(path) as archive:
                parts = archive.infolist()
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                    raise zipfile.BadZipFile("packed parts, which PyTorch does not write")
                if sum(part.file_size for part in parts) > path.stat().st_size:
                    raise zipfile.BadZipFile("parts on top of each other")
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(str(path), map_location="cpu", weights_only=True, mmap=packed)
        if not is_named(checkpoint):
            raise TypeError("not a dictionary with names")
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"'{path}' is damaged or not a checkpoint of {what} (a .pt file with tensors and options only); "
            "fetch it again."
        ) from error
    return checkpoint


def is_named(entries: object) -> bool:
    """Whether this is a dictionary with names as keys."""
    return isinstance(entries, dict) and all(isinstance(key, str) for key in entries)


def unwrapped(state: dict[str, object]) -> dict[str, object]:
    """Named weights without the `module.` that training on several devices has put before every name."""
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module."): value for name, value in state.items()} if wrapped else state


def misfit(state: Mapping[str, object], wanted: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first key that does not fit, in the network's order, None if all do."""
    for key, expected in wanted.items():
        if key not in state:
            return f"'{key}' is missing"
        if not isinstance(state[key], Tensor) or state[key].layout != torch.strided:
            return f"'{key}' is not a tensor"
        if state[key].shape != expected.shape:
            return f"'{key}' has the shape {tuple(state[key].shape)}, not {tuple(expected.shape)}"
    return next((f"'{key}' is unknown" for key in state if key not in wanted), None)
