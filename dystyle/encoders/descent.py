"""Supervised descent (Xiong and De la Torre 2013): what the encoder's face lacks, put right in a few steps.

An encoder looks at the photo once. Here its code is rendered as a preview, compared with the portrait in
identity and colours, and moved by a linear map that was learnt for this step from such differences, as
ReStyle (Alaluf et al. 2021) does with a second network. A step costs a preview and an embedding.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dystyle.errors import InputError
from dystyle.weights import load, save

# Colours are compared on a small square picture, and weighted against the embedding's unit length.
COLOUR_SIDE, COLOUR_WEIGHT = 16, 0.1
COLOURS = 3 * COLOUR_SIDE**2  # numbers, behind the embedding's
# Rows behind these reach nothing in the default generator.
ROWS = 16


def _window() -> np.ndarray:
    """Weights (COLOUR_SIDE, COLOUR_SIDE) of the colours: the face counts most."""
    axis = np.linspace(-1, 1, COLOUR_SIDE, dtype=np.float32)
    window = 0.25 + 2 * np.exp(-3 * (axis**2 + (axis[:, None] - 0.15) ** 2))
    return COLOUR_WEIGHT * window / window.mean()


WINDOW = _window()


def describe(picture: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """What two pictures of a face are compared by: (1792,) float32.

    Args:
        picture: (s, s, 3) uint8 RGB, an aligned portrait.
        embedding: (1024,) float32 of length 1, its identity.
    """
    small = cv2.resize(picture, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA) / np.float32(255)
    return np.concatenate((embedding, (small * WINDOW[..., None]).ravel()))


@dataclass(frozen=True)
class DescentStep:
    """One learnt step: a linear map of low rank from differences to codes.

    Attributes:
        read: (1792, rank), of `describe`'s differences; write: (rank, 16 * 512), in units of W.
    """

    read: np.ndarray
    write: np.ndarray

    def __call__(self, code: np.ndarray, lacking: np.ndarray) -> np.ndarray:
        """The better code (18, 512) float32.

        Args:
            code: (18, 512) float32.
            lacking: (1792,), the portrait's description less that of the code's picture.
        """
        better = code.copy()
        # Not `@`: the BLAS behind it has threads of its own, which then take the cores from the engines'.
        change = np.einsum("r,rw->w", np.einsum("d,dr->r", lacking, self.read), self.write)
        better[:ROWS] += change.reshape(ROWS, -1)
        return better


def save_steps(path, steps: list[DescentStep], **metadata: str) -> None:
    """Write steps as float16 for `load_steps`, with more metadata about them."""
    tensors = {
        f"{part}_{index}": getattr(step, part).astype(np.float16)
        for index, step in enumerate(steps)
        for part in ("read", "write")
    }
    save(path, tensors, format="descent", **metadata)


def load_steps(name_or_path: str = "descent") -> list[DescentStep]:
    """Read steps written by `save_steps`, in order.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    tensors, metadata = load(name_or_path)
    if metadata.get("format") != "descent":
        raise InputError(f"'{name_or_path}' does not hold steps of a descent.")
    parts = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return [DescentStep(parts[f"read_{i}"], parts[f"write_{i}"]) for i in range(len(parts) // 2)]
