"""Generated faces for training: codes and their pictures, rendered once and kept as memory-mapped arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
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


def area(images: Tensor, size: int) -> Tensor:
    """Pictures (b, 3, s, s) averaged down to (b, 3, size, size)."""
    return F.interpolate(images, size=(size, size), mode="area")


def degrade(images: Tensor, colour: float = 1.0) -> Tensor:
    """What photos have and renders lack: misalignment, blur, exposure, colour cast, noise, JPEG.

    (b, 3, s, s) in [-1, 1] -> the same shape; each degradation is drawn per picture.

    Args:
        colour: strength of the changes of exposure and colour.
    """
    count, device = len(images), images.device

    def draw(spread: float, *shape: int) -> Tensor:
        return torch.randn(count, *(shape or (1, 1, 1)), device=device) * spread

    def share() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=device)

    angle, zoom, shift = draw(0.04).flatten(), 1 + draw(0.05).flatten(), draw(0.025, 2)
    grid = F.affine_grid(_similarity(angle, zoom, shift), images.shape, align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    small = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="area"), size=x.shape[-2:], mode="bilinear")
    x = x + share() * (share() < 0.5) * (small - x)
    x = ((x + 1) / 2).clamp(0, 1) ** torch.exp(draw(0.15 * colour)) * 2 - 1
    x = x * (1 + draw(0.1 * colour)) + draw(0.08 * colour) + draw(0.05 * colour, 3, 1, 1)
    x = (x + torch.randn_like(x) * draw(0.04).abs()).clamp(-1, 1)
    quality = torch.randint(40, 180, (count,)).tolist()  # half of the pictures stay as they are
    return torch.stack([jpeg(image, q) if q <= 95 else image for image, q in zip(x, quality, strict=True)])


def bend(images: Tensor, strength: float = 0.04) -> Tensor:
    """Faces that no code gives, as those of photos: deformed, turned a little, under other light.

    (b, 3, s, s) in [-1, 1] -> the same shape; drawn per picture.

    Args:
        strength: the largest standard deviation of the deformation at its 6 x 6 knots, in half pictures.
    """
    count, size, device = len(images), images.shape[-2:], images.device

    def draw(spread: float, *shape: int) -> Tensor:
        return torch.randn(count, *(shape or (1, 1, 1)), device=device) * spread

    knots = draw(strength, 2, 6, 6) * torch.rand(count, 1, 1, 1, device=device)
    field = F.interpolate(knots, size=size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    angle, zoom, shift = draw(0.04).flatten(), 1 + draw(0.04).flatten(), draw(0.02, 2)
    grid = F.affine_grid(_similarity(angle, zoom, shift), images.shape, align_corners=False) + field
    x = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    x = ((x + 1) / 2).clamp(0, 1) ** torch.exp(draw(0.15)) * 2 - 1
    return (x * (1 + draw(0.08)) + draw(0.06) + draw(0.05, 3, 1, 1)).clamp(-1, 1)


def _similarity(angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Matrices (b, 2, 3) for `affine_grid` of angles (b,) in radians, zooms (b,), shifts (b, 2)."""
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = (cosine, -sine, shift[:, 0]), (sine, cosine, shift[:, 1])
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """A picture (3, s, s) in [-1, 1] after it has been stored as JPEG; without gradients."""
    pixels = ((image.detach() + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    _, stored = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    pixels = cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1].copy()
    return torch.from_numpy(pixels).to(image.device).permute(2, 0, 1) / 127.5 - 1


def occlude(images: Tensor, share: float = 0.25) -> Tensor:
    """Something in front of the face in a share of the pictures (b, 3, s, s): an ellipse of another one.

    Its axes are 0.1 to 0.3 of the picture (hands, hair, microphones); its content is the next picture of
    the batch, mirrored upside down.
    """
    count, size, device = len(images), images.shape[-1], images.device
    axis = torch.linspace(-1, 1, size, device=device)
    centre, radius, chance = (torch.rand(n, count, 1, 1, device=device) for n in (2, 2, 1))
    centre, radius = centre * 1.6 - 0.8, radius * 0.4 + 0.2
    distance = ((axis - centre[0]) / radius[0]) ** 2 + ((axis[:, None] - centre[1]) / radius[1]) ** 2
    hidden = (distance < 1) & (chance[0] < share)
    return torch.where(hidden[:, None], images.roll(1, 0).flip(2), images)


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
