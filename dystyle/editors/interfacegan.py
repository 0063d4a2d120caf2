"""InterFaceGAN in Z (Shen et al. 2020, arXiv 1907.10786): hyperplanes before the mapping network.

A given code has no z of its own. The one whose W code lies nearest is found by optimisation, and what a step
in Z changes in W is added to the code: what z could not explain stays.
"""

from collections.abc import Callable

import numpy as np

from dystyle.backend import Backend
from dystyle.editors.linear import LinearEditor
from dystyle.editors.search import Read
from dystyle.generators.facts import GeneratorFacts
from dystyle.weights import load

INVERSION_STEPS, INVERSION_RATE = 120, 0.1
BETAS = 0.9, 0.999  # of Adam's averages
PICTURE_ROWS = 16  # the rows of W+ that reach the picture


class Latents:
    """Z -> W of the default generator, and back."""

    def __init__(self) -> None:
        self.layers = GeneratorFacts.load().mapping
        self.std_w = load("mobile_stylegan")[0]["std_w"]

    def map(self, z: np.ndarray) -> np.ndarray:
        """(n, 512) -> W codes (n, 512)."""
        return self._run(np.float32(z))[0]

    def _run(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """W codes (n, 512), the factor (n, 1) that scaled z, and the slope at every layer's outputs."""
        scale = 1 / np.sqrt(np.mean(z * z, axis=1, keepdims=True) + 1e-8)
        x, slopes = z * scale, []
        for weight, bias in self.layers:
            x = x @ weight + bias
            slopes.append(np.where(x > 0, np.float32(2**0.5), np.float32(0.2 * 2**0.5)))
            x = x * slopes[-1]
        return x, scale, slopes

    def invert(self, w: np.ndarray, steps: int = INVERSION_STEPS) -> np.ndarray:
        """z (n, 512), of length sqrt(512), whose W codes lie nearest to w (n, 512) in units of deviation."""
        target = np.float32(w)
        z = np.random.default_rng(0).standard_normal(w.shape, dtype=np.float32)
        mean, square = np.zeros_like(z), np.zeros_like(z)
        for step in range(1, steps + 1):  # by Adam (Kingma and Ba 2015)
            gradient = self.gradient(z, target)
            mean += (1 - BETAS[0]) * (gradient - mean)
            square += (1 - BETAS[1]) * (gradient * gradient - square)
            first, second = (1 - beta**step for beta in BETAS)
            z -= INVERSION_RATE / first * mean / (np.sqrt(square / second) + 1e-8)
        return z * (z.shape[1] ** 0.5 / np.linalg.norm(z, axis=1, keepdims=True))

    def gradient(self, z: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Of the mean squared distance of z's code to the target, in units of deviation; (n, 512) each."""
        x, scale, slopes = self._run(z)
        gradient = 2 * (x - target) / np.square(self.std_w) / x.shape[1]
        for (weight, _), slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            gradient = gradient * slope @ weight.T
        along = np.mean(gradient * z * scale, axis=1, keepdims=True)
        return scale * (gradient - z * scale * along)


class ZEditor(LinearEditor):
    """Directions of Z; `std_w` is that of Z, 1."""

    latents: Latents

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "ZEditor":
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
