"""Generated faces for training: codes and their pictures, rendered once and kept as memory-mapped arrays."""

import hashlib
import math
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
from dystyle.training.resume import make_folder, whole

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
