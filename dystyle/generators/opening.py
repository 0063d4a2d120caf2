"""Open a generator for PyTorch: the default one with its preview heads, or a StyleGAN2 in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.weights import resolve

if TYPE_CHECKING:
    from dystyle.generators.stylegan2 import StyleGAN2


def open_generator(file: str | Path | None = None) -> "MobileStyleGAN | StyleGAN2":
    """The StyleGAN2 in a file, or without one the default generator, frozen; the caller's own.

    Raises:
        InputError: as `dystyle.generators.checkpoints.read_generator`.
    """
    if file is not None:
        from dystyle.generators.checkpoints import read_generator  # brings PyTorch's compiler along

        return read_generator(file)
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), resolve("preview_heads"))
