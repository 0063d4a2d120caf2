"""DyStyle on the engines: what `FaceEditor` runs (the network itself is in `dystyle.editors.dystyle`)."""

import json
from collections.abc import Mapping

import numpy as np

from dystyle.editors.base import Editor
from dystyle.editors.search import Read
from dystyle.weights import load


class CompiledEditor(Editor):
    """Edits with one run of the engine; it needs no look at the picture."""

    def __init__(self, names: tuple[str, ...], backend) -> None:
        self.names, self.backend = names, backend

    @classmethod
    def open(cls, weights: str, backend) -> "CompiledEditor":
        return cls(tuple(json.loads(load(weights)[1]["structure"])["names"]), backend)

    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        return self.backend.edit(code[None], dict(configuration))[0]
