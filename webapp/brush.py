"""What a visitor paints onto a portrait to keep it as it is: a mask that travels as a short text.

The text is base64 of a zlib stream of one bit for each of 256 x 256 pixels, row by row; see `brush.js`.
"""

import base64
import binascii
import zlib

import numpy as np

from dystyle.errors import InputError
from dystyle.faces import MASK

BYTES = MASK * MASK // 8
LONGEST = 2 * BYTES  # characters; what does not compress has 11 k


def to_text(mask: np.ndarray | None) -> str:
    """The text of a mask, (256, 256) from 0 to 1; "" of none."""
    if mask is None:
        return ""
    return base64.b64encode(zlib.compress(np.packbits(mask > 0.5).tobytes())).decode()


def from_text(text: str) -> np.ndarray | None:
    """The mask of a text, bool (256, 256).

    Raises:
        InputError: it is not such a text.
    """
    if not text:
        return None
    try:
        if len(text) > LONGEST:
            raise ValueError
        stream = zlib.decompressobj()
        bits = stream.decompress(base64.b64decode(text, validate=True), BYTES + 1)
        if len(bits) != BYTES or not stream.eof:
            raise ValueError
    except (ValueError, TypeError, binascii.Error, zlib.error):
        raise InputError("What was painted cannot be read; paint it again.") from None
    return np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(MASK, MASK).astype(bool)
