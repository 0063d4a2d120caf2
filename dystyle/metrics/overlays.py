"""What no code of a generator's gives: hats, hands, strange hair, patterned grounds, microphones, as blobs
of other pictures or of patterns, laid over a portrait.
"""

from collections.abc import Sequence

import cv2
import numpy as np

# Shares of what overlays show: parts of other pictures, then stripes, checks, and otherwise blotches.
PICTURES, STRIPES, CHECKS = 0.55, 0.2, 0.1


def cover(
    rng: np.random.Generator, picture: np.ndarray, pictures: Sequence[np.ndarray], most: int = 3
) -> np.ndarray:
    """A picture (s, s, 3) uint8 RGB with one to `most` overlays; `pictures` as in `overlay`."""
    covered = picture.astype(np.float32)
    for _ in range(rng.integers(1, most + 1)):
        content, mask = overlay(rng, pictures, len(picture))
        covered += (content - covered) * mask[..., None]
    return covered.round().clip(0, 255).astype(np.uint8)


def overlay(
    rng: np.random.Generator, pictures: Sequence[np.ndarray], size: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """One overlay, drawn at random.

    Args:
        pictures: (s, s, 3) uint8 RGB each, to take parts of; without any there are only patterns.

    Returns:
        Its content (size, size, 3) float32, 0..255, and how much of it is seen (size, size) float32, 0..1.
    """
    if len(pictures) and rng.random() < PICTURES:
        content = _part(rng, pictures[int(rng.integers(len(pictures)))], size)
    else:
        content = _pattern(rng, size)
    return content, _blob(rng, size)


def _blob(rng: np.random.Generator, size: int) -> np.ndarray:
    """A mask (size, size): an ellipse anywhere with a ragged edge, sharp or soft."""
    axis = np.arange(size, dtype=np.float32) / size
    x, y = rng.uniform(0, 1, 2).astype(np.float32)
    radius, stretch = np.float32(rng.uniform(0.1, 0.32)), np.float32(np.exp(rng.normal(0, 0.5)))
    distance = ((axis - x) / (radius * stretch)) ** 2 + ((axis[:, None] - y) / (radius / stretch)) ** 2
    ragged = _smooth(rng.standard_normal((int(rng.integers(3, 7)),) * 2), size)
    return ((1 - distance + 0.6 * ragged) * np.float32(rng.uniform(4, 40))).clip(0, 1)


def _part(rng: np.random.Generator, picture: np.ndarray, size: int) -> np.ndarray:
    """A picture turned, zoomed and shifted, mirrored at its borders."""
    middle = len(picture) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), rng.uniform(0, 360), np.exp(rng.normal(0, 0.5)))
    matrix[:, 2] += size / 2 - middle + rng.uniform(-0.3, 0.3, 2) * size
    return cv2.warpAffine(picture, matrix, (size, size), borderMode=cv2.BORDER_REFLECT).astype(np.float32)


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes, checks or blotches of two colours under uneven light."""
    axis, angle, kind = np.arange(size, dtype=np.float32), np.float32(rng.uniform(0, np.pi)), rng.random()
    along = axis * np.cos(angle) + axis[:, None] * np.sin(angle)
    across = axis * np.sin(angle) - axis[:, None] * np.cos(angle)
    waves = [np.sin(a / np.float32(rng.uniform(0.006, 0.06) * size)) for a in (along, across)]
    stripes, checks = (share / (1 - PICTURES) for share in (STRIPES, CHECKS))
    if kind < stripes:
        mask = waves[0] > rng.uniform(-0.5, 0.5)
    elif kind < stripes + checks:
        mask = (waves[0] > 0) ^ (waves[1] > 0)
    else:
        mask = _smooth(rng.random((int(rng.integers(8, 128)),) * 2), size)
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    content = colours[1] + (colours[0] - colours[1]) * mask.astype(np.float32)[..., None]
    content *= _smooth(rng.uniform(0.6, 1.2, (3, 3)), size)[..., None]
    return cv2.GaussianBlur(content, (0, 0), rng.uniform(0.1, 3.1)).clip(0, 255)


def _smooth(knots: np.ndarray, size: int) -> np.ndarray:
    """Values (k, k) as a smooth field (size, size)."""
    return cv2.resize(knots.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
