"""What an edited portrait is put together of: the generator's picture, the photo's pixels and structure."""

import cv2
import numpy as np

COARSE = 256  # resolution of masks and blurs
STILL, MOVING = 0.01, 0.03  # half pictures, up to which a move is none, and from which it is whole
FINE = 0.75  # px of 256, standard deviation of the blur that fine structure does not survive
# Differences, of 255, up to which fine structure stays as it is, and from which on none does; its strength up
# to which it is faint, and from which on an edge of something; px of 256, deviation of the blur of both.
REPLACED, FAINT, NEARBY = (8.0, 24.0), (9.0, 14.0), 2
FOREIGN = (25.0, 50.0)  # of 255: by how much tints of different things differ at least, and for sure
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
    size = (COARSE, COARSE)
    if blur:
        first, second = (
            cv2.GaussianBlur(cv2.resize(x, size, interpolation=cv2.INTER_AREA), (0, 0), blur)
            for x in (edited, before)
        )
        difference = _largest(cv2.absdiff(first, second)).astype(np.float32)
    else:
        difference = _largest(cv2.absdiff(edited, before)).astype(np.float32)
        difference = cv2.resize(difference, size, interpolation=cv2.INTER_AREA)
    mask = np.clip((difference - least) / (full - least), 0, 1)
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return cv2.GaussianBlur(mask, (0, 0), 2.5)


def move(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A picture or map (s, s, ...), each place taken from where a flow says; itself where nothing moves.

    Args:
        flow: (2, h, w) float32, x first, in half pictures; see `dystyle.encoders.carrier.warp`. Small moves
            are none: what hardly moves keeps its very pixels.
    """
    size = len(picture)
    columns, rows = (cv2.resize(axis, (size, size), interpolation=cv2.INTER_LINEAR) for axis in flow)
    strength = np.clip((np.hypot(columns, rows) - STILL) / (MOVING - STILL), 0, 1) * np.float32(size / 2)
    if not strength.any():
        return picture
    places = np.arange(size, dtype=np.float32)
    columns, rows = places + columns * strength, places[:, None] + rows * strength
    return cv2.remap(picture, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def complexion(edited: np.ndarray, own: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """An edited picture, uint8 (s, s, 3), with the broad colours of another one, but its own lightness.

    Args:
        own: uint8 (s, s, 3). skin: float32 (t, t) from 0 to 1, where. Where the pictures show different
            things, they say nothing of colours, and none change.
    """
    tint = _difference(own, edited)
    tint -= cv2.cvtColor(tint, cv2.COLOR_RGB2GRAY)[..., None]
    foreign = _ramp(_largest(np.abs(_nearby(tint))), *FOREIGN)
    skin = (cv2.resize(skin, (COARSE, COARSE)) * (1 - foreign))[..., None]
    tint = _broad(tint * skin) / (_broad(skin)[..., None] + 0.01) * skin
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
    grounds, known = (cv2.resize(x, error.shape[:2])[..., None] for x in (ground, both))
    there = _broad(error * known) / (_broad(known)[..., None] + 0.01)
    everywhere = _broad(error)
    error = everywhere + grounds * (there - everywhere)
    return cv2.add(edited, cv2.resize(error, edited.shape[:2]), dtype=cv2.CV_8U)


def detailed(edited: np.ndarray, own: np.ndarray, render: np.ndarray) -> np.ndarray:
    """An edited picture with the fine structure, such as pores, hairs and stubble, that a render lacks.

    All of it where nothing changes, and what is faint where little does: lids have pores, but no lashes of an
    open eye.

    Args:
        edited: uint8 (s, s, 3); the render itself where nothing is edited.
        own, render: what is to be seen without the edit, uint8 (t, t, 3), t >= s, and what the generator
            makes of it, (s, s, 3).
    """
    fine = cv2.subtract(_shrunk(own, len(edited)), render, dtype=cv2.CV_32F)
    fine -= cv2.GaussianBlur(fine, (0, 0), FINE * len(edited) / COARSE)
    if edited is not render:
        strength = cv2.resize(_largest(np.abs(fine)), (COARSE, COARSE), interpolation=cv2.INTER_AREA)
        faint = 1 - _ramp(_nearby(strength), *FAINT)
        change = np.abs(_nearby(_difference(edited, render)))
        little = 1 - _ramp(_largest(change), *REPLACED)
        kept = np.maximum(1 - changes(edited, render, *REPLACED), faint * little)
        fine *= cv2.resize(kept, fine.shape[:2])[..., None]
    return cv2.add(edited, fine, dtype=cv2.CV_8U)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of pictures (s, s, 3), small: (256, 256, 3) float32."""
    size = (COARSE, COARSE)
    first, second = (cv2.resize(x, size, interpolation=cv2.INTER_AREA).astype(np.float32) for x in (a, b))
    return first - second


def _largest(x: np.ndarray) -> np.ndarray:
    """Of three channels (s, s, 3), the largest of each place: NumPy's `max` takes twenty times as long."""
    red, green, blue = cv2.split(x)
    return cv2.max(cv2.max(red, green), blue)


def _ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 at `low` to 1 at `high`."""
    return np.clip((x - low) / (high - low), 0, 1)


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    if len(picture) == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _nearby(x: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), NEARBY)


def _broad(x: np.ndarray) -> np.ndarray:
    """What is broad in maps (256, 256, ...), computed at a quarter of their size."""
    small = cv2.resize(x, (COARSE // 4, COARSE // 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), COMPLEXION / 4), (COARSE, COARSE))


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
