"""Refine an encoder's code by optimisation, so that the picture it gives is the person in the portrait.

The code is fitted through the previews first, where a step is cheap, and through the full network last.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import FaceReader, IdentityNetwork, common_scale


@dataclass(frozen=True)
class RefineConfig:
    """How long and with which weights to refine.

    Attributes:
        schedule: (picture size, steps) in order.
        lr: of Adam, in units of W's deviation.
        picture_weight: of the absolute difference of the pictures; the face counts most.
        identity_weight: of 1 - cosine of the identity network.
        reading_weight: of the mean absolute difference of the attribute readings on their common scale:
            expression and age of the portrait, which pixels weigh too little.
        w_weight: of the mean squared distance from mean W; spread_weight: between the rows, so that the
            code stays where edits work. Both in units of W's deviation.
    """

    schedule: tuple[tuple[int, int], ...]
    lr: float = 0.08
    picture_weight: float = 2.0
    identity_weight: float = 0.6
    reading_weight: float = 0.5
    w_weight: float = 0.004
    spread_weight: float = 0.008


REFINEMENTS = {
    "balanced": RefineConfig(schedule=((128, 60), (256, 10), (1024, 10))),
    "precise": RefineConfig(schedule=((128, 100), (256, 30), (1024, 30))),
}


def refine_code(
    code: np.ndarray,
    portrait: np.ndarray,
    generator: MobileStyleGAN,
    identity: IdentityNetwork,
    reader: FaceReader,
    config: RefineConfig,
    progress: Callable[[float, str], None] | None = None,
) -> np.ndarray:
    """A code (18, 512) near `code` whose picture is closer to `portrait`.

    Args:
        portrait: aligned, (1024, 1024, 3) uint8.
        progress: called with the share done, 0..1, and a message; an exception it raises stops the work.
    """
    target = torch.from_numpy(portrait).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        wanted, readings = identity(target), _scaled(reader(target))
    start = (torch.from_numpy(code)[None] - generator.mean_w) / generator.std_w
    x = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=config.lr, betas=(0.9, 0.95))
    # A step at 1024 px costs about twenty at 128 px: report time, not steps.
    costs = [(size, steps, {128: 1, 256: 3, 1024: 15}[size]) for size, steps in config.schedule]
    total, done = sum(steps * cost for _, steps, cost in costs), 0
    for size, steps, cost in costs:
        goal = F.interpolate(target, size=(size, size), mode="area")
        for _ in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * max(0.15, 1 - done / total)
            image = generator(x * generator.std_w + generator.mean_w, size)
            loss = _picture_loss(image, goal) + config.identity_weight * (
                1 - (identity(image) * wanted).sum()
            )
            difference = (_scaled(reader(image)) - readings).abs().mean()
            loss = loss + config.reading_weight * difference
            loss = loss + config.w_weight * x[:, :16].square().mean()
            loss = loss + config.spread_weight * (x[:, :16] - x[:, :16].mean(1, keepdim=True)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += cost
            if progress is not None:
                progress(done / total, f"Refining at {size} px")
    refined = x.detach() * generator.std_w + generator.mean_w
    return refined[0].numpy()


def _scaled(scores: dict[str, Tensor]) -> Tensor:
    return torch.stack([common_scale(name, score) for name, score in scores.items()])


def _picture_loss(image: Tensor, goal: Tensor) -> Tensor:
    """L1 at three scales, of which the coarse ones carry colour and layout past small misalignments.

    A soft window on the aligned face, down to a quarter in the corners, keeps the background from ruling.
    """
    x = torch.linspace(-1, 1, image.shape[-1], device=image.device)
    window = 0.25 + 2 * torch.exp(-3 * (x[None, :].square() + (x[:, None] - 0.15).square()))
    difference = (image - goal) * (window / window.mean())
    return sum(F.adaptive_avg_pool2d(difference, size).abs().mean() for size in (image.shape[-1], 64, 16))
