"""Faces that are edited, rendered and read: the bench on which methods of editing are measured."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.faces import InvertedFace
from dystyle.metrics.comparison import compare, mean_and_interval
from dystyle.metrics.distances import frechet
from dystyle.metrics.independent_judges import Judges
from dystyle.pipeline import FaceEditor

READ_SIZE = 256  # pixels to which pictures are averaged down before they are read
SHIFT = 8  # pixels of the 1024 px picture

Method = Callable[[np.ndarray, Mapping[str, float]], np.ndarray]
"""Code (18, 512) and configuration -> edited code."""


@dataclass(frozen=True)
class Seen:
    """What is read off one picture."""

    values: dict[str, float]
    judged: dict[str, float]
    embedding: np.ndarray
    descriptor: np.ndarray


class Bench:
    """Renders, reads some attributes, and keeps what the unedited faces read.

    Args:
        faces: the inverted ones that the codes are of, if they are of photos.

    Raises:
        InputError: there are fewer than two.
    """

    def __init__(
        self,
        editor: FaceEditor,
        codes: list[np.ndarray],
        attributes: Iterable[str] = ATTRIBUTES,
        faces: Sequence[InvertedFace] | None = None,
    ) -> None:
        if len(codes) < 2:
            raise InputError("Give at least two faces: one has no distribution to compare.")
        self.editor, self.judges, self.codes, self.attributes = editor, Judges(), codes, attributes
        self.faces = faces or [None] * len(codes)
        pairs = list(zip(codes, self.faces, strict=True))
        self.before = self._map(lambda pair: self.see(*pair), pairs, "unedited faces")

    @staticmethod
    def _map(function: Callable, items: list, label: str) -> list:
        """The function's results, computed on all cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(tqdm(pool.map(function, items), total=len(items), desc=label, mininterval=10))

    def see(self, code: np.ndarray, face: InvertedFace | None = None, shift: int = 0) -> Seen:
        """Render one code (18, 512) of a face, shift the picture to the right by some pixels, and read it."""
        picture = np.roll(self.editor.synthesize(code, face=face), shift, 1)
        factor = len(picture) // READ_SIZE
        shape = (READ_SIZE, factor, READ_SIZE, factor, 3)
        small = picture.reshape(shape).mean((1, 3), dtype=np.float32).round().astype(np.uint8)
        judged = {name: float(value[0]) for name, value in self.judges.read(small[None]).items()}
        readings = (
            {name: read[name] for name in self.attributes if name in read}
            for read in (self.editor.measure(small), judged)
        )
        return Seen(*readings, self.editor.embed(small), self.judges.embed(small[None])[0])

    def follow(self, method: Method, edits: list[dict[str, float]], label: str) -> list[Seen]:
        """What the first faces look like after one edit each."""
        triples = list(zip(self.codes, edits, self.faces, strict=False))
        return self._map(lambda triple: self.see(method(*triple[:2]), triple[2]), triples, label)

    def noise(self) -> dict[str, float]:
        """How much readings differ, as "moved" of `compare`, once a picture is shifted by `SHIFT` pixels."""
        shifted = self._map(partial(self.see, shift=SHIFT), self.codes, "shifted faces")
        pairs = [(b.values, a.values) for b, a in zip(self.before, shifted, strict=True)]
        return compare(pairs, [{}] * len(pairs))["moved"]

    def figures(self, after: list[Seen], edits: list[dict[str, float]]) -> dict:
        """The figures of what `follow` saw: see `dystyle.evaluation.editing`."""
        before = self.before[: len(after)]
        cosines = [a.embedding @ b.embedding for a, b in zip(after, before, strict=True)]
        distances = [np.linalg.norm(a.descriptor - b.descriptor) for a, b in zip(after, before, strict=True)]
        result = {
            "faces": len(after),
            "identity": mean_and_interval(cosines),
            "descriptor_distance": mean_and_interval(distances),
            "frechet": frechet([s.embedding for s in before], [s.embedding for s in after]),
        }
        for readings in ("values", "judged"):
            pairs = [(getattr(b, readings), getattr(a, readings)) for b, a in zip(before, after, strict=True)]
            result[readings] = compare(pairs, edits)
        return result
