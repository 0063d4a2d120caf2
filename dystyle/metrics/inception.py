"""Inception v3 as the FID has it, in a file that the user brings."""

import os

import torch
from torch import Tensor

from dystyle.errors import InputError


class Inception:
    """NVIDIA's TorchScript file `inception-2015-12-05.pt`, of TensorFlow's network for the FID.

    A TorchScript file is a program: open none of unknown origin.

    Raises:
        InputError: the file is missing or no such program.
    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        try:
            self.network = torch.jit.load(path, map_location=device).eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"'{path}' is missing or no TorchScript; the FID takes NVIDIA's inception-2015-12-05.pt."
            ) from error

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Pictures (b, 3, s, s) in [-1, 1], which it sees rounded to 0..255 -> (b, 2048)."""
        levels = (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        return self.network(levels, return_features=True)
