"""Real pictures for training a generator: a folder or a zip file, read while the training runs."""

import lzma
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

from dystyle.errors import InputError
from dystyle.pictures import is_named_like_a_picture, is_picture, load_image

READERS = 4  # threads; decoders do not hold Python's lock
AHEAD = 2  # batches read before they are asked for
MAX_BYTES = 100_000_000  # of one picture's file, unpacked
NAMED = 5  # pictures left out that are reported by name
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1  # of a zip entry's flags
# What reading a picture raises: `InputError` is a ValueError, and so is what is wrong with a path in a zip.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
)


class Pictures:
    """The pictures of a folder (with its subfolders) or of a zip file, in the order of their names.

    All are looked at, but not decoded, at the start: those that cannot be used are left out and reported.
    Hidden files are no pictures, nor are those that macOS keeps beside them (`._*`, `__MACOSX`).

    Args:
        size: pixels; pictures of other sizes and shapes are cropped in the middle and resampled (Lanczos).
        mirror: every picture counts a second time, mirrored.

    Raises:
        InputError: there is no such folder or zip file, or it holds no pictures.
    """

    def __init__(self, source: Path, size: int, mirror: bool = False) -> None:
        self.source, self.size, self.mirror = source, size, mirror
        self._damaged: set[str] = set()
        self._lock = Lock()
        if source.is_dir():
            self._files = {
                path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()
            }
        elif source.is_file() and zipfile.is_zipfile(source):
            try:
                self._archive = zipfile.ZipFile(source)
            except _DAMAGED as error:
                raise InputError(f"The zip file '{source}' is damaged ({error}); pack it again.") from error
            self._files = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}
        else:
            raise InputError(f"'{source}' is neither a folder nor a zip file; give one that holds pictures.")
        names = sorted(name for name in self._files if is_named_like_a_picture(name))
        reasons = {name: reason for name in names if (reason := self._unusable(name))}
        self.names = [name for name in names if name not in reasons]
        if reasons:
            some = [f"{name} ({reason})" for name, reason in list(reasons.items())[:NAMED]]
            more = [f"and {len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
            _say(f"{source}: left out {len(reasons)} of {len(names)}: {', '.join(some + more)}")
        if not self.names:
            raise InputError(
                f"'{source}' holds no pictures that can be used; give PNG, JPEG, WebP, BMP or TIFF files."
            )

    def _unusable(self, name: str) -> str | None:
        """Why a picture cannot be used, as far as its first bytes tell; None if it may be."""
        file = self._files[name]
        if isinstance(file, Path):
            size = file.stat().st_size
        else:
            size = file.file_size
            if file.flag_bits & _ENCRYPTED:
                return "encrypted"
            if file.compress_type not in _METHODS:
                return "packed by an unknown method"
        if size > MAX_BYTES:
            return f"{size // 10**6} MB"
        try:
            with file.open("rb") if isinstance(file, Path) else self._archive.open(file) as stream:
                return None if is_picture(stream.read(32)) else "not a picture"
        except _DAMAGED as error:
            return str(error) or "damaged"

    def _read(self, name: str) -> bytes:
        file = self._files[name]
        return file.read_bytes() if isinstance(file, Path) else self._archive.read(file)

    def __len__(self) -> int:
        return len(self.names) * (2 if self.mirror else 1)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture (size, size, 3) uint8 RGB; the second half of the indices are the mirrored ones.

        Raises:
            InputError: a damaged file, which is named.
        """
        name = self.names[index % len(self.names)]
        try:
            picture = Image.fromarray(load_image(self._read(name), smallest=1))
        except _DAMAGED as error:
            raise InputError(f"'{name}' in '{self.source}' cannot be read: {error}") from error
        picture = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(ImageOps.mirror(picture) if index >= len(self.names) else picture)

    def batches(
        self, batch: int, seed: int, start: int = 0, process: int = 0, processes: int = 1
    ) -> Iterator[np.ndarray]:
        """Shuffled batches (batch, size, size, 3) without end, every picture once an epoch.

        The order depends on the seed alone, so a training goes on from batch `start` as if it had not
        stopped, and every process takes its own part of a step's pictures. In place of a damaged picture,
        which is reported, comes the next one.

        Raises:
            InputError: all are damaged.
        """
        with ThreadPoolExecutor(READERS) as pool:
            waiting = deque()
            for step in count(start):
                first = (step * processes + process) * batch
                indices = self._shuffled(np.arange(first, first + batch), seed)
                waiting.append([pool.submit(self._next_good, index) for index in indices])
                if len(waiting) > AHEAD:
                    yield np.stack([picture.result() for picture in waiting.popleft()])

    def _next_good(self, index: int) -> np.ndarray:
        """The picture of this index, or the first one behind it that is not damaged."""
        for offset in range(len(self.names)):
            # Among the mirrored ones a mirrored one follows.
            name = (index + offset) % len(self.names)
            try:
                return self[name + (len(self.names) if index >= len(self.names) else 0)]
            except InputError as error:
                with self._lock:
                    if self.names[name] not in self._damaged:
                        self._damaged.add(self.names[name])
                        _say(f"Left out: {error}")
        raise InputError(f"All pictures in '{self.source}' are damaged; give others.")

    def _shuffled(self, positions: np.ndarray, seed: int) -> np.ndarray:
        """Indices at positions of the endless order, which is a new permutation in every epoch."""
        epochs, places = np.divmod(positions, len(self))
        pairs = zip(epochs.tolist(), places, strict=True)
        return np.array([_permutation(len(self), seed, epoch)[place] for epoch, place in pairs])


@lru_cache(2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
