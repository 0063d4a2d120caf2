"""A face of a photo: its code, and whatever else of the photo has to be carried. It can be kept as a file.

The file is safetensors: the face's arrays under their names, weights tuned to it under `tuned.NAME`, and in
the metadata what it is, its version, where the face comes from, and a checksum. The version is that of the
first program which could read it. Files come from strangers: what the header says is checked before anything
of the size it says is read.
"""

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dystyle.errors import InputError
from dystyle.pictures import MAX_BYTES, load_image, read_file, write_file

REFINE = ("fast", "balanced", "precise")
COVERED = "Something seems to cover the mouth; that part of the photo stays as it is."
ENDING = ".safetensors"
FORMAT = "dystyle-face"
VERSIONS = ("1", "2")  # in the second, a part of the photo may be protected
TUNED = "tuned."
MOST_HEADER, MOST_TUNED = 2**16, 2**26  # bytes; what is tuned of a StyleGAN2 has 46 MB
MOST_OTHERS = 1000
MASK = 256  # px of what is covered or protected
FARTHEST = 2**17  # px from the photo's corner
# The types and shapes of a file's arrays, with the most that they may hold where that varies.
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "code": ("F32", (18, 512)),
    "portrait": ("U8", (1024, 1024, 3)),
    "quad": ("F32", (4, 2)),
    "box": ("F32", (4,)),
    "residual": ("F16", (512, 64, 64)),
    "tone": ("U8", (256, 3)),
    "cover": ("F32", (256, 256)),
    "protected": ("F32", (256, 256)),
    "others": ("F32", (MOST_OTHERS, 468, 2)),
    "landmarks": ("F32", (468, 2)),
    "photo": ("U8", (MAX_BYTES,)),
}
NEEDED, VARYING = {"code", "portrait", "quad", "box"}, {"others", "photo"}


@dataclass(frozen=True)
class InvertedFace:
    """A face of a photo and its code.

    Attributes:
        code: (18, 512) float32, W+.
        portrait: (1024, 1024, 3) uint8 RGB, the aligned face.
        quad: (4, 2) float32, the portrait's corners in the photo: top-left, bottom-left, bottom-right,
            top-right, in pixels.
        box: (4,) float32, the face's box in the photo: x0, y0, x1, y1 in pixels.
        tuned: weights of the generator that `refine="precise"` fitted to this face, float32 by name.
        residual: (512, 64, 64) float16, what of the portrait the code lacks, as an offset of the generator's
            features (see `dystyle.encoders.features`); None where the weights are tuned, or the encoder or
            generator is not the bundled one.
        tone: (256, 3) uint8, of a black-and-white or sepia photo the colours by lightness (`dystyle.tone`).
        cover: (256, 256) float32 from 0 to 1, what covers the mouth, which edits leave as it is
            (`dystyle.covers`); None if the mouth is visible.
        protected: (256, 256) float32 from 0 to 1, what no edit may touch, see `protect`; None: nothing.
        others: (n, 468, 2) float32, landmarks of other faces of the photo that reach into the quad, which
            `FaceEditor.paste` protects.
        index, refine: which of the photo's faces this is, and how it was inverted, see `FaceEditor.invert`.
        generator: the name of the one it was inverted for, to which `tuned` belongs.
        photo_id: the photo's `fingerprint`.
        photo: the photo's file, where it was saved with the face.
        landmarks: (468, 2) float32, the points of the face mesh in the photo, by which
            `FaceEditor.synthesize` finds where an edit has business; None: not known.
        kept: what `FaceEditor.synthesize` keeps here, float32 where nothing else is said: the code's features
            with their residual ("restored", (1, 512, 64, 64) float16), and what the carrier has to know
            ("carried", see `dystyle.compositing.Carried`, "read" and "unmoved", see
            `dystyle.engines.graphs`); of the portrait, what is ground, things and hair by its features
            ("parts", (3, 64, 64)), where it shows people and hair by its pixels ("person" and "hair",
            (256, 256)), glasses and their rims ("worn", (2, 256, 256); None: none), its "relief"
            (`dystyle.relief`), the "colours" of its hair and of the code's, and of the latter at the end of a
            range ("colours age 75");
            uint8 (size, size, 3), pictures of the code by size, "shown SIZE" with the photo's fine structure,
            and the photo's, "own SIZE", and "shown unturned SIZE", what else than its pose is edited, behind
            what that is made of; and the "places" of the last edit, beside which attributes it turns up or
            down.
        readings: of the portrait, by attribute.
        gains: how many times as far its edits go, by attribute and whether upward.

    `FaceEditor.synthesize` uses tuned weights, residual, tone, cover and protected when it is given the face.
    """

    code: np.ndarray
    portrait: np.ndarray
    quad: np.ndarray
    box: np.ndarray
    tuned: Mapping[str, np.ndarray] = field(default_factory=dict)
    residual: np.ndarray | None = None
    tone: np.ndarray | None = None
    cover: np.ndarray | None = None
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, 468, 2), np.float32))
    index: int = 0
    refine: str = "fast"
    generator: str = ""
    photo_id: str = ""
    photo: bytes | None = field(default=None, repr=False)
    landmarks: np.ndarray | None = None
    protected: np.ndarray | None = None
    kept: dict[str | int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    readings: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    gains: dict[tuple[str, bool], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What whoever edits this face should know, one sentence each."""
        return () if self.cover is None else (COVERED,)

    def protect(self, mask: np.ndarray | None) -> "InvertedFace":
        """The same face with a part of its portrait that stays the photo's own in every edit: a hat, a hand.

        It stays where it is, also where an edit turns the head.

        Args:
            mask: (s, s) of the portrait, s 64 or more: bool, or numbers from 0 (edited) to 1 (the photo's).
                None, or one without any of it, lifts the protection.

        Raises:
            InputError: another shape, other values.
        """
        if mask is not None:
            mask = np.asarray(mask)
            square = mask.ndim == 2 and mask.shape[0] == mask.shape[1] and len(mask) >= 64
            if not (square and mask.dtype.kind in "biuf" and mask.min() >= 0 and mask.max() <= 1):
                raise InputError("Give a square mask, of 64 px or more, with numbers from 0 to 1.")
            mask = mask.astype(np.float32)
            if len(mask) != MASK:
                mask = cv2.resize(mask, (MASK, MASK), interpolation=cv2.INTER_AREA)
        other = copy.copy(self)
        # What is kept does not depend on the mask, but for the unedited pictures.
        kept = {name: value for name, value in self.kept.items() if not str(name).startswith("shown")}
        object.__setattr__(other, "kept", kept)
        object.__setattr__(other, "protected", mask if mask is not None and mask.any() else None)
        return other

    def save(self, path: str | os.PathLike[str], photo=None) -> None:
        """Write the face to a file, complete or not at all: 7.4 MB, and the photo. `load` reads it.

        Args:
            path: ends in ".safetensors".
            photo: to be kept in the file, too, with all that its own file carries (place and time, maybe):
                its path, a file object, or its contents.

        Raises:
            InputError: another ending, a folder that cannot be written to, or as `encode`.
        """
        check_name(path)
        write_file(self.encode(photo), Path(path))

    def encode(self, photo=None) -> bytes:
        """The file that `save` writes.

        Raises:
            InputError: `photo` cannot be read, or is not the one in which the face was found.
        """
        contents = self.photo
        if photo is not None:
            contents = read_file(photo)[1]
            if fingerprint(load_image(contents)) != self.photo_id:
                raise InputError("This face was found in another photo; give that one.")
        arrays = {name: getattr(self, name) for name in ARRAYS.keys() - {"photo"}}
        arrays |= {"photo": None if contents is None else np.frombuffer(contents, np.uint8)}
        arrays |= {f"{TUNED}{name}": weight for name, weight in self.tuned.items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
        version = VERSIONS[self.protected is not None]
        about = {"format": FORMAT, "version": version, "index": str(self.index), "refine": self.refine}
        about |= {"generator": self.generator, "photo": self.photo_id}
        return save(arrays, about | {"sha256": _checksum(arrays, about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "InvertedFace":
        """The face in a file: edited, it gives the same pictures as the one that was saved, bit for bit.

        Raises:
            InputError: the file cannot be read, holds something else, is damaged, or comes from a newer
                version.
        """
        name = f"'{os.fspath(path)}'"
        damaged = InputError(f"{name} is damaged or incomplete; save the face again.")
        _check_start(path, name)
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                _check_kind(about, name)
                shapes = {key: file.get_slice(key) for key in file.keys()}
                if not _is_whole({k: (s.get_dtype(), tuple(s.get_shape())) for k, s in shapes.items()}):
                    raise damaged
                arrays = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise damaged from error
        if about.pop("sha256", "") != _checksum(arrays, about) or not _is_sound(arrays, about):
            raise damaged
        tuned = {key.removeprefix(TUNED): arrays.pop(key) for key in sorted(arrays) if key.startswith(TUNED)}
        photo = arrays.pop("photo", None)
        return cls(
            **arrays,
            tuned=tuned,
            index=int(about["index"]),
            refine=about["refine"],
            generator=about["generator"],
            photo_id=about["photo"],
            photo=None if photo is None else photo.tobytes(),
        )


def is_face_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is taken for a face's: by its ending."""
    return os.fspath(path).lower().endswith(ENDING)


def check_name(path: str | os.PathLike[str]) -> None:
    """Find out before the work whether a face can be saved under this name.

    Raises:
        InputError: it has another ending.
    """
    if not is_face_file(path):
        raise InputError(f"'{os.fspath(path)}' is no name for a face's file; let it end in {ENDING}.")


def fingerprint(pixels: np.ndarray) -> str:
    """64 hexadecimal digits that tell a photo's pixels, uint8 (h, w, 3), from others."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _check_start(path: str | os.PathLike[str], name: str) -> None:
    """A safetensors file begins with the length of its header, which is read as a whole."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}); check the path.") from error
    if not 0 < length <= MOST_HEADER:
        raise InputError(f"{name} is not a face's file; give one that was saved as such.")


def _check_kind(about: Mapping[str, str], name: str) -> None:
    if about.get("format") != FORMAT:
        raise InputError(f"{name} holds something else than a face; give a file that was saved as one.")
    if about.get("version") not in VERSIONS:
        raise InputError(f"{name} comes from a newer version of DyStyle Studio; update this one.")


def _is_whole(found: Mapping[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether these types and shapes are those of a face's arrays."""
    tuned = [value for name, value in found.items() if name.startswith(TUNED)]
    size = sum(4 * math.prod(shape) for _, shape in tuned)
    return (
        found.keys() >= NEEDED
        and size <= MOST_TUNED
        and all(kind == "F32" for kind, _ in tuned)
        and all(_is_as_described(name, *found[name]) for name in found if not name.startswith(TUNED))
    )


def _is_as_described(name: str, kind: str, shape: tuple[int, ...]) -> bool:
    wanted, most = ARRAYS.get(name, ("", ()))
    if name in VARYING:
        return kind == wanted and shape[1:] == most[1:] and len(shape) == len(most) and shape[0] <= most[0]
    return (kind, shape) == (wanted, most)


def _is_sound(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bool:
    """Whether the numbers can be computed with: a file may be made up, with its checksum."""
    places = [arrays[name] for name in ("quad", "box", "others", "landmarks") if name in arrays]
    return (
        all(np.isfinite(array).all() for array in arrays.values() if array.dtype != np.uint8)
        and all(np.abs(points).max(initial=0) <= FARTHEST for points in places)
        and cv2.contourArea(arrays["quad"]) >= 1
        and re.fullmatch(r"\d{1,4}", about.get("index", "")) is not None
        and about.get("refine") in REFINE
        and len(about.get("generator", "x" * 999)) < 200
        and re.fullmatch(r"[0-9a-f]{64}", about.get("photo", "")) is not None
    )


def _checksum(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
