"""What `FaceEditor` and the editing methods ask of whatever runs the networks."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Runs the graphs of `dystyle.engines.graphs`; safe to share between threads.

    Attributes:
        precision: of the pictures, "fp32", "fp16" or "bf16"; everything else is computed in fp32.
    """

    precision: str

    def run(
        self,
        name: str,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray,
    ) -> list[np.ndarray]:
        """The outputs of a graph for a batch.

        Args:
            weights: stand in for the generator's, by name.
            others: further inputs of the graph, by name.
        """

    def edit(self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor") -> np.ndarray:
        """Edited codes (b, 18, 512).

        Args:
            codes: (b, 18, 512).
            configuration: target values of at least one attribute, in the table's order.
            editor: the bundled one, or "editor:PATH" of another.
        """

    def attention(
        self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor"
    ) -> np.ndarray:
        """What each of n > 1 active experts (third axis) takes from each (fourth): (rows, b, n, n)."""

    def release_memory(self) -> None:
        """Make room for something large; what others are using stays open, and all else opens again."""
