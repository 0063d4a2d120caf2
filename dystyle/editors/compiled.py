"""DyStyle on the engines: what `FaceEditor` runs (the network itself is in `dystyle.editors.dystyle`)."""

import math
from collections.abc import Mapping

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.editors.base import Editor
from dystyle.editors.search import Read
from dystyle.editors.structure import Structure
from dystyle.weights import load_header

STEP = 0.1  # of the range, from a to b


class CompiledEditor(Editor):
    """Edits with one run of the engine; it needs no look at the picture.

    Experts were hardly asked for what lies beyond `Attribute.evaluated`, and do less there, not more. So a
    target t beyond an end b goes on in a straight line from one before it, a, by one more run:

        E(t) = E(b) + (t - b) / (b - a) (E(b) - E(a))
    """

    searches = False

    def __init__(self, structure: Structure, backend: Backend) -> None:
        self.names, self.structure, self.backend = structure.names, structure, backend

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "CompiledEditor":
        return cls(Structure.read(load_header(weights)[1], weights), backend)

    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        inside = {n: float(np.clip(t, *ATTRIBUTES[n].evaluated)) for n, t in configuration.items()}
        edited = end = self.backend.edit(code[None], inside)[0]
        for name, target in configuration.items():
            if target != inside[name]:
                step = math.copysign(STEP * ATTRIBUTES[name].width, target - inside[name])
                before = self.backend.edit(code[None], inside | {name: inside[name] - step})[0]
                edited = edited + np.float32((target - inside[name]) / step) * (end - before)
        return edited

    def attention(self, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        if len(configuration) == 1:  # it attends to itself alone
            return np.ones((self.structure.rows, 1, 1), np.float32)
        return self.backend.attention(code[None], dict(configuration))[:, 0]
