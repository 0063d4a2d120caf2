"""InterFaceGAN in Z (Shen et al. 2020, arXiv 1907.10786): hyperplanes before the mapping network.

A given code has no z of its own. The one whose W code lies nearest is found by optimisation, and what a step
in Z changes in W is added to the code: what z could not explain stays.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dystyle.editors.linear import LinearEditor
from dystyle.editors.search import Read
from dystyle.generators.mobile_stylegan import MappingNetwork
from dystyle.weights import load

INVERSION_STEPS, RATE = 120, 0.1
PICTURE_ROWS = 16  # the rows of W+ that reach the picture


class Latents:
    """Z -> W of the default generator, and back."""

    def __init__(self) -> None:
        tensors = load("mobile_stylegan")[0]
        prefix = "mapping."
        state = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in tensors.items() if prefix in k}
        self.mapping = MappingNetwork().requires_grad_(False)
        self.mapping.load_state_dict(state)
        self.std_w = torch.from_numpy(tensors["std_w"])

    @torch.no_grad()
    def map(self, z: np.ndarray) -> np.ndarray:
        """(n, 512) -> W codes (n, 512)."""
        return self.mapping(torch.from_numpy(np.float32(z))).numpy()

    def invert(self, w: np.ndarray, steps: int = INVERSION_STEPS) -> np.ndarray:
        """z (n, 512), of length sqrt(512), whose W codes lie nearest to w (n, 512) in units of deviation."""
        target = torch.from_numpy(np.float32(w))
        start = np.random.default_rng(0).standard_normal(w.shape, dtype=np.float32)
        z = torch.from_numpy(start)
        optimiser = torch.optim.Adam([z], RATE)
        for _ in range(steps):
            z.grad = self.gradient(z, target)
            optimiser.step()
        z = z.numpy()
        return z * (z.shape[1] ** 0.5 / np.linalg.norm(z, axis=1, keepdims=True))

    @torch.no_grad()
    def gradient(self, z: Tensor, target: Tensor) -> Tensor:
        """Of the mean squared distance of z's code to the target, in units of deviation; (n, 512) each.

        By hand: once autograd has run in the page's process, it fails in those that ZeroGPU forks from it.
        """
        scale = torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        x, slopes = z * scale, []
        for layer in self.mapping.layers:
            x = layer(x)
            slopes.append(torch.where(x > 0, 1, 0.2) * 2**0.5)
            x = x * slopes[-1]
        gradient = 2 * (x - target) / self.std_w.square() / x.shape[1]
        for layer, slope in zip(reversed(self.mapping.layers), reversed(slopes), strict=True):
            gradient = gradient * slope @ layer.weight
        along = (gradient * z * scale).mean(1, keepdim=True)
        return scale * (gradient - z * scale * along)


class ZEditor(LinearEditor):
    """Directions of Z; `std_w` is that of Z, 1."""

    latents: Latents

    @classmethod
    def open(cls, weights: str, backend) -> "ZEditor":
        editor = cls.load(weights)
        editor.latents = Latents()
        return editor

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        directions = self.chosen(names)
        z = self.latents.invert(code[None, :PICTURE_ROWS].mean(1))
        start = self.latents.map(z)

        def move(strengths: np.ndarray) -> np.ndarray:
            change = self.latents.map(z + (strengths @ directions)[None]) - start
            return (code + change).astype(np.float32)

        return move
