"""Refine an encoder's code by optimisation, so that the picture it gives is the person in the portrait.

The code is fitted through the previews first, where a step is cheap, and through the full network last.
What the code cannot hold (glasses, earrings, the background) goes into a few weights of the generator.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.knowledge.readings import FaceReader, IdentityNetwork, common_scale
from dystyle.memory import keep_freed_memory

# What a step costs at a picture's size, for the progress.
COSTS = {128: 1, 256: 2, 1024: 8}
READ_EVERY = 3
# A size is done with when so many steps have not brought the picture closer by this share.
PATIENCE, CLOSER = 6, 0.002


@dataclass(frozen=True)
class RefineConfig:
    """How long and with which weights to refine.

    Attributes:
        schedule: (picture size, most steps) in order.
        lr: of Adam, in units of W's deviation.
        picture_weight: of the absolute difference of the pictures; the face counts most.
        texture_weight: of the difference in how much fine structure there is, which absolute differences
            would rather blur.
        identity_weight: of 1 - cosine of the identity network.
        reading_weight: of the mean absolute difference of the attribute readings on their common scale:
            expression and age of the portrait, which pixels weigh too little. They cost as much as a
            preview, so every `READ_EVERY`-th step takes them.
        w_weight: of the mean squared distance from mean W; spread_weight: between the rows, so that the
            code stays where edits work. Both in units of W's deviation.
        tuning_steps, tuning_lr: of pivotal tuning, at 1024 px.
    """

    schedule: tuple[tuple[int, int], ...]
    lr: float = 0.08
    picture_weight: float = 2.0
    texture_weight: float = 6.0
    identity_weight: float = 1.0
    reading_weight: float = 0.5
    w_weight: float = 0.004
    spread_weight: float = 0.008
    tuning_steps: int = 0
    tuning_lr: float = 3e-4


REFINEMENTS = {
    "balanced": RefineConfig(schedule=((128, 28), (256, 10))),
    "precise": RefineConfig(schedule=((128, 40), (256, 15), (1024, 14)), tuning_steps=24),
}


class Refinement:
    """Brings one portrait back: first by its code, then by a few of the generator's weights.

    Args:
        portrait: aligned, (1024, 1024, 3) uint8.
        generator: stays as it is.
        progress: called with the share done, 0..1, and a message; an exception it raises stops the work.
    """

    def __init__(
        self,
        portrait: np.ndarray,
        generator: MobileStyleGAN | StyleGAN2,
        identity: IdentityNetwork,
        reader: FaceReader,
        config: RefineConfig,
        progress: Callable[[float, str], None] | None = None,
    ) -> None:
        keep_freed_memory()
        self.generator, self.identity, self.reader, self.config = generator, identity, reader, config
        self.target = torch.from_numpy(portrait).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            self.wanted, self.readings = identity(self.target), _scaled(reader(self.target))
        self.report = progress or (lambda fraction, message: None)
        self.done, self.total = 0, _work((*config.schedule, (1024, config.tuning_steps)))

    def run(self, code: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """From the encoder's code (18, 512): a better one, and tuned weights by name (maybe none)."""
        refined = self._refine(torch.from_numpy(code)[None])
        tuned = self._tune(refined) if self.config.tuning_steps else {}
        return refined[0].numpy(), tuned

    def _refine(self, code: Tensor) -> Tensor:
        """Optimise the code through pictures of growing size."""
        config, generator = self.config, self.generator
        x = ((code - generator.mean_w) / generator.std_w).requires_grad_(True)
        optimiser = torch.optim.Adam([x], lr=config.lr, betas=(0.9, 0.95))

        def render(size: int) -> tuple[Tensor, Tensor]:
            """The picture, and what leaving the region where edits work costs."""
            used = x[:, : generator.rows()]
            spread = used - used.mean(1, keepdim=True)
            far = config.w_weight * used.square().mean()
            image = generator(x * generator.std_w + generator.mean_w, size)
            return image, far + config.spread_weight * spread.square().mean()

        self._optimise(optimiser, render, config.schedule, "Refining at {} px")
        return x.detach() * generator.std_w + generator.mean_w

    def _tune(self, code: Tensor) -> dict[str, np.ndarray]:
        """Pivotal tuning (Roich et al. 2021): fit a few weights around the code, which stays."""
        config, generator = self.config, copy.deepcopy(self.generator)
        weights = {name: p for name, p in generator.named_parameters() if generator.tunable.fullmatch(name)}
        for p in weights.values():
            p.requires_grad_(True)
        optimiser = torch.optim.Adam(weights.values(), lr=config.tuning_lr, betas=(0.9, 0.95))
        schedule = ((1024, config.tuning_steps),)
        self._optimise(optimiser, lambda size: (generator(code, size), 0), schedule, "Tuning the generator")
        return {name: p.detach().numpy() for name, p in weights.items()}

    def _optimise(
        self,
        optimiser: torch.optim.Optimizer,
        render: Callable[[int], tuple[Tensor, Tensor]],
        schedule: tuple[tuple[int, int], ...],
        message: str,
    ) -> None:
        """Steps at each size, fewer of them once the picture does not come closer any more."""
        group, start, work = optimiser.param_groups[0], self.done, _work(schedule)
        lr = group["lr"]
        for size, steps in schedule:
            goal = F.interpolate(self.target, size=(size, size), mode="area")
            end, best, stale = self.done + steps * COSTS[size], math.inf, 0
            for step in range(steps):
                group["lr"] = lr * max(0.15, 1 - (self.done - start) / work)
                image, penalty = render(size)
                difference = self._difference(image, goal)
                loss = difference + penalty
                if step % READ_EVERY == 0:
                    readings = (_scaled(self.reader(image)) - self.readings).abs().mean()
                    loss = loss + READ_EVERY * self.config.reading_weight * readings
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self.done += COSTS[size]
                self.report(self.done / self.total, message.format(size))
                closer = float(difference.detach()) < (1 - CLOSER) * best
                best, stale = (float(difference.detach()), 0) if closer else (best, stale + 1)
                if stale == PATIENCE:
                    break
            self.done = end

    def _difference(self, image: Tensor, goal: Tensor) -> Tensor:
        config = self.config
        difference = config.picture_weight * _picture_loss(image, goal)
        difference = difference + config.texture_weight * (_texture(image) - _texture(goal)).abs().mean()
        return difference + config.identity_weight * (1 - (self.identity(image) * self.wanted).sum())


def _work(schedule: tuple[tuple[int, int], ...]) -> int:
    return sum(steps * COSTS[size] for size, steps in schedule)


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


def _texture(image: Tensor) -> Tensor:
    """How much fine structure there is around every eighth pixel: mean contrast to the neighbourhood."""
    detail = image - F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
    return F.avg_pool2d(detail.abs(), 8)
