"""Generated faces for training: codes and their pictures, rendered once and kept as memory-mapped arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dystyle.errors import InputError


def area(images: Tensor, size: int) -> Tensor:
    """Pictures (b, 3, s, s) averaged down to (b, 3, size, size)."""
    return F.interpolate(images, size=(size, size), mode="area")


@dataclass(frozen=True)
class FaceDataset:
    """Codes (n, 18, 512) float32 and pictures (n, 256, 256, 3) uint8 of generated faces in a folder."""

    codes: np.ndarray
    images: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "FaceDataset":
        """Open a folder written by `render`; a partly rendered one gives what is complete."""
        done = int((folder / "done.txt").read_text())
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("codes", "images"))
        return cls(*(array[:done] for array in arrays))

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

        Args:
            synthesize: codes (b, 18, 512) -> pictures (b, 3, s, s) about [-1, 1], both on `device`; s is a
                multiple of 256 and averaged down here. batch: how many at once.

        Raises:
            InputError: pictures of another size.
        """
        folder.mkdir(parents=True, exist_ok=True)
        progress = folder / "done.txt"
        shape = (len(codes), 256, 256, 3)
        if progress.exists():
            images = np.lib.format.open_memmap(folder / "images.npy", mode="r+")
        else:
            np.save(folder / "codes.npy", codes)
            images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
            progress.write_text("0")
        done = int(progress.read_text())
        with tqdm(total=len(codes), initial=done, desc="rendering faces", mininterval=10) as bar:
            for start in range(done, len(codes), batch):
                chunk = slice(start, min(start + batch, len(codes)))
                pictures = synthesize(torch.from_numpy(codes[chunk]).to(device)).clamp(-1, 1)
                if (size := pictures.shape[-1]) % 256:
                    raise InputError(f"Faces are rendered at 256 px or a multiple, not at {size} px.")
                small = F.interpolate(pictures.float(), (256, 256), mode="area") * 127.5 + 127.5
                images[chunk] = small.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
                bar.update(chunk.stop - start)
                if chunk.stop // 50 > start // 50 or chunk.stop == len(codes):
                    images.flush()
                    progress.write_text(str(chunk.stop))
        return cls.load(folder)
