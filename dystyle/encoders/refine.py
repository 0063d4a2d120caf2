"""Refine an encoder's code by optimisation, so that the picture it gives is the person in the portrait.

The code is fitted through the previews first, where a step is cheap, and through the full network last:
previews guess the colours of the full picture, so what is optimised on them alone comes back off colour.
What the code cannot hold (glasses, earrings, the background) goes into a few weights of the generator.
"""

import copy
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.encoders.precision import autocast
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.generators.opening import open_generator
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.memory import keep_freed_memory, return_freed_memory

if TYPE_CHECKING:
    from dystyle.generators.stylegan2 import StyleGAN2

# Parts of the full picture are this large; the first looks at the face, every second one anywhere.
DETAIL, FACE = 512, (20, 16)
# What a step costs at a picture's size, for the progress.
COSTS = {128: 1, 256: 2, DETAIL: 1, 1024: 5}
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
        detail_steps: on the late rows and parts of the full picture, see `MobileStyleGAN.detail`.
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
    detail_steps: int = 0
    tuning_steps: int = 0
    tuning_lr: float = 3e-4


REFINEMENTS = {
    "balanced": RefineConfig(schedule=((128, 26), (256, 5)), detail_steps=8),
    "precise": RefineConfig(schedule=((128, 40), (256, 15), (1024, 14)), tuning_steps=24),
}


# The share done, 0..1, a message, and in the last step the code (18, 512) and tuned weights by name.
Step = tuple[float, str, tuple[np.ndarray, dict[str, np.ndarray]] | None]


def refine(
    portrait: np.ndarray, code: np.ndarray, quality: str, file: Path | None = None, device: str = "cpu"
) -> Generator[Step, None, None]:
    """Refine a code; plain values in and out, so that another process may do it. Closing it stops the work.

    Args:
        portrait: aligned, (1024, 1024, 3) uint8.
        code: the encoder's, (18, 512).
        quality: a key of `REFINEMENTS`.
        file: of a StyleGAN2; None: the default generator.
        device: "cpu" or "cuda".
    """
    try:
        yield from Refinement(portrait, *networks(file, device), REFINEMENTS[quality]).run(code)
    finally:
        keep_freed_memory(False)
        return_freed_memory()


def networks(
    file: Path | None, device: str
) -> "tuple[MobileStyleGAN | StyleGAN2, IdentityNetwork, FaceReader]":
    """What a `Refinement` computes with, on its device; its own, as backends change theirs' weights."""
    return tuple(
        network.eval().requires_grad_(False).to(device)
        for network in (open_generator(file), IdentityNetwork(), FaceReader())
    )


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1).

    Not PyTorch's, which brings a compiler along: 1.3 s of the first face and 75 MB for as long as the
    process runs.

    Args:
        tensors: leaves of any shape; `step` changes them in place.
        betas: how much the averages of gradients and of their squares keep at a step.
    """

    def __init__(self, tensors: Iterable[Tensor], betas: tuple[float, float] = (0.9, 0.95)) -> None:
        self.tensors, self.betas, self.steps = list(tensors), betas, 0
        self.means = [torch.zeros_like(tensor) for tensor in self.tensors]
        self.squares = [torch.zeros_like(tensor) for tensor in self.tensors]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the tensors down their gradients, and forget these."""
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in self.betas)
        for x, mean, square in zip(self.tensors, self.means, self.squares, strict=True):
            mean.lerp_(x.grad, 1 - self.betas[0])
            square.lerp_(x.grad.square(), 1 - self.betas[1])
            x.addcdiv_(mean, (square / second).sqrt_().add_(1e-8), value=-lr / first)
            x.grad = None


# A picture (1, 3, s, s) without its graph, and what takes the gradient by its pixels (1, 3, s, s) on to the
# codes and weights it was made of.
Rendered = tuple[Tensor, Callable[[Tensor], None]]


class Refinement:
    """Brings one portrait back: first by its code, then by a few of the generator's weights.

    Args:
        portrait: aligned, (1024, 1024, 3) uint8.
        generator: stays as it is; the work is done on its device, where the other networks are, too.
    """

    def __init__(
        self,
        portrait: np.ndarray,
        generator: "MobileStyleGAN | StyleGAN2",
        identity: IdentityNetwork,
        reader: FaceReader,
        config: RefineConfig,
    ) -> None:
        keep_freed_memory()
        self.generator, self.identity, self.reader, self.config = generator, identity, reader, config
        self.device = generator.mean_w.device
        self.target = torch.from_numpy(portrait).to(self.device).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            self.wanted, self.readings = identity(self.target), _scaled(reader(self.target))
        self.done, self.total = (
            0,
            _work((*config.schedule, (DETAIL, config.detail_steps), (1024, config.tuning_steps))),
        )

    def run(self, code: np.ndarray) -> Iterator[Step]:
        """From the encoder's code (18, 512) to a better one and tuned weights (maybe none), step by step."""
        refined = yield from self._refine(torch.from_numpy(code).to(self.device)[None])
        # The previews of a StyleGAN2 are its own skip images, nothing has to be put right after them.
        if self.config.detail_steps and isinstance(self.generator, MobileStyleGAN):
            refined = yield from self._refine_detail(refined)
        tuned = (yield from self._tune(refined)) if self.config.tuning_steps else {}
        yield 1.0, "Done", (refined[0].cpu().numpy(), tuned)

    def _step(self, size: int, message: str) -> Step:
        """Count a step at this size as done."""
        self.done += COSTS[size]
        return self.done / self.total, message, None

    def _refine(self, code: Tensor) -> Generator[Step, None, Tensor]:
        """Optimise the code through pictures of growing size."""
        config, generator = self.config, self.generator
        x = ((code - generator.mean_w) / generator.std_w).requires_grad_(True)

        def render(size: int) -> Rendered:
            image, picture_backward = self._render(generator, x * generator.std_w + generator.mean_w, size)

            def backward(gradient: Tensor) -> None:
                """The picture's, and that of leaving the region where edits work."""
                picture_backward(gradient)
                used = x[:, : generator.rows()]
                spread = (used - used.mean(1, keepdim=True)).square().mean()
                (config.w_weight * used.square().mean() + config.spread_weight * spread).backward()

            return image, backward

        yield from self._optimise([x], config.lr, render, config.schedule, "Refining the face")
        return x.detach() * generator.std_w + generator.mean_w

    def _refine_detail(self, code: Tensor) -> Generator[Step, None, Tensor]:
        """Optimise the rows behind the 64 px features, on parts of the full picture."""
        return_freed_memory()
        config, generator = self.config, self.generator
        mean, std, side = generator.mean_w, generator.std_w, DETAIL // 16
        with torch.no_grad(), self._precision():
            features = generator.features(code, 64)
        late = ((code[:, 9:16] - mean) / std).requires_grad_(True)
        adam, random = Adam([late]), np.random.default_rng(0)
        for step in range(config.detail_steps):
            top, left = FACE if step % 2 == 0 else random.integers(0, 64 - side, 2).tolist()
            rows = torch.cat((code[:, :9], late * std + mean, code[:, 16:]), 1)
            with self._precision():
                image = generator.detail(features, rows, top, left, side).float()
            goal = self.target[..., 16 * top :, 16 * left :][..., :DETAIL, :DETAIL]
            difference = sum(
                F.adaptive_avg_pool2d(image - goal, size).abs().mean() for size in (DETAIL, 64, 16)
            )
            texture = (_texture(image) - _texture(goal)).abs().mean()
            loss = config.picture_weight * difference + config.texture_weight * texture
            (loss + config.w_weight * late.square().mean()).backward()
            adam.step(config.lr * max(0.15, 1 - step / config.detail_steps))
            yield self._step(DETAIL, "Refining colours and detail")
        return torch.cat((code[:, :9], late.detach() * std + mean, code[:, 16:]), 1)

    def _tune(self, code: Tensor) -> Generator[Step, None, dict[str, np.ndarray]]:
        """Pivotal tuning (Roich et al. 2021): fit a few weights around the code, which stays."""
        config, tunable = self.config, self.generator.tunable
        shared = self.generator.state_dict(keep_vars=True).items()
        generator = copy.deepcopy(self.generator, {id(t): t for n, t in shared if not tunable.fullmatch(n)})
        weights = {name: p for name, p in generator.named_parameters() if tunable.fullmatch(name)}
        for p in weights.values():
            p.requires_grad_(True)
        render, schedule = partial(self._render, generator, code), ((1024, config.tuning_steps),)
        yield from self._optimise(
            weights.values(), config.tuning_lr, render, schedule, "Tuning the generator"
        )
        return {name: p.detach().cpu().numpy() for name, p in weights.items()}

    def _render(self, generator: "MobileStyleGAN | StyleGAN2", codes: Tensor, size: int) -> Rendered:
        """Render codes (1, 18, 512); the full picture of the default generator in quarters behind its 64 px
        features, which give the same pixels and gradients in less memory."""
        if size < 1024 or not isinstance(generator, MobileStyleGAN):
            with self._precision():
                image = generator(codes, size).float()
            return image.detach(), image.backward
        own = codes.detach().requires_grad_(codes.requires_grad)
        with self._precision():
            features = generator.features(own, 64)
            seen = features.detach().requires_grad_(True)

        def quarter(below: int, right: int) -> Tensor:
            """With two features beyond its inner edges, which is how far neighbours reach."""
            with self._precision():
                part = generator.detail(seen, own, 30 * below, 30 * right, 34).float()
            return part[..., 32 * below :, 32 * right :][..., :512, :512]

        with torch.no_grad():
            rows = (torch.cat((quarter(below, 0), quarter(below, 1)), 3) for below in (0, 1))
            image = torch.cat(tuple(rows), 2)

        def backward(gradient: Tensor) -> None:
            for below, right in itertools.product((0, 1), repeat=2):
                quarter(below, right).backward(gradient[..., 512 * below :, 512 * right :][..., :512, :512])
            features.backward(seen.grad)
            if codes.requires_grad:
                codes.backward(own.grad)

        return image, backward

    def _optimise(
        self,
        tensors: Iterable[Tensor],
        lr: float,
        render: Callable[[int], Rendered],
        schedule: tuple[tuple[int, int], ...],
        message: str,
    ) -> Iterator[Step]:
        """Steps at each size, fewer of them once the picture does not come closer any more."""
        adam, start, work = Adam(tensors), self.done, _work(schedule)
        for size, steps in schedule:
            return_freed_memory()  # between sizes: what one frees the next cannot use in full
            goal = F.interpolate(self.target, size=(size, size), mode="area")
            texture = _texture(goal)
            end, best, stale = self.done + steps * COSTS[size], math.inf, 0
            for step in range(steps):
                image, backward = render(size)
                difference, gradient = self._judge(image, goal, texture, step % READ_EVERY == 0)
                backward(gradient)
                adam.step(lr * max(0.15, 1 - (self.done - start) / work))
                yield self._step(size, message)
                best, stale = (difference, 0) if difference < (1 - CLOSER) * best else (best, stale + 1)
                if stale == PATIENCE:
                    break
            self.done = end

    def _judge(self, image: Tensor, goal: Tensor, texture: Tensor, read: bool) -> tuple[float, Tensor]:
        """How far a picture is from the portrait, and the gradient of that and (`read`) of its readings.

        One part after the other, so that only one keeps what its gradient needs.
        """
        config, image = self.config, image.requires_grad_(True)

        def add(weight: float, loss: Tensor) -> float:
            (weight * loss).backward()
            return weight * float(loss.detach())

        far = add(config.picture_weight, picture_loss(image, goal))
        far += add(config.texture_weight, (_texture(image) - texture).abs().mean())
        with self._precision():
            similarity = (self.identity(image) * self.wanted).sum()
        far += add(config.identity_weight, 1 - similarity)
        if read:
            with self._precision():
                readings = _scaled(self.reader(image))
            add(READ_EVERY * config.reading_weight, (readings - self.readings).abs().mean())
        return far, image.grad

    def _precision(self) -> AbstractContextManager:
        """As near in the end with bfloat16 on a CPU; on other devices float32."""
        return autocast(self.device) if self.device.type == "cpu" else nullcontext()


def _work(schedule: tuple[tuple[int, int], ...]) -> int:
    return sum(steps * COSTS[size] for size, steps in schedule)


def _scaled(scores: dict[str, Tensor]) -> Tensor:
    return torch.stack([ATTRIBUTES[name].score_to_level(score) for name, score in scores.items()])


def picture_loss(image: Tensor, goal: Tensor) -> Tensor:
    """L1 at three scales, of which the coarse ones carry colour and layout past small misalignments.

    A soft window on the aligned face, down to a quarter in the corners, keeps the background from ruling.
    Both (b, 3, s, s) in [-1, 1], s a multiple of 64; the result is one number.
    """
    x = torch.linspace(-1, 1, image.shape[-1], device=image.device)
    window = 0.25 + 2 * torch.exp(-3 * (x[None, :].square() + (x[:, None] - 0.15).square()))
    difference = (image - goal) * (window / window.mean())
    coarse = sum(F.adaptive_avg_pool2d(difference, size).abs().mean() for size in (64, 16))
    return difference.abs().mean() + coarse


def _texture(image: Tensor) -> Tensor:
    """How much fine structure there is around every eighth pixel: mean contrast to the neighbourhood."""
    detail = image - F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
    return F.avg_pool2d(detail.abs(), 8)
