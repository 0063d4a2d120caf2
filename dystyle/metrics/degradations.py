"""Renders made to look like photos: degraded, bent, hidden in places."""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


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

    (b, 3 k, s, s) in [-1, 1] -> the same shape; drawn for each of the b, whose k pictures are treated alike.

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
    x = x * (1 + draw(0.08)) + draw(0.06)
    return (x + draw(0.05, 3, 1, 1).repeat(1, x.shape[1] // 3, 1, 1)).clamp(-1, 1)


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
