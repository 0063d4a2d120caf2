"""Where in a face's portrait what counts: where edits have business, what they leave, what has moved."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from dystyle.alignment import hull
from dystyle.attributes import ATTRIBUTES, PARTS
from dystyle.compositing import COARSE, Flow
from dystyle.encoders import SIZE
from dystyle.faces import InvertedFace

# Around where an edit has business, and the face: margins in sides of the portrait, and how softly these
# places end, in px of 256. Lids are what closes around the eyes, and may reach up to the brows.
BUSINESS, SKIN, LIDS = (0.13, 12), (0.0, 6), (0.03, 3)
JAW_CORNERS, FAR = (58, 288), 9  # of the face mesh; how many of its widths end beyond any portrait
NECK = 4  # px of 256, how softly a head ends there


class Moved(NamedTuple):
    """How a picture differs from the photo that was edited.

    Attributes:
        flow: where each place comes from.
        changed: (256, 256) float32 from 0 to 1, where it is the generator's, and not the photo's own.
        hair: (h, w) likewise, where the generator has hair.
        face: (256, 256) likewise, where the photo shows a face; None: not known.
    """

    flow: Flow
    changed: np.ndarray
    hair: np.ndarray
    face: np.ndarray | None = None

    def carry(self, hair: np.ndarray, anew: bool) -> np.ndarray:
        """Where the picture shows hair, (256, 256) from 0 to 1, from where the photo does, likewise: the
        photo's own, or also what the generator draws `anew`."""
        if not anew:
            return self.flow.move(hair) * (1 - self.changed)
        drawn = self.changed * cv2.resize(self.hair, self.changed.shape)
        if self.face is not None:
            drawn *= 1 - self.flow.move(self.face)
        return np.maximum(self.flow.move(hair), drawn)


class Places(NamedTuple):
    """Where in a portrait what counts, (256, 256) float32 from 0 to 1 each, soft at their edges.

    Attributes:
        edited: where the edit has business; None: everywhere.
        left: what stays the photo's, but for moving: what each attribute leaves, or has no business in.
        face: all of it; None: not known. skin: what of it keeps its complexion, likewise.
        turned: where the head moves and does nothing else; None if it changes everywhere.
        gives_way: how much of what is carried there gives way; None: nothing.
        still: whether the outlines of the head stay where they are: it does not move, and no edit is one of
            hair alone.
        turns: whether the head moves.
    """

    edited: np.ndarray | None = None
    left: np.ndarray | None = None
    face: np.ndarray | None = None
    skin: np.ndarray | None = None
    turned: np.ndarray | None = None
    gives_way: np.ndarray | None = None
    still: bool = False
    turns: bool = False

    @classmethod
    def of(cls, targets: Mapping[str, float], face: InvertedFace) -> "Places":
        """Those of edits to these targets, of which nothing gives way."""
        points, soft = face.landmarks, partial(region_of, face)
        if points is None:
            return cls()
        rows = [ATTRIBUTES[name] for name in targets]
        names = frozenset[str]().union(*(row.leaves for row in rows))
        parts = {part: soft(PARTS[part][0], *PARTS[part][1]) for part in names}
        nowhere = np.zeros((COARSE, COARSE), np.float32)
        left, business, coloured = np.ones_like(nowhere), nowhere, nowhere
        for row in rows:
            region = soft([row.region], *BUSINESS) if row.region else 1 - nowhere
            leaves = row.leaves - row.hides if targets[row.name] < 0.5 else row.leaves
            kept = np.max([nowhere, *(parts[part] for part in leaves)], 0)
            if "brows" in leaves and "eyes" not in leaves:
                kept *= 1 - soft(PARTS["eyes"][0], *LIDS)
            left = np.minimum(left, np.maximum(1 - region, kept))
            if row.region:
                business = np.maximum(business, region)
            if row.colours:
                coloured = np.maximum(coloured, region)
        local = all(row.region for row in rows)
        moves = not local and all(row.turns or row.region for row in rows)
        face_itself = soft([range(len(points))], *SKIN)
        return cls(
            business if local else None,
            left,
            face_itself,
            face_itself * (1 - coloured),
            1 - business if moves else None,
            still=not any(row.turns or not row.region and "face" in row.leaves for row in rows),
            turns=any(row.turns for row in rows),
        )


def region_of(
    face: InvertedFace, regions: Iterable[Sequence[int]], margin: float, softness: float
) -> np.ndarray:
    """The hulls of some of a face's points in its portrait, (256, 256) float32 from 0 to 1; nowhere if these
    are not known. `margin` and `softness` are as in `dystyle.attributes.PARTS`."""
    if face.landmarks is None:
        return np.zeros((COARSE, COARSE), np.float32)
    hulls = [hull(face.landmarks[list(region)], face.quad, margin) for region in regions]
    return cv2.GaussianBlur(np.max(hulls, 0).astype(np.float32), (0, 0), softness)


def above_the_neck(face: InvertedFace) -> np.ndarray:
    """What of a portrait is no neck and no clothes: its face, and all above the corners of the jaw, as
    `region_of`."""
    points, quad = face.landmarks, face.quad
    if points is None:
        return np.ones((COARSE, COARSE), np.float32)
    left, right = points[list(JAW_CORNERS)]
    aside = FAR * (right - left)
    up = aside[::-1] * [1, -1]
    above = hull(np.array([left - aside, right + aside, left - aside + up, right + aside + up]), quad, 0.0)
    whole = hull(points, quad, 0.0)
    return cv2.GaussianBlur((above | whole).astype(np.float32), (0, 0), NECK)


def faces_of(places: Places) -> np.ndarray:
    """Where a portrait shows a face for sure, (1, 1, 64, 64) float32 from 0 to 1; where it is not known, it
    may be anywhere."""
    if places.face is None:
        return np.ones((1, 1, SIZE, SIZE), np.float32)
    return cv2.resize(places.face, (SIZE, SIZE)).clip(0, 1)[None, None]
