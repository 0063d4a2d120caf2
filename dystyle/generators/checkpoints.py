"""Read and write StyleGAN2 in its public formats."""

import os
from pathlib import Path

from torch import nn

from dystyle.generators.stylegan2 import Discriminator, StyleGAN2


def read_generator(name_or_path: str | os.PathLike[str], key: str | None = None) -> StyleGAN2:
    """The generator in any file that holds one, in float32, frozen, with `mean_w` and `std_w`.

    Args:
        key: which network of the file, such as "g" instead of the averaged "g_ema"; None: the averaged one.

    Raises:
        InputError: the file is missing, damaged or no such file, or a key or shape does not fit.
    """
    raise NotImplementedError


def read_discriminator(name_or_path: str | os.PathLike[str]) -> Discriminator:
    """The discriminator in a file that holds one, in float32, frozen; errors as for `read_generator`."""
    raise NotImplementedError


def save(network: StyleGAN2 | Discriminator, path: Path, **metadata: str) -> None:
    """Write one network as safetensors, which `read_generator` and `read_discriminator` take."""
    raise NotImplementedError


def write_rosinality(path: Path, g_ema: StyleGAN2, **others: nn.Module) -> None:
    """Write a checkpoint (.pt) in the format of rosinality's stylegan2-pytorch.

    Args:
        g_ema: the averaged generator.
        others: `g` (a generator) and `d` (a discriminator).
    """
    raise NotImplementedError
