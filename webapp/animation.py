"""Short films of an edit, from the unedited face to the edited one and back."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image

from dystyle.provenance import Credit

FRAMES_PER_SECOND = 12
SIDES = {"mp4": 512, "gif": 320}


def film(frames: Sequence[np.ndarray], kind: str, credit: Credit) -> bytes:
    """Encode uint8 (H, W, 3) pictures of one size as a loop that runs forth and back.

    Args:
        kind: "mp4" (H.264) or "gif".
        credit: its description becomes the film's comment.
    """
    small = [cv2.resize(f, (SIDES[kind], SIDES[kind]), interpolation=cv2.INTER_AREA) for f in frames]
    loop = [*small, *small[-2:0:-1]]
    return _gif(loop, credit) if kind == "gif" else _mp4(loop, credit)


def _gif(frames: list[np.ndarray], credit: Credit) -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame).quantize(192, Image.Quantize.MEDIANCUT) for frame in frames)
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=round(1000 / FRAMES_PER_SECOND),
        loop=0,
        comment=credit.description,
    )
    return buffer.getvalue()


def _mp4(frames: list[np.ndarray], credit: Credit) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = credit.description
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, FRAMES_PER_SECOND)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
