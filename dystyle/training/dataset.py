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

ROWS = 18


def sample_codes(
    rng: np.random.Generator,
    count: int,
    mapping: Callable[[np.ndarray], np.ndarray],
    mean_w: np.ndarray,
    psi: tuple[float, float] = (0.5, 1.0),
) -> np.ndarray:
    """Random W+ codes (count, 18, 512) as real photos and edits need them.

    Half are W codes; a quarter mix two W codes at a random row (style mixing); a quarter drift from one
    code towards another by an amount that varies smoothly from row to row, as encoders' codes do. Every
    W code has its own truncation, uniform in `psi`.

    Args:
        mapping: Z (n, 512) -> W (n, 512).
    """
    w = mapping(rng.standard_normal((2 * count, 512)).astype(np.float32))
    w = mean_w + rng.uniform(*psi, (2 * count, 1)).astype(np.float32) * (w - mean_w)
    first, second = w[:count, None], w[count:, None]
    rows = np.arange(ROWS)
    crossover = (rows[None] >= rng.integers(2, 14, (count, 1))).astype(np.float32)
    knots = rng.uniform(0, 0.5, (count, 5))
    drift = np.stack([np.interp(rows, np.linspace(0, ROWS - 1, 5), knot) for knot in knots])
    kind = rng.choice(3, (count, 1), p=(0.5, 0.25, 0.25))
    share = np.where(kind == 0, 0, np.where(kind == 1, crossover, drift)).astype(np.float32)
    return first + share[:, :, None] * (second - first)


def degrade(images: Tensor, colour: float = 1.0) -> Tensor:
    """What photos have and renders lack: misalignment, blur, exposure, colour cast, noise.

    (b, 3, s, s) in [-1, 1] -> the same shape; each degradation is drawn per picture.

    Args:
        colour: strength of the changes of exposure and colour.
    """
    count = len(images)

    def draw(spread: float, *shape: int) -> Tensor:
        return torch.randn(count, *(shape or (1, 1, 1))) * spread

    angle, zoom, shift = draw(0.04).flatten(), 1 + draw(0.05).flatten(), draw(0.025, 2)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        (torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1)), 1
    )
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    small = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="area"), size=x.shape[-2:], mode="bilinear")
    x = x + torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5) * (small - x)
    x = ((x + 1) / 2).clamp(0, 1) ** torch.exp(draw(0.15 * colour)) * 2 - 1
    x = x * (1 + draw(0.1 * colour)) + draw(0.08 * colour) + draw(0.05 * colour, 3, 1, 1)
    return (x + torch.randn_like(x) * draw(0.04).abs()).clamp(-1, 1)


def degraded(portraits: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Generated portraits (s, s, 3) uint8, degraded as photos are; the same seed degrades them alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        images = (torch.from_numpy(portrait).permute(2, 0, 1)[None] / 127.5 - 1 for portrait in portraits)
        photos = [(degrade(image)[0].permute(1, 2, 0) + 1) * 127.5 for image in images]
    return [photo.round().byte().numpy() for photo in photos]


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
    def render(
        cls, folder: Path, codes: np.ndarray, synthesize: Callable[[np.ndarray], np.ndarray]
    ) -> "FaceDataset":
        """Render `codes` into `folder`, going on where an earlier run stopped.

        Args:
            synthesize: code (18, 512) -> picture (s, s, 3) uint8, s a multiple of 256; averaged down here.

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
        start = int(progress.read_text())
        for index in tqdm(range(start, len(codes)), desc="rendering faces", mininterval=10):
            picture = synthesize(codes[index])
            if len(picture) % 256:
                raise InputError(f"Faces are rendered at 256 px or a multiple, not at {len(picture)} px.")
            picture = picture.reshape(256, len(picture) // 256, 256, -1, 3)
            images[index] = picture.mean((1, 3), dtype=np.float32).round().astype(np.uint8)
            if index % 50 == 49 or index + 1 == len(codes):
                images.flush()
                progress.write_text(str(index + 1))
        return cls.load(folder)
