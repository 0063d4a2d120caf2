"""Adaptive discriminator augmentation (ADA; Karras et al. 2020a, arXiv 2006.06676, appendix B).

Pixel blitting, geometric and colour transformations, each of them applied to a picture with probability p.
Real and generated pictures go through the same ones before the discriminator sees them; as long as p stays
below about 0.8 the generator still learns the unaugmented distribution. p follows the discriminator's
overfitting heuristic r_t (equation 1).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.ops import setup_filter, upfirdn2d, upsample2d
from dystyle.ops.upfirdn2d import SYM6

LUMA = 3**-0.5  # every component of the unit vector along grey
TARGET = 0.6  # of r_t


def augment(images: Tensor, p: float) -> Tensor:
    """Transform pictures (b, 3, s, s) in [-1, 1] at random; can be differentiated twice.

    Args:
        p: probability of each transformation, 0..1; 0 returns the pictures as they are.
    """
    if p == 0:
        return images
    count, size, device = len(images), images.shape[-1], images.device
    images = blit(images, *draw_blits(count, p, size, device))
    images = warp(images, draw_geometry(count, p, size, device))
    return recolour(images, draw_colours(count, p, device))


def adapt(p: float, signs: float, pictures: int, speed: float, target: float = TARGET) -> float:
    """The next probability: up when the discriminator is overconfident, else down.

    Args:
        signs: r_t, the mean sign of its output for real pictures since the last change; near 1 when it
            knows them by heart.
        pictures: how many these were; speed: how many it takes p to get from 0 to 1.
    """
    return min(1.0, max(0.0, p + math.copysign(pictures / speed, signs - target)))


# ------------------------------------------------------------------------------------------ pixel blitting


def draw_blits(
    count: int, p: float, size: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Random arguments of `blit`: mirrored or not, any quarter turn, moved by up to an eighth."""
    flips = _chosen(count, p, device) & _chosen(count, 0.5, device)
    turns = torch.randint(4, (count,), device=device) * _chosen(count, p, device)
    shifts = (torch.rand(count, 2, device=device) * 2 - 1) * 0.125 * size
    return flips, turns, shifts.round().long() * _chosen(count, p, device)[:, None]


def blit(images: Tensor, flips: Tensor, turns: Tensor, shifts: Tensor) -> Tensor:
    """Mirror, turn, then move whole pixels; what comes in from outside is a reflection.

    Args:
        images: (b, c, s, s).
        flips: (b,) bool, left and right change places.
        turns: (b,) quarter turns anticlockwise.
        shifts: (b, 2) pixels to the right and down.
    """
    size = images.shape[-1]
    # Where each pixel comes from, in half pixels from the centre.
    places = torch.arange(size, device=images.device)
    x, y = (2 * _reflect(places - shift[:, None], size) - size + 1 for shift in shifts.unbind(1))
    x, y = x[:, None, :], y[:, :, None]
    cosine, sine = (
        torch.tensor(values, device=images.device)[turns][:, None, None]
        for values in ((1, 0, -1, 0), (0, 1, 0, -1))
    )
    x, y = cosine * x - sine * y, sine * x + cosine * y
    x = torch.where(flips[:, None, None], -x, x)
    index = (y + size - 1) // 2 * size + (x + size - 1) // 2
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices beyond the border run back from it."""
    return size - 1 - (index % (2 * size - 2) - size + 1).abs()


# ---------------------------------------------------------------------------------------------- geometry


def draw_geometry(count: int, p: float, size: int, device: torch.device | str | None = None) -> Tensor:
    """Random matrices (b, 3, 3) for `warp`: scale, rotate, stretch, rotate again, move."""
    spread = 0.2 * math.log(2)
    matrix = torch.eye(3, device=device).expand(count, 3, 3)
    scale = _draw(count, p, device).mul(spread).exp()
    matrix = _scaling(scale, scale) @ matrix
    # Two rotations, so that a picture is rotated at all with probability p.
    share = 1 - math.sqrt(1 - p)
    matrix = _rotation(_draw_angles(count, share, device)) @ matrix
    stretch = _draw(count, p, device).mul(spread).exp()
    matrix = _scaling(stretch, 1 / stretch) @ matrix
    matrix = _rotation(_draw_angles(count, share, device)) @ matrix
    moved = torch.eye(3, device=device).repeat(count, 1, 1)
    # One choice for both axes.
    moved[:, :2, 2] = 0.125 * size * torch.randn(count, 2, device=device)
    moved[:, :2, 2] *= _chosen(count, p, device)[:, None]
    return moved @ matrix


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Pictures (b, c, s, s) under affine maps of the plane, sampled at twice the size between two filters.

    Args:
        matrices: (b, 3, 3), where a point (x right, y down, 1) goes to; pixels from the picture's centre. The
            identity keeps a picture bit for bit.
    """
    size, margin = images.shape[-1], len(SYM6) // 2
    wavelet = setup_filter(SYM6, device=images.device, separable=True)
    padded = F.pad(images, [margin] * 4, "reflect")
    fine = upsample2d(padded, wavelet)[:, :, 2 * margin : -2 * margin, 2 * margin : -2 * margin]
    # Pixels of the enlarged result and of a margin that the reducing filter wants, from its centre.
    places = (torch.arange(2 * (size + 2 * margin), device=images.device) + 0.5) / 2 - size / 2 - margin
    inverse = torch.linalg.inv(matrices)[:, :2].to(images.dtype)
    y, x = torch.meshgrid(places.to(images.dtype), places.to(images.dtype), indexing="ij")
    grid = torch.stack((x, y, torch.ones_like(x)), 2) @ inverse.transpose(1, 2)[:, None]
    fine = _Sample.apply(fine, grid / (size / 2))
    border = len(wavelet) // 2 - 1 - 2 * margin
    result = upfirdn2d(fine, wavelet, down=2, padding=border, flip_filter=True)
    moved = (matrices != torch.eye(3, device=images.device)).any(2).any(1)
    return torch.where(moved[:, None, None, None], result, images)


class _Sample(torch.autograd.Function):
    """Pictures (b, c, h, w) at places (b, h', w', 2); PyTorch's own differentiates this once only.

    Linear in the pictures: its gradient is the transposed map, and the gradient of that this map again.
    Places get no gradient.
    """

    @staticmethod
    def forward(ctx, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sample`: (b, c, h', w') -> pictures of `shape`."""

    @staticmethod
    def forward(ctx, values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            blank = values.new_zeros(shape).requires_grad_(True)
            sampled = F.grid_sample(blank, grid, padding_mode="reflection", align_corners=False)
        return torch.autograd.grad(sampled, blank, values)[0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(gradient, ctx.saved_tensors[0]), None, None


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack((x, y, torch.ones_like(x)), 1))


def _rotation(angles: Tensor) -> Tensor:
    """Anticlockwise as seen, with y down."""
    cosine, sine, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    rows = ((cosine, sine, zero), (-sine, cosine, zero), (zero, zero, one))
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


# ------------------------------------------------------------------------------------------------ colour


def draw_colours(count: int, p: float, device: torch.device | str | None = None) -> Tensor:
    """Random matrices (b, 3, 4) for `recolour`: brightness, contrast, luma flip, hue, saturation."""
    eye, grey = torch.eye(3, device=device), torch.full((3, 3), LUMA**2, device=device)
    brightness = 0.2 * _draw(count, p, device)
    contrast = (0.5 * math.log(2) * _draw(count, p, device)).exp()
    flips = _chosen(count, p, device) & _chosen(count, 0.5, device)
    saturation = (math.log(2) * _draw(count, p, device)).exp()
    matrix = contrast[:, None, None] * eye
    matrix = (eye - 2 * grey * flips[:, None, None]) @ matrix
    matrix = hue_rotation(_draw_angles(count, p, device)) @ matrix
    matrix = (grey + (eye - grey) * saturation[:, None, None]) @ matrix
    offset = matrix @ brightness[:, None, None].expand(-1, 3, 1)
    return torch.cat((matrix, offset), 2)


def hue_rotation(angles: Tensor) -> Tensor:
    """Rotations (b, 3, 3) of colours about grey by angles (b,), by Rodrigues' formula."""
    eye, grey = torch.eye(3, device=angles.device), torch.full((3, 3), LUMA**2, device=angles.device)
    cross = torch.tensor([[0.0, -LUMA, LUMA], [LUMA, 0.0, -LUMA], [-LUMA, LUMA, 0.0]], device=angles.device)
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    return cosine * eye + sine * cross + (1 - cosine) * grey


def recolour(images: Tensor, matrices: Tensor) -> Tensor:
    """Pictures (b, 3, s, s) under affine maps of their colours, (b, 3, 4)."""
    matrices = matrices.to(images.dtype)
    colours = torch.baddbmm(matrices[:, :, 3:], matrices[:, :, :3], images.flatten(2))
    return colours.view_as(images)


# ------------------------------------------------------------------------------------------------- chance


def _chosen(count: int, p: float, device: torch.device | str | None) -> Tensor:
    return torch.rand(count, device=device) < p


def _draw(count: int, p: float, device: torch.device | str | None) -> Tensor:
    """Normal numbers with probability p, else 0."""
    return torch.randn(count, device=device) * _chosen(count, p, device)


def _draw_angles(count: int, p: float, device: torch.device | str | None) -> Tensor:
    """Any angles with probability p, else 0."""
    return (torch.rand(count, device=device) * 2 - 1) * math.pi * _chosen(count, p, device)
