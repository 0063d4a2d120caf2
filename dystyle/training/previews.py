"""Fit the generator's preview heads to its own full output."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import trange

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.training.dataset import FaceDataset
from dystyle.training.resume import make_folder
from dystyle.weights import save


@dataclass(frozen=True)
class PreviewConfig:
    """Fitting the preview heads at 128 and 256 px.

    Attributes:
        dataset: folder of `python -m dystyle.train faces`.
        out: safetensors file to write.
        start: go on from the bundled heads instead of from nothing.
        sizes: the heads to fit; others are written as they are.
        steps: optimiser steps; batch: faces a step; held_out: faces kept for the reported error.
    """

    dataset: Path = Path("runs/faces")
    out: Path = Path("weights/preview_heads.safetensors")
    start: bool = False
    sizes: tuple[int, ...] = (128, 256)
    steps: int = 700
    batch: int = 4
    lr: float = 4e-3
    held_out: int = 64
    seed: int = 0


def train_previews(config: PreviewConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Fit both heads, write them, and return the held-out error.

    Returns:
        By size: root mean squared error on the 0..255 scale.

    Raises:
        InputError: there are too few faces.
    """
    torch.manual_seed(config.seed)
    make_folder(config.out.parent)
    data = FaceDataset.load(config.dataset, least=config.held_out + config.batch)
    heads = generator.previews.requires_grad_(True)
    optimiser = torch.optim.Adam(heads.parameters(), lr=config.lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.steps)

    def errors(index: np.ndarray) -> dict[str, torch.Tensor]:
        codes = torch.from_numpy(data.codes[index])
        target = torch.from_numpy(data.images[index]).permute(0, 3, 1, 2) / 127.5 - 1
        differences = {}
        for size in config.sizes:
            with torch.no_grad():
                features = generator.features(codes, size // 2)
            image = heads[str(size)](features, codes)
            differences[str(size)] = image - F.adaptive_avg_pool2d(target, size)
        return differences

    for step in (progress := trange(config.steps, desc="preview heads")):
        index = np.sort(
            np.random.default_rng((config.seed, step)).choice(
                len(data.codes) - config.held_out, config.batch, False
            )
        )
        difference = errors(index + config.held_out)
        # Charbonnier: near L1, so that sharp edges are not averaged away.
        loss = sum((d.square() + 1e-4).sqrt().mean() for d in difference.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.set_postfix(
            {name: f"{d.square().mean().sqrt() * 127.5:.1f}" for name, d in difference.items()}
        )
    heads.requires_grad_(False)
    squares: dict[str, list[torch.Tensor]] = {str(size): [] for size in config.sizes}
    for start in range(0, config.held_out, config.batch):
        for name, d in errors(np.arange(start, start + config.batch)).items():
            squares[name].append(d.square().mean())
    result = {name: float(torch.stack(s).mean().sqrt() * 127.5) for name, s in squares.items()}
    tensors = {key: value.numpy().astype(np.float16) for key, value in heads.state_dict().items()}
    metadata = {"format": "preview_heads"} | {
        f"rmse_{name}": f"{value:.2f}" for name, value in result.items()
    }
    save(config.out, tensors, **metadata)
    return result
