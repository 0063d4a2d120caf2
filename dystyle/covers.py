"""What covers the mouth: a mask, fingers, a microphone. An edit would draw a mouth onto it."""

import cv2
import numpy as np

SIZE = 256  # px at which portraits are compared
MOUTH = (slice(166, 186), slice(108, 148))  # where alignment puts it
FACE, SKIN = (slice(90, 200), slice(80, 176)), (slice(112, 136), slice(88, 168))
# In 250 portraits with a visible mouth, colours differ by at most 13 there from what their codes give (units
# of a* and b*, less what all of the face differs by), and lightness correlates by at least .34.
FOREIGN, ALIKE = 16.0, 0.3
COLOURS, STRUCTURE, SURROUNDINGS = 6, 2, 10  # px, standard deviations of Gaussians
FLAT = 4.0  # variance of lightness that is no structure
REACH = np.array((60, 44))  # px, half axes of what is kept around a mouth that is covered, and of its colour
FARTHEST = 1.7  # times as far
UNLIKE_SKIN = 15.0  # of L*a*b*, from which on its colour tells what covers


def cover_of(portrait: np.ndarray, render: np.ndarray) -> np.ndarray | None:
    """Which part of a portrait something covers that its code does not know, if it covers the mouth.

    Args:
        portrait, render: (256, 256, 3) uint8 RGB, and the picture of its code alone.

    Returns:
        (256, 256) float32 from 0 to 1, what covers; None if the mouth is visible.
    """
    seen, known = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (portrait, render))
    difference = _blur(seen, COLOURS) - _blur(known, COLOURS)
    difference -= np.median(difference[FACE].reshape(-1, 3), 0)
    foreign = np.hypot(difference[..., 1], difference[..., 2])
    if foreign[MOUTH].mean() < FOREIGN and _correlation(seen[..., 0], known[..., 0])[MOUTH].mean() > ALIKE:
        return None
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centre = [(part.start + part.stop) / 2 for part in MOUTH]
    distance = np.hypot((columns - centre[1]) / REACH[0], (rows - centre[0]) / REACH[1])
    cover = distance < 1
    seen = _blur(seen, STRUCTURE)
    own, skin = (np.median(seen[part].reshape(-1, 3), 0) for part in (MOUTH, SKIN))
    if np.linalg.norm(own - skin) > UNLIKE_SKIN:
        alike = np.linalg.norm(seen - own, axis=2) < np.linalg.norm(seen - skin, axis=2)
        _, parts = cv2.connectedComponents((alike & (distance < FARTHEST)).astype(np.uint8))
        cover |= (parts == np.bincount(parts[MOUTH].ravel()).argmax()) & (parts > 0)
    return _blur(cover.astype(np.float32), STRUCTURE)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two maps (h, w) around each place."""
    a, b = _blur(a, STRUCTURE), _blur(b, STRUCTURE)
    means = _blur(a, SURROUNDINGS), _blur(b, SURROUNDINGS)
    spread = [_blur(x * x, SURROUNDINGS) - mean * mean + FLAT for x, mean in zip((a, b), means, strict=True)]
    return (_blur(a * b, SURROUNDINGS) - means[0] * means[1]) / np.sqrt(spread[0] * spread[1])


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), sigma)
