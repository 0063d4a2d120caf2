"""Pictures with their attributes, for training translators: read once, and kept as memory-mapped arrays."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from dystyle.alignment import crop
from dystyle.compositing import changes, complexion, composite
from dystyle.errors import InputError
from dystyle.faces import InvertedFace
from dystyle.pictures import load_image
from dystyle.pipeline import RENDERED, FaceEditor
from dystyle.places import Places
from dystyle.training.dataset import FaceDataset
from dystyle.training.pairs import draw_edit, mesh
from dystyle.training.photo import fill
from dystyle.training.portraits import find_faces, note_faces
from dystyle.translators.structure import scaled

TRUNCATION = 0.6, 1.0
RENDER = 256  # px of the teacher's previews, which are averaged down
FRAME = np.float32([(0, 0), (0, RENDER), (RENDER, RENDER), (RENDER, 0)])  # corners of a picture


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        pictures: (b, 3, s, s) in [-1, 1]. source: their attributes (b, n), from -0.5 to 0.5.
        target: attributes asked for, likewise. wanted: pictures that have them, or None if nobody knows them.
    """

    pictures: Tensor
    source: Tensor
    target: Tensor
    wanted: Tensor | None


@dataclass(frozen=True)
class Faces:
    """Pictures of people, one or several of each, which then differ by edits alone.

    Attributes:
        pictures: (people, pictures of each, s, s, 3) uint8.
        attributes: (people, pictures of each, n) float32 from -0.5 to 0.5, see `structure.scaled`.
    """

    pictures: np.ndarray
    attributes: np.ndarray

    @classmethod
    def read(cls, folder: Path, source: Path, names: Sequence[str], size: int, editor: FaceEditor) -> "Faces":
        """Pictures labelled by the project's own readings, one of each person; goes on where it stopped.

        Args:
            folder: to keep them in. source: faces of `python -m dystyle.train faces`, or a folder of photos,
                of each of which the largest face counts.

        Raises:
            InputError: there are no faces in the source, or as `fill`.
        """
        if (source / "done.txt").exists():
            images = FaceDataset.load(source).images
            count, picture = len(images), images.__getitem__
        else:
            found = find_faces(source, folder, editor)
            note_faces(folder, found)
            count = len(found)

            def picture(index: int) -> np.ndarray:
                return crop(load_image(found[index].file), found[index].quad)

        def make(index: int) -> tuple[np.ndarray, np.ndarray]:
            face = np.asarray(picture(index))
            return _small(face, size)[None], scaled(editor.measure(face), names)[None]

        return cls(**_filled(folder, count, 1, size, names, make))

    @classmethod
    def teach(
        cls,
        folder: Path,
        people: int,
        edits: int,
        names: Sequence[str],
        size: int,
        seed: int,
        editor: FaceEditor,
    ) -> "Faces":
        """Generated people, unedited and edited by `editor` in so many ways; goes on where it stopped.

        What a picture is asked to have counts as its attribute, and where nothing is asked the person's own
        reading, off the full picture, since previews are smooth and look younger. Edits keep what they have
        no business with, as those of photos do.
        """

        def make(index: int) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng((seed, index, 2))  # other people than those of other trainings
            code = editor.sample(int(rng.integers(2**31)), float(rng.uniform(*TRUNCATION)))
            values = editor.measure(editor.synthesize(code))
            values = {name: values[name] for name in names}
            own = editor.synthesize(code, RENDER)
            face = InvertedFace(code, own, FRAME, FRAME[[0, 2]].ravel(), landmarks=RENDER * mesh(editor, own))
            targets = [draw_edit(rng, values) for _ in range(edits)]
            pictures = [own, *(_kept(editor, face, target) for target in targets)]
            attributes = [scaled(values | target, names) for target in ({}, *targets)]
            return np.stack([_small(picture, size) for picture in pictures]), np.stack(attributes)

        return cls(**_filled(folder, people, 1 + edits, size, names, make))

    def part(self, people: slice) -> "Faces":
        """Some of the people."""
        return Faces(self.pictures[people], self.attributes[people])

    def first(self, people: int) -> tuple[Tensor, Tensor]:
        """The first picture of each of the first people, (b, 3, s, s), and its attributes (b, n)."""
        return self._take(
            np.arange(min(people, len(self.pictures))), np.zeros(people, int)[: len(self.pictures)]
        )

    @property
    def fingerprint(self) -> str:
        """How many pictures these are, and a digest of their attributes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.attributes)).hexdigest()[:16]
        return f"{self.attributes.shape[0]} x {self.attributes.shape[1]} pictures, {digest}"

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """A batch. Of people with several pictures two are drawn, now and then the same one: no change.

        Otherwise each attribute is as it was or, as likely, that of another face of the batch.
        """
        people = rng.choice(len(self.pictures), count, replace=len(self.pictures) < count)
        first, second = rng.integers(self.pictures.shape[1], size=(2, count))
        pictures, source = self._take(people, first)
        if self.pictures.shape[1] > 1:
            wanted, target = self._take(people, second)
            return Batch(pictures, source, target, wanted)
        others = source[torch.from_numpy(rng.permutation(count))]
        changed = torch.from_numpy(rng.random(tuple(source.shape)) < 0.5)
        return Batch(pictures, source, torch.where(changed, others, source), None)

    def _take(self, people: np.ndarray, which: np.ndarray) -> tuple[Tensor, Tensor]:
        pictures = np.stack([self.pictures[person, one] for person, one in zip(people, which, strict=True)])
        return to_images(pictures), torch.from_numpy(self.attributes[people, which])


def _kept(editor: FaceEditor, face: InvertedFace, targets: Mapping[str, float]) -> np.ndarray:
    """An edit of a generated face, (256, 256, 3) uint8, changed only where its attributes have business.

    What `FaceEditor.synthesize` does for photos, without their residual.
    """
    edited = editor.synthesize(editor.edit(face.code, targets), RENDER)
    places = Places.of(targets, face)
    changed = changes(edited, face.portrait, *RENDERED) * (1 - places.left)
    if places.edited is not None:
        changed *= places.edited
    if places.face is not None and places.edited is None:
        edited = complexion(edited, face.portrait, places.face)
    return composite(edited, face.portrait, changed)


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 (b, s, s, 3) -> float32 (b, 3, s, s) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _small(picture: np.ndarray, size: int) -> np.ndarray:
    if len(picture) < size:
        raise InputError(f"The faces have {len(picture)} px, too few for --size {size}.")
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _filled(
    folder: Path,
    people: int,
    each: int,
    size: int,
    names: Sequence[str],
    make: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
    columns = {
        "pictures": ((each, size, size, 3), np.uint8),
        "attributes": ((each, len(names)), np.float32),
    }
    return fill(folder, people, columns, make)
