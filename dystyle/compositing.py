"""What an edited portrait is put together of: the generator's picture, the photo's pixels and structure."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

COARSE = 256  # resolution of masks and blurs
GROUP = 128  # the most channels that OpenCV moves at once
AT_HAND = 4  # faces whose features are kept as OpenCV moves them, ten megabytes each
STILL, MOVING = 0.01, 0.03  # half pictures, up to which a move is none, and from which it is whole
FINE = 0.75  # px of 256, standard deviation of the blur that fine structure does not survive
# Differences, of 255, up to which fine structure stays as it is, and from which on none does; its strength up
# to which it is faint, and from which on an edge of something; px of 256, deviation of the blur of both.
REPLACED, FAINT, NEARBY = (8.0, 24.0), (9.0, 14.0), 2
PATCH, TILE = 0.07, 256  # of skin, in sides of a picture; px of a texture that is laid edge to edge
FOREIGN = (25.0, 50.0)  # of 255: by how much tints of different things differ at least, and for sure
THIN = 11  # px of 256, that what is thin is narrower than
WIDER = 1  # places of the features beyond an outline that stay as they are with it
COMPLEXION = 10  # px of 256, standard deviation of the blur that leaves broad colours


def changes(
    edited: np.ndarray, before: np.ndarray, least: float, full: float, blur: float = 0.0
) -> np.ndarray:
    """Where an edited picture differs from what it was: float32 (256, 256) from 0 to 1, soft at its edges.

    Args:
        edited, before: uint8 (s, s, 3).
        least, full: differences, of 255, up to which nothing counts as changed, and from which all does.
        blur: px of 256, standard deviation: finer structure does not count.
    """
    if blur:
        difference = _largest(np.abs(cv2.GaussianBlur(_difference(edited, before), (0, 0), blur)))
    else:
        difference = _largest(cv2.absdiff(edited, before)).astype(np.float32)
        difference = cv2.resize(difference, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    mask = np.clip((difference - least) / (full - least), 0, 1)
    mask = cv2.dilate(mask, disc(9))
    return cv2.GaussianBlur(mask, (0, 0), 2.5)


def thin_changes(edited: np.ndarray, before: np.ndarray, least: float, full: float) -> np.ndarray:
    """Where an edited picture differs from what it was by something thin, such as rims of glasses: float32
    (256, 256) from 0 to 1, hardly wider than that.

    Args:
        edited, before: uint8 (s, s, 3).
        least, full: by how much a difference, of 255, exceeds the broad ones around it, up to which nothing
            counts, and from which all does.
    """
    difference = _largest(np.abs(_difference(edited, before)))
    broad = cv2.morphologyEx(cv2.GaussianBlur(difference, (0, 0), 0.7), cv2.MORPH_OPEN, disc(THIN))
    return cv2.GaussianBlur(cv2.dilate(ramp(difference - broad, least, full), disc(5)), (0, 0), 1)


class Flow:
    """Where each place of an edited picture comes from.

    Args:
        flow: (2, h, w) float32, x first, in half pictures; see `dystyle.encoders.carrier.warp`.
        small_too: whether small moves are moves; else what hardly moves keeps its very pixels.
    """

    def __init__(self, flow: np.ndarray, small_too: bool = False) -> None:
        self.flow, self.small_too = flow, small_too
        self._places: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}

    def move(self, picture: np.ndarray) -> np.ndarray:
        """A picture (s, s, 3) uint8 or map (s, s) float32, moved; itself where nothing moves."""
        size = len(picture)
        if size not in self._places:
            length = cv2.magnitude(*self.flow)
            strength = np.sign(length) if self.small_too else ramp(length, STILL, MOVING)
            self._places[size] = self._places_of(self.flow * strength, size) if strength.any() else None
        if (places := self._places[size]) is None:
            return picture
        method = cv2.INTER_CUBIC if picture.ndim == 3 else cv2.INTER_LINEAR  # maps end at 0 and 1
        return cv2.remap(picture, *places, method, borderMode=cv2.BORDER_REPLICATE)

    def carry(self, features: np.ndarray) -> np.ndarray:
        """Features by place, see `by_place`, moved however little: (c, h, w) float32, as
        `dystyle.encoders.carrier.warp` does but for the 32nd of a place that OpenCV rounds to."""
        groups, size, _, channels = features.shape
        moved = np.empty((groups, channels, size * size), np.float32)
        group, places = np.empty_like(features[0]), self._places_of(self.flow, size)
        for own, out in zip(features, moved, strict=True):
            cv2.remap(own, *places, cv2.INTER_LINEAR, dst=group, borderMode=cv2.BORDER_REPLICATE)
            cv2.transpose(group.reshape(-1, channels), dst=out)
        return moved.reshape(-1, size, size)

    @staticmethod
    def _places_of(flow: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of where the places of a picture come from, (size, size) each."""
        columns, rows = (cv2.resize(axis * np.float32(size / 2), (size, size)) for axis in flow)
        places = np.arange(size, dtype=np.float32)
        return columns + places, rows + places[:, None]


@dataclass(frozen=True, eq=False)
class Carried:
    """What of a face's features a flow carries: (c, h, w) float16 each."""

    residual: np.ndarray
    sampled: np.ndarray


@lru_cache(AT_HAND)
def by_place(carried: Carried) -> tuple[np.ndarray, np.ndarray]:
    """Residual and sampled features as OpenCV moves them, (c / GROUP, h, w, GROUP) float32 each; of the last
    few faces they are at hand."""
    groups = (x.reshape(-1, GROUP, *x.shape[1:]) for x in (carried.residual, carried.sampled))
    residual, sampled = (np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float32) for x in groups)
    return residual, sampled


def widened(places: np.ndarray) -> np.ndarray:
    """A map (h, w) from 0 to 1, `WIDER` places wider and soft at its edges."""
    grown = cv2.dilate(places, np.ones((2 * WIDER + 1, 2 * WIDER + 1)))
    return cv2.blur(grown, (3, 3), borderType=cv2.BORDER_REPLICATE)


def complexion(edited: np.ndarray, own: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """An edited picture, uint8 (s, s, 3), with the broad colours of another one, but its own lightness.

    Args:
        own: uint8 (s, s, 3). skin: float32 (t, t) from 0 to 1, where. Where the pictures show different
            things, they say nothing of colours, and none change.
    """
    tint = _difference(own, edited)
    tint -= _thrice(cv2.cvtColor(tint, cv2.COLOR_RGB2GRAY))
    foreign = ramp(_largest(np.abs(_nearby(tint))), *FOREIGN)
    skin = cv2.resize(skin, (COARSE, COARSE)) * (1 - foreign)
    tint = cv2.resize(_broad(tint, skin), skin.shape) * _thrice(skin)
    return cv2.add(edited, cv2.resize(tint, edited.shape[:2]), dtype=cv2.CV_8U)


def corrected(
    edited: np.ndarray, own: np.ndarray, render: np.ndarray, ground: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """An edited picture without the errors that a render of the unedited one makes in broad colours.

    Args:
        edited: uint8 (s, s, 3). own, render: likewise, what is to be seen without the edit, and what the
            generator makes of it. ground, both: float32 (t, t) from 0 to 1, where the edited picture shows
            ground, and where all do: errors of a head that was there are not the ground's.
    """
    error = _difference(own, render)
    everywhere = _broad(error)
    there = _broad(error, cv2.resize(both, error.shape[:2]))
    error = everywhere + cv2.resize(ground, everywhere.shape[:2])[..., None] * (there - everywhere)
    return cv2.add(edited, cv2.resize(error, edited.shape[:2]), dtype=cv2.CV_8U)


def detailed(
    edited: np.ndarray,
    own: np.ndarray,
    render: np.ndarray,
    texture: np.ndarray | None = None,
    skin: np.ndarray | None = None,
) -> np.ndarray:
    """An edited picture with the fine structure, such as pores, hairs and stubble, that a render lacks.

    All of it where nothing changes, and what is faint where little does: lids have pores, but no lashes of an
    open eye. Skin that is drawn anew has a `texture` instead.

    Args:
        edited: uint8 (s, s, 3); the render itself where nothing is edited.
        own, render: what is to be seen without the edit, uint8 (t, t, 3), t >= s, and what the generator
            makes of it, (s, s, 3).
        texture: of `grain`; None: none. skin: float32 (u, u) from 0 to 1, where it is.
    """
    fine = _fine(own, render)
    if edited is not render:
        strength = cv2.resize(_largest(np.abs(fine)), (COARSE, COARSE), interpolation=cv2.INTER_AREA)
        faint = 1 - ramp(_nearby(strength), *FAINT)
        change = np.abs(_nearby(_difference(edited, render)))
        little = 1 - ramp(_largest(change), *REPLACED)
        kept = np.maximum(1 - changes(edited, render, *REPLACED), faint * little)
        fine *= _thrice(cv2.resize(kept, fine.shape[:2]))
        if texture is not None and skin is not None:
            anew = cv2.resize((1 - kept) * cv2.resize(skin, kept.shape), fine.shape[:2])
            times = -(-len(fine) // TILE)
            fine += np.tile(texture, (times, times, 1))[: len(fine), : len(fine)] * _thrice(anew)
    return cv2.add(edited, fine, dtype=cv2.CV_8U)


def grain(own: np.ndarray, render: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A texture like the fine structure of skin, (TILE, TILE, 3) float32, without a seam from edge to edge.

    White noise, filtered by a patch of skin (the asymptotic discrete spot noise of Galerne, Gousseau and
    Morel 2011): it is as strong, as coarse and as colourful as the patch, and repeats nothing of it.

    Args:
        own, render: as `detailed`'s.
        places: (n, 2), where skin is, in sides of the pictures; that with the least structure is taken, since
            hair or a rim may lie before the others.
    """
    fine, half = _fine(own, render), max(2, round(PATCH * len(render) / 2))
    centres = np.clip(np.rint(places * len(render)).astype(int), half, len(render) - half)
    patches = [fine[y - half : y + half, x - half : x + half] for x, y in centres]
    patch = min(patches, key=np.std)
    window = np.outer(*2 * [np.hanning(2 * half + 2)[1:-1]]).astype(np.float32)
    spot = (patch - patch.mean((0, 1))) * _thrice(window / np.linalg.norm(window))
    noise = np.random.default_rng(0).standard_normal((TILE, TILE)).astype(np.float32)
    around = np.pad(noise, half, mode="wrap")
    within = slice(half, half + TILE)
    return np.dstack([cv2.filter2D(around, -1, channel)[within, within] for channel in cv2.split(spot)])


def _fine(own: np.ndarray, render: np.ndarray) -> np.ndarray:
    """The fine structure that a render lacks, (s, s, 3) float32; see `detailed`."""
    fine = cv2.subtract(_shrunk(own, len(render)), render, dtype=cv2.CV_32F)
    return fine - cv2.GaussianBlur(fine, (0, 0), FINE * len(render) / COARSE)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of pictures (s, s, 3), small: (256, 256, 3) float32."""
    return cv2.subtract(_shrunk(a, COARSE), _shrunk(b, COARSE), dtype=cv2.CV_32F)


def _largest(x: np.ndarray) -> np.ndarray:
    """Of three channels (s, s, 3), the largest of each place: NumPy's `max` takes twenty times as long."""
    red, green, blue = cv2.split(x)
    return cv2.max(cv2.max(red, green), blue)


def disc(size: int) -> np.ndarray:
    """A kernel (size, size) for dilating and eroding."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 at `low` to 1 at `high`."""
    return np.clip((x - low) / (high - low), 0, 1)


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    if len(picture) == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _nearby(x: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), NEARBY)


def _thrice(x: np.ndarray) -> np.ndarray:
    """A map (s, s) for three channels: NumPy broadcasts into the last axis five times as slowly."""
    return cv2.merge([x, x, x])


def _broad(x: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """What is broad in maps (256, 256, 3), (64, 64, 3); of a `weight`, (256, 256), of what has one."""
    if weight is not None:
        return _broad(x * _thrice(weight)) / (_broad(weight)[..., None] + 0.01)
    small = cv2.resize(x, (COARSE // 4, COARSE // 4), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), COMPLEXION / 4)


def composite(edited: np.ndarray, portrait: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The portrait's own pixels where the mask is 0, those of the edited picture where it is 1.

    Args:
        edited: uint8 (s, s, 3). portrait: uint8 (t, t, 3), t >= s. mask: float32 (u, u).

    Returns:
        uint8 (s, s, 3).
    """
    size = (len(edited), len(edited))
    own = _shrunk(portrait, len(edited))
    alpha = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    return cv2.blendLinear(edited, own, alpha, 1 - alpha)
