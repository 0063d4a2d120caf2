"""DyStyle on the engines: what `FaceEditor` runs (the network itself is in `dystyle.editors.dystyle`)."""

from collections.abc import Mapping

import numpy as np

from dystyle.backend import Backend
from dystyle.editors.base import Editor
from dystyle.editors.search import Read
from dystyle.editors.structure import Structure
from dystyle.weights import load_header


class CompiledEditor(Editor):
    """Edits with one run of the engine; it needs no look at the picture."""

    searches = False

    def __init__(self, structure: Structure, backend: Backend) -> None:
        self.names, self.structure, self.backend = structure.names, structure, backend

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "CompiledEditor":
        return cls(Structure.read(load_header(weights)[1], weights), backend)

    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        return self.backend.edit(code[None], dict(configuration))[0]

    def attention(self, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        if len(configuration) == 1:  # it attends to itself alone
            return np.ones((self.structure.rows, 1, 1), np.float32)
        return self.backend.attention(code[None], dict(configuration))[:, 0]
