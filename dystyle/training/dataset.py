"""Generated faces for training: codes and their pictures, rendered once and kept as memory-mapped arrays."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dystyle.errors import InputError
from dystyle.training.resume import make_folder, whole


def area(images: Tensor, size: int) -> Tensor:
    """Pictures (b, 3, s, s) averaged down to (b, 3, size, size)."""
    return F.interpolate(images, size=(size, size), mode="area")


CODE, PICTURE = (18, 512), (256, 256, 3)
ROUNDING = 1.0  # mean difference, of 255, between renderings of one face on two machines: at most this


@dataclass(frozen=True)
class FaceDataset:
    """Codes (n, 18, 512) float32 and pictures (n, 256, 256, 3) uint8 of generated faces in a folder."""

    codes: np.ndarray
    images: np.ndarray

    @classmethod
    def load(cls, folder: Path, least: int = 1) -> "FaceDataset":
        """Open a folder written by `render`; a partly rendered one gives what is complete.

        Raises:
            InputError: there are no faces in the folder, fewer than the `least` that are needed, or they are
                damaged.
        """
        if not (folder / "done.txt").exists():
            raise InputError(
                f"There are no faces in '{folder}'; render some: python -m dystyle.train faces --out {folder}"
            )
        codes, images = (_open(folder / name) for name in ("codes.npy", "images.npy"))
        done = _done(folder)
        if codes.shape[1:] != CODE or images.shape[1:] != PICTURE or min(len(codes), len(images)) < done:
            raise _damaged(folder)
        if done < least:
            raise InputError(
                f"There are {done} faces in '{folder}' and {least} are needed; render more into another "
                f"folder: python -m dystyle.train faces --count {least}"
            )
        return cls(codes[:done], images[:done])

    @property
    def fingerprint(self) -> str:
        """How many faces these are, and a digest of their codes."""
        return f"{len(self.codes)} faces, {hashlib.sha256(np.ascontiguousarray(self.codes)).hexdigest()[:16]}"

    @classmethod
    @torch.no_grad()
    def render(
        cls,
        folder: Path,
        codes: np.ndarray,
        synthesize: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> "FaceDataset":
        """Render `codes` into `folder`, going on where an earlier run stopped.

        Faces that are there already stay if they are the first of those asked for, rendered alike.

        Args:
            synthesize: codes (b, 18, 512) -> pictures (b, 3, s, s) about [-1, 1], both on `device`; s is a
                multiple of 256 and averaged down here. batch: how many at once.

        Raises:
            InputError: pictures of another size, or the folder holds other faces or cannot be written.
        """

        def pictures(chunk: np.ndarray) -> np.ndarray:
            images = synthesize(torch.from_numpy(chunk).to(device)).clamp(-1, 1)
            if (size := images.shape[-1]) % PICTURE[0]:
                raise InputError(f"Faces are rendered at 256 px or a multiple, not at {size} px.")
            small = F.interpolate(images.float(), PICTURE[:2], mode="area") * 127.5 + 127.5
            return small.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

        codes = np.asarray(codes, np.float32)
        done = cls._stored(folder, codes, pictures)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="r+")
        with tqdm(total=len(codes), initial=done, desc="rendering faces", mininterval=10) as bar:
            for start in range(done, len(codes), batch):
                chunk = slice(start, min(start + batch, len(codes)))
                images[chunk] = pictures(codes[chunk])
                bar.update(chunk.stop - start)
                if chunk.stop // 50 > start // 50 or chunk.stop == len(codes):
                    images.flush()
                    _note(folder, chunk.stop)
        return cls.load(folder)

    @classmethod
    def _stored(cls, folder: Path, codes: np.ndarray, pictures: Callable[[np.ndarray], np.ndarray]) -> int:
        """Make a folder for all of `codes`; returns how many are rendered there already."""
        make_folder(folder)
        known = cls(np.empty((0, *CODE), np.float32), np.empty((0, *PICTURE), np.uint8))
        if (folder / "done.txt").exists():
            known, stored = cls.load(folder, least=0), _open(folder / "codes.npy")
            done = len(known.codes)
            same = len(stored) <= len(codes) and np.array_equal(stored, codes[: len(stored)])
            if same and done:  # by another generator, they are other faces
                first, again = known.images[:1].astype(int), pictures(codes[:1])
                same = np.abs(first - again).mean() < ROUNDING
            if not same:
                raise InputError(
                    f"'{folder}' holds other faces ({len(stored)} of another seed, count or generator); "
                    "delete it, or give another folder."
                )
            if len(stored) == len(codes):
                return done
        with whole(folder / "images.npy") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(codes), *PICTURE)}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in np.array_split(known.images, max(1, len(known.images) // 100)):
                file.write(np.ascontiguousarray(chunk))
            file.truncate(file.tell() + (len(codes) - len(known.images)) * math.prod(PICTURE))
        with whole(folder / "codes.npy") as file:
            np.save(file, codes)
        _note(folder, len(known.codes))
        return len(known.codes)


def _note(folder: Path, done: int) -> None:
    with whole(folder / "done.txt") as file:
        file.write(str(done).encode())


def _done(folder: Path) -> int:
    try:
        return int((folder / "done.txt").read_text())
    except (OSError, ValueError) as error:
        raise _damaged(folder) from error


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path.parent) from error


def _damaged(folder: Path) -> InputError:
    return InputError(f"The faces in '{folder}' are damaged; delete the folder and render them again.")
