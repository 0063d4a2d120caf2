"""Black-and-white and sepia photos: a generator knows colour photos, and gives a grey face pink lips."""

import cv2
import numpy as np

SIZE = 256  # px at which a photo is judged
FAITHFUL = 2.5  # of 255, root mean square by which colours may differ from those of their lightness
DEGREE = 3  # of the polynomials of lightness that give red, green and blue


def tone_of(portrait: np.ndarray) -> np.ndarray | None:
    """The colour of each lightness in a picture of one tone: grey, sepia or another one.

    Args:
        portrait: (s, s, 3) uint8 RGB.

    Returns:
        (256, 3) uint8 RGB by lightness (`cv2.COLOR_RGB2GRAY`); None if the picture has colours of its own.
    """
    small = cv2.resize(portrait, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    light = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).ravel().astype(np.float64) / 255
    colours = small.reshape(-1, 3).astype(np.float64)
    powers = np.vander(light, DEGREE + 1)
    fitted, *_ = np.linalg.lstsq(powers, colours, rcond=None)
    if np.sqrt(np.square(powers @ fitted - colours).mean()) > FAITHFUL:
        return None
    # Beyond what the picture shows, a polynomial says nothing: its ends go on with the slope of lightness.
    levels = np.arange(256) / 255
    inside = levels.clip(*np.quantile(light, (0.002, 0.998)))
    table = np.vander(inside, DEGREE + 1) @ fitted + 255 * (levels - inside)[:, None]
    return np.rint(table).clip(0, 255).astype(np.uint8)


def toned(picture: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """A picture (s, s, 3) uint8 RGB in the colours (256, 3) of its lightness."""
    return tone[cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)]
