"""Random people with what is read of them: many, since small pictures are enough for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from tqdm import trange

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.metrics.drawing import sample_codes

SMALL, SEEN = 128, 256  # px of the pictures, and of those that the reader is given
BATCH = 25


@dataclass(frozen=True)
class People:
    """Random people, and as many whose rows of W+ differ.

    Attributes:
        z, w: (n, 512) float32. mixed: (n, 18, 512), see `dystyle.metrics.drawing.sample_codes`.
        values, mixed_values: (n, attributes) float32, in the order of `ATTRIBUTES` and their units; read
            when they are first asked for.
    """

    z: np.ndarray
    w: np.ndarray
    mixed: np.ndarray
    _read: Callable[[np.ndarray, str], np.ndarray]

    @classmethod
    def read(
        cls,
        backend: Backend,
        map_z: Callable[[np.ndarray], np.ndarray],
        mean_w: np.ndarray,
        count: int,
        seed: int,
        folder: Path,
    ) -> "People":
        """Draw people, without truncation, to be read.

        Args:
            map_z: z (n, 512) -> W (n, 512). mean_w: (512,).
            folder: keeps the readings: an interrupted run goes on, another one finds them.
        """
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((count, 512), dtype=np.float32)
        w = map_z(z)
        mixed = sample_codes(rng, count, map_z, mean_w, psi=(1.0, 1.0))
        return cls(z, w, mixed, lambda x, kind: read_codes(backend, x, folder / f"{kind}-{seed}-{count}.npy"))

    @cached_property
    def values(self) -> np.ndarray:
        return self._read(np.repeat(self.w[:, None], 18, 1), "w")

    @cached_property
    def mixed_values(self) -> np.ndarray:
        return self._read(self.mixed, "mixed")


def read_codes(backend: Backend, codes: np.ndarray, file: Path) -> np.ndarray:
    """What small pictures of codes (n, 18, 512) are read as, (n, attributes) float32; `file` (.npy) keeps it,
    and what is missing there is read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        np.save(file, np.full((len(codes), len(ATTRIBUTES)), np.nan, np.float32))
    values = np.lib.format.open_memmap(file, "r+")
    missing = np.flatnonzero(np.isnan(values).any(1))
    for start in trange(0, len(missing), BATCH, desc="reading people", mininterval=10):
        some = missing[start : start + BATCH]
        (pictures,) = backend.run(f"generator_{SMALL}", np.float32(codes[some]))
        seen = np.stack([cv2.resize(x, (SEEN, SEEN), interpolation=cv2.INTER_CUBIC) for x in pictures])
        (values[some],) = backend.run("reader", seen)
    return np.array(values)
