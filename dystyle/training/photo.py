"""What the trainings for photos share: losses of pictures, the loop, rows of arrays on disk.

See `dystyle.training.features` and `dystyle.training.carrier`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from dystyle.encoders import PASSES, PHOTO, RENDER, SIZE
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.precision import autocast
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.metrics.distances import perceptual_loss
from dystyle.training import resume

FULL = 1024
STRIDE = 16  # px of the full picture by px of the features
MARGIN = 32  # px at the border of a part, which lack their neighbours
PYRAMID = (1, 2, 4, 8, 32)
LEAST = 0.03  # of the learning rate, at the end
NOTED = 20  # rows that an interrupted preparation makes again, at most


@dataclass(frozen=True)
class PhotoConfig:
    """What both trainings can be told.

    Attributes:
        out: folder of the run; an interrupted one goes on.
        steps, batch, lr: of AdamW. In every stage the rate rises over `warm_up` steps, then falls to 3 %
            along a cosine.
        ema: decay of the averaged weights, which are written.
        backend: makes the data, see `FaceEditor.from_pretrained`.
    """

    out: Path
    steps: int
    batch: int
    lr: float = 1e-3
    warm_up: int = 40
    ema: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0
    backend: str = "auto"


# ----------------------------------------------------------------------------------------------- losses


class Part(NamedTuple):
    """A square of the picture, in px of the features: see `MobileStyleGAN.detail`."""

    top: int
    left: int
    side: int

    @classmethod
    def draw(cls, rng: np.random.Generator, side: int) -> "Part":
        return cls(*rng.integers(0, FULL // STRIDE - side + 1, 2).tolist(), side)

    def cut(self, pictures: Tensor) -> Tensor:
        """This part of pictures (b, 3, 1024, 1024) without its margin."""
        top, left, side = (STRIDE * number for number in self)
        rows, columns = (slice(start + MARGIN, start + side - MARGIN) for start in (top, left))
        return pictures[..., rows, columns]

    def decode(self, generator: MobileStyleGAN, features: Tensor, codes: Tensor) -> Tensor:
        """The same of the pictures of features (b, 512, 64, 64) and codes (b, 18, 512), in float32."""
        with autocast(features.device):
            pictures = generator.detail(features, codes, *self).float()
        return pictures[..., MARGIN:-MARGIN, MARGIN:-MARGIN]

    def framed(self, cut: Tensor) -> Tensor:
        """What was cut, at 256 px where it belongs in the whole picture; grey around it."""
        top, left, side = (STRIDE * number for number in self)
        left, right = left + MARGIN, FULL - left - side + MARGIN
        top, bottom = top + MARGIN, FULL - top - side + MARGIN
        return F.avg_pool2d(F.pad(cut, (left, right, top, bottom)), FULL // RENDER)


FACE = Part(top=12, left=8, side=48)


def texture(pictures: Tensor) -> Tensor:
    """Fine structure by place: mean absolute difference from the 5 x 5 average, in squares of 16 px."""
    return F.avg_pool2d((pictures - F.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False)).abs(), 16)


def picture_losses(seen: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """What pictures (b, 3, s, s) lack of others.

    Returns:
        "pixels": absolute difference, summed over a pyramid of averages; "texture": that of `texture`, which
        does not ask for the same hair in the same place, but for as much of it.
    """
    difference = seen - wanted
    return {
        "pixels": sum(F.avg_pool2d(difference, size).abs().mean() for size in PYRAMID),
        "texture": (texture(seen) - texture(wanted)).abs().mean(),
    }


def face_losses(seen: Tensor, wanted: Tensor, identity: IdentityNetwork) -> dict[str, Tensor]:
    """What faces in pictures (b, 3, 256, 256) lack of others.

    Returns:
        "identity": 1 - cosine of the embeddings; "perceptual": see `perceptual_loss`.
    """
    with autocast(seen.device):
        embeddings, features = identity(seen).float(), [x.float() for x in identity.features(seen)]
        with torch.no_grad():
            own = identity(wanted).float()
            own_features = [x.float() for x in identity.features(wanted)]
    return {
        "identity": 1 - (embeddings * own).sum(1).mean(),
        "perceptual": perceptual_loss(features, own_features).mean(),
    }


def root_mean_square(seen: Tensor, wanted: Tensor) -> Tensor:
    """Difference (b,) of pictures (b, 3, 1024, 1024) in [-1, 1] at 256 px, in levels of 255."""
    difference = F.avg_pool2d(seen.clamp(-1, 1) - wanted, FULL // RENDER)
    return difference.square().mean((1, 2, 3)).sqrt() * 127.5


# ------------------------------------------------------------------------------------------------- loop


class Stage(NamedTuple):
    """A part of a training with a rise and fall of the learning rate of its own."""

    steps: int
    lr: float


def descend(
    config: PhotoConfig,
    network: nn.Module,
    stages: Sequence[Stage],
    losses: Callable[[int], dict[str, Tensor]],
) -> dict[str, int]:
    """Train a network in place; goes on from the run's checkpoint.

    Weights that a step's terms do not reach stay as they are.

    Args:
        losses: step -> its terms, each of which has a weight in `config`. The same step draws the same
            batch, so that an interrupted run ends as a straight one. Steps count through all stages.

    Returns:
        "skipped": steps whose gradient was not finite, which changed nothing.
    """
    checkpoint, start, skipped = config.out / resume.NEWEST, 0, 0
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    average = {name: values.detach().clone() for name, values in network.named_parameters()}
    if state := resume.read(checkpoint):
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        for name, values in average.items():
            values.copy_(state["average"][name])
        start, skipped = state["step"], state["skipped"]
    plan = [(stage, done) for stage in stages for done in range(stage.steps)]
    for step in (progress := trange(start, len(plan), initial=start, total=len(plan), mininterval=5)):
        stage, done = plan[step]
        falling = LEAST + (1 - LEAST) * (1 + math.cos(math.pi * done / stage.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = stage.lr * min(1, (done + 1) / config.warm_up) * falling
        terms = losses(step)
        loss = sum(getattr(config, f"{name}_weight") * value for name, value in terms.items())
        optimiser.zero_grad()
        loss.backward()
        if math.isfinite(float(nn.utils.clip_grad_norm_(network.parameters(), 1.0))):
            optimiser.step()
            decay = min(config.ema, (step + 1) / (step + 10))
            for name, values in network.named_parameters():
                average[name].lerp_(values.detach(), 1 - decay)
        else:
            skipped += 1
        shown = {name: f"{float(value.detach()):.3f}" for name, value in terms.items()}
        progress.set_postfix(shown | {"skipped": skipped}, refresh=False)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == len(plan):
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            resume.write(checkpoint, state | {"average": average, "step": step + 1, "skipped": skipped})
    for name, values in network.named_parameters():
        values.data.copy_(average[name])
    return {"skipped": skipped}


# ------------------------------------------------------------------------------------------------- data


def restore(
    generator: MobileStyleGAN,
    encoder: FeatureEncoder,
    portraits: Tensor,
    renders: Tensor,
    codes: Tensor,
    passes: int = PASSES,
) -> tuple[Tensor, Tensor]:
    """Features of codes (b, 18, 512), and residuals after so many looks, both (b, 512, 64, 64) float32.

    As `dystyle.engines.graphs.Restoring`, with gradients of the last look.

    Args:
        portraits: (b, 3, 1024, 1024) in [-1, 1]. renders: (b, 3, 256, 256), the codes' previews.
    """
    portraits = F.avg_pool2d(portraits, FULL // PHOTO)
    with autocast(codes.device):
        with torch.no_grad():
            features = generator.features(codes, SIZE).float()
            residual = torch.zeros_like(features)
            for _ in range(passes - 1):
                residual = residual + encoder(portraits, renders, features + residual, codes).float()
                renders = generator.decode(features + residual, codes, RENDER).float()
        return features, residual + encoder(portraits, renders, features + residual, codes).float()


@torch.no_grad()
def render(generator: MobileStyleGAN, code: np.ndarray) -> np.ndarray:
    """A code's (18, 512) preview, as the feature encoder is shown it: (3, 256, 256) float16."""
    codes = torch.from_numpy(code)[None].to(generator.mean_w.device)
    return generator(codes, RENDER)[0].cpu().numpy().astype(np.float16)


def fill(
    folder: Path,
    count: int,
    columns: Mapping[str, tuple[tuple[int, ...], type]],
    make: Callable[[int], tuple[np.ndarray, ...]],
) -> dict[str, np.ndarray]:
    """Memory-mapped arrays (count, *shape) in a folder, made row by row; goes on where it stopped.

    Args:
        columns: shape of a row and type of its numbers, by the array's name.
        make: index -> the row, in the order of `columns`; the same index gives the same row.

    Raises:
        InputError: the folder cannot be written, or holds damaged or other rows.
    """
    resume.make_folder(folder)
    note, paths = folder / "done.txt", [folder / f"{name}.npy" for name in columns]
    try:
        done = int(note.read_text()) if note.exists() else 0
        if not done:
            for path, (shape, kind) in zip(paths, columns.values(), strict=True):
                np.lib.format.open_memmap(path, "w+", kind, (count, *shape)).flush()
        arrays = [np.lib.format.open_memmap(path, "r+") for path in paths]
    except (OSError, ValueError) as error:
        raise InputError(f"What '{folder}' holds is damaged; delete the folder to make it again.") from error
    if [array.shape for array in arrays] != [(count, *shape) for shape, _ in columns.values()]:
        raise InputError(f"'{folder}' holds another number of rows; delete the folder to make it again.")
    for index in trange(done, count, initial=done, total=count, desc=f"making {folder.name}", mininterval=10):
        for array, row in zip(arrays, make(index), strict=True):
            array[index] = row
        if (index + 1) % NOTED == 0 or index + 1 == count:
            for array in arrays:
                array.flush()
            with resume.whole(note) as file:
                file.write(str(index + 1).encode())
    return {path.stem: np.load(path, mmap_mode="r") for path in paths}
