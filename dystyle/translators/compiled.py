"""Translators on the engines: what `FaceEditor` runs (the networks themselves are beside this)."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from dystyle.backend import Backend
from dystyle.errors import InputError
from dystyle.translators import FAMILIES
from dystyle.translators.structure import Structure, scaled
from dystyle.weights import WEIGHTS, load_header


class Translator:
    """Edits pictures with one run of the engine.

    Attributes:
        names: the attributes it can change, in the table's order.
        title: what to call it.
        size: px of its pictures.
    """

    def __init__(self, structure: Structure, title: str, file: str, backend: Backend) -> None:
        self.names, self.size, self.title = structure.names, structure.size, title
        self._graph, self._backend = f"translator:{file}", backend

    @classmethod
    def open(cls, name_or_path: str, backend: Backend) -> "Translator":
        """The translator of a family (a key of `FAMILIES`), or in a file that the training wrote.

        Raises:
            InputError: there are no weights of this family, or the file is missing, damaged, or none.
        """
        file = name_or_path
        if name_or_path in FAMILIES:
            file = f"translators/{name_or_path}"
            if file not in WEIGHTS:
                raise InputError(
                    f"No weights of {FAMILIES[name_or_path].title} come along; train it (python -m "
                    f"dystyle.train {name_or_path} --teacher dystyle) and give the file that this writes as "
                    "the method."
                )
        else:
            file = str(Path(file).expanduser().absolute())
        metadata = load_header(file)[1]
        structure = Structure.read(metadata, name_or_path)
        title = FAMILIES[structure.family].title
        if metadata.get("teacher") == "dystyle":
            title += " taught by DyStyle"
        return cls(structure, title, file, backend)

    def translate(
        self,
        portrait: np.ndarray,
        configuration: Mapping[str, float],
        readings: Mapping[str, float],
        size: int | None = None,
    ) -> np.ndarray:
        """The edited portrait, (size, size, 3) uint8.

        Args:
            portrait: aligned, (s, s, 3) uint8 RGB. configuration, readings: what is asked for, and what the
                portrait shows, in the attributes' units by name.
            size: px; at other sizes than the network's its change is laid over the portrait.
        """
        size = self.size if size is None else size
        own = _resize(portrait, size)
        if not configuration:
            return own
        made = self.run(portrait, readings, {**readings, **configuration})
        if size == self.size:
            return made
        change = made.astype(np.float32) - _resize(portrait, self.size)
        change = cv2.resize(change, (size, size), interpolation=cv2.INTER_CUBIC)
        return (own + change).round().clip(0, 255).astype(np.uint8)

    def run(
        self, portrait: np.ndarray, source: Mapping[str, float], target: Mapping[str, float]
    ) -> np.ndarray:
        """What the network makes of a portrait, in its own size; no change is asked for as any other.

        Args:
            source, target: values of all of `names`, in the attributes' units.
        """
        told = {"source": scaled(source, self.names)[None], "target": scaled(target, self.names)[None]}
        return self._backend.run(self._graph, _resize(portrait, self.size)[None], **told)[0][0]


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    if len(picture) == size:
        return picture.copy()
    method = cv2.INTER_AREA if len(picture) > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=method)
