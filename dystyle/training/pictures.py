"""Real pictures for training a generator: a folder or a zip file, read while the training runs."""

import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dystyle.errors import InputError
from dystyle.pictures import load_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
READERS = 4  # threads; decoders do not hold Python's lock
AHEAD = 2  # batches read before they are asked for


class Pictures:
    """The pictures of a folder (with its subfolders) or of a zip file, in the order of their names.

    Args:
        size: pixels; pictures of other sizes and shapes are cropped in the middle and resampled (Lanczos).
        mirror: every picture counts a second time, mirrored.

    Raises:
        InputError: there is no such folder or zip file, or it holds no pictures.
    """

    def __init__(self, source: Path, size: int, mirror: bool = False) -> None:
        self.source, self.size, self.mirror = source, size, mirror
        if source.is_dir():
            files = (path for path in source.rglob("*") if path.is_file())
            names = [path.relative_to(source).as_posix() for path in files]
            self._read = lambda name: (source / name).read_bytes()
        elif source.is_file() and zipfile.is_zipfile(source):
            archive = zipfile.ZipFile(source)
            names, self._read = archive.namelist(), archive.read
        else:
            raise InputError(f"'{source}' is neither a folder nor a zip file; give one that holds pictures.")
        self.names = sorted(name for name in names if name.lower().endswith(ENDINGS))
        if not self.names:
            raise InputError(f"'{source}' holds no pictures; give PNG, JPEG, WebP, BMP or TIFF files.")

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
        except (InputError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"'{name}' in '{self.source}' cannot be read: {error}") from error
        picture = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(ImageOps.mirror(picture) if index >= len(self.names) else picture)

    def batches(
        self, batch: int, seed: int, start: int = 0, process: int = 0, processes: int = 1
    ) -> Iterator[np.ndarray]:
        """Shuffled batches (batch, size, size, 3) without end, every picture once an epoch.

        The order depends on the seed alone, so a training goes on from batch `start` as if it had not
        stopped, and every process takes its own part of a step's pictures.
        """
        with ThreadPoolExecutor(READERS) as pool:
            waiting = deque()
            for step in count(start):
                first = (step * processes + process) * batch
                indices = self._shuffled(np.arange(first, first + batch), seed)
                waiting.append([pool.submit(self.__getitem__, index) for index in indices])
                if len(waiting) > AHEAD:
                    yield np.stack([picture.result() for picture in waiting.popleft()])

    def _shuffled(self, positions: np.ndarray, seed: int) -> np.ndarray:
        """Indices at positions of the endless order, which is a new permutation in every epoch."""
        epochs, places = np.divmod(positions, len(self))
        pairs = zip(epochs.tolist(), places, strict=True)
        return np.array([_permutation(len(self), seed, epoch)[place] for epoch, place in pairs])


@lru_cache(2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)
