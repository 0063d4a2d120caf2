"""The linear baseline: InterFaceGAN directions in W (Shen et al. 2020, arXiv 1907.10786).

Each attribute has one direction, the normal of the hyperplane that separates its classes. Several are edited
with conditional projection (section 3.3 there): from each direction everything that points along another
attribute's is taken away.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.svm import LinearSVC

from dystyle.editors.search import Read, level, search
from dystyle.errors import InputError
from dystyle.weights import load, save

EXTREME = 0.15  # share of the faces at either end that stand for a class
SOFTNESS = 1e-3  # C of the support vector machines, by held-out accuracy; lower ones entangle the normals
FARTHEST = 20.0  # a direction is followed at most so far, in units of W's deviation


class LinearEditor:
    """Directions (n, 512) of W with the attributes' names, and how fast each reading changes along them.

    Args:
        directions: unit normals in W divided by its deviation `std_w` (512,).
        slopes: change of the attribute's `level` per unit length along its own direction, (n,).
    """

    def __init__(
        self, names: Sequence[str], directions: np.ndarray, slopes: np.ndarray, std_w: np.ndarray
    ) -> None:
        self.names, self.directions, self.slopes, self.std_w = tuple(names), directions, slopes, std_w

    @classmethod
    def fit(cls, codes: np.ndarray, values: Mapping[str, np.ndarray], std_w: np.ndarray) -> "LinearEditor":
        """Fit to W codes (n, 512) and the readings (n,) of their faces, in the table's units."""
        x = codes / std_w
        directions, slopes = [], []
        for name, value in values.items():
            order = np.argsort(value)
            count = max(2, int(len(order) * EXTREME))
            ends = np.concatenate((order[:count], order[-count:]))
            model = LinearSVC(C=SOFTNESS, dual=False).fit(x[ends], np.arange(2 * count) >= count)
            normal = model.coef_[0] / np.linalg.norm(model.coef_[0])
            directions.append(normal)
            slopes.append(np.polyfit(x @ normal, level(name, value), 1)[0])
        return cls(tuple(values), np.float32(directions), np.float32(slopes), np.float32(std_w))

    def save(self, path: Path) -> None:
        """Write safetensors."""
        tensors = {"directions": self.directions, "slopes": self.slopes, "std_w": self.std_w}
        save(path, tensors, format="linear", names=" ".join(self.names))

    @classmethod
    def load(cls, name_or_path: str = "linear") -> "LinearEditor":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "linear":
            raise InputError(f"'{name_or_path}' does not hold linear directions.")
        return cls(metadata["names"].split(), **tensors)

    def projected(self, name: str) -> np.ndarray:
        """The attribute's direction without what points along the others', of length 1, (512,)."""
        index = self.names.index(name)
        others = np.delete(self.directions, index, 0)
        basis = np.linalg.qr(others.T)[0]
        direction = self.directions[index] - basis @ (basis.T @ self.directions[index])
        return direction / np.linalg.norm(direction)

    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        """Move a code (18, 512) until its face reads the targets, or comes as near as these directions lead.

        Args:
            configuration: target values in the attribute's unit, by name.
            read: code (18, 512) -> readings of its picture, in the table's units.
        """
        directions = np.stack([self.projected(name) for name in configuration])
        slopes = self.slopes[[self.names.index(name) for name in configuration]]

        def move(strengths: np.ndarray) -> np.ndarray:
            return (code + strengths @ directions * self.std_w).astype(np.float32)

        return search(move, configuration, read, slopes, FARTHEST)
