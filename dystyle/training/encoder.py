"""Train the fast encoder on generated faces, degraded as photos are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from dystyle.encoders.descent import ROWS as PICTURE_ROWS
from dystyle.encoders.fast import ROWS, FastEncoder
from dystyle.encoders.precision import autocast
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.metrics.degradations import degrade, occlude
from dystyle.metrics.distances import perceptual_loss
from dystyle.training import resume
from dystyle.training.dataset import FaceDataset, area

HELD = 128  # faces for the report


@dataclass(frozen=True)
class EncoderConfig:
    """Training of the fast encoder.

    Attributes:
        dataset: folder of rendered faces; out: folder of the run.
        start: encoder weights to start from (a name or a path); their structure counts.
        steps, batch: on codes alone. image_steps, image_batch: then with previews of the predicted codes.
        full_steps, full_batch: last with full pictures, as previews flatter: on them alone, an encoder gains
            likeness that the full picture does not show.
        progressive_steps: in which offsets are allowed for one row after the other, coarse ones first (Tov
            et al. 2021, section 4.1); 0, to start from an encoder that has them.
        code_weight: of the distance to the face's own code. offset_weight: keeps the rows close to one
            another, and so the codes near W. image_weight, identity_weight, perceptual_weight: of what the
            code's picture lacks of the face's.
    """

    dataset: Path = Path("runs/faces")
    out: Path = Path("runs/encoder")
    start: str | None = None
    steps: int = 3000
    batch: int = 32
    image_steps: int = 400
    image_batch: int = 8
    full_steps: int = 400
    full_batch: int = 4
    progressive_steps: int = 1500
    lr: float = 1e-3
    code_weight: float = 1.0
    offset_weight: float = 0.05
    image_weight: float = 2.0
    identity_weight: float = 1.0
    perceptual_weight: float = 1.0
    checkpoint_every: int = 200
    seed: int = 0


def _rows(config: EncoderConfig, step: int) -> int:
    """Rows that may have offsets at this step."""
    if step >= config.progressive_steps:
        return ROWS
    return 1 + int((ROWS - 1) * step / config.progressive_steps)


def code_losses(predicted: Tensor, codes: Tensor, std_w: Tensor) -> dict[str, Tensor]:
    """What predicted codes lack of the faces' own, both (b, 18, 512), in units of W's deviation.

    Returns:
        "code": smooth L1 distance, in which the rows that reach the picture count alike; "offset": mean
        square of what the rows differ from the first one (Tov et al. 2021, section 4.1).
    """
    distance = F.smooth_l1_loss(predicted[:, :PICTURE_ROWS] / std_w, codes[:, :PICTURE_ROWS] / std_w)
    offsets = (predicted[:, 1:] - predicted[:, :1]) / std_w
    return {"code": distance, "offset": offsets.square().mean()}


def picture_losses(rendered: Tensor, images: Tensor, identity: IdentityNetwork) -> dict[str, Tensor]:
    """What rendered pictures lack of the faces', both (b, 3, s, s) in [-1, 1].

    Returns:
        "image": smooth L1 distance of pixels; "identity": 1 - cosine of the embeddings; "perceptual": see
        `perceptual_loss`.
    """
    similarity = (identity(rendered) * identity(images).detach()).sum(1).mean()
    with torch.no_grad():
        wanted = identity.features(images)
    return {
        "image": F.smooth_l1_loss(rendered, images),
        "identity": 1 - similarity,
        "perceptual": perceptual_loss(identity.features(rendered), wanted).mean(),
    }


def train_encoder(config: EncoderConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Train on the generator's device, write `encoder.safetensors` into the run's folder, and return the
    held-out code error.

    Goes on from the run's checkpoint.

    Raises:
        InputError: there are no faces, or the run in the folder was begun otherwise, see `resume`.
    """
    torch.manual_seed(config.seed)
    device = generator.mean_w.device
    data = FaceDataset.load(config.dataset, least=HELD + 1)
    settings = resume.recipe(config, free=("checkpoint_every",))
    resume.begin(config.out, settings | {"faces": data.fingerprint})
    if config.start is None:
        model = FastEncoder(mean_w=generator.mean_w, std_w=generator.std_w)
    else:
        model = FastEncoder.load(config.start).requires_grad_(True).train()
    model = model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.02)
    total = config.steps + config.image_steps + config.full_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=total, pct_start=0.1)
    identity, checkpoint, start = IdentityNetwork().to(device), config.out / resume.NEWEST, 0
    if state := resume.read(checkpoint):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start = state["step"]

    def batch(index: np.ndarray) -> tuple[Tensor, Tensor]:
        images, codes = (
            torch.from_numpy(array[np.sort(index)]).to(device) for array in (data.images, data.codes)
        )
        return images.permute(0, 3, 1, 2) / 127.5 - 1, codes

    for step in (progress := trange(start, total, initial=start, total=total, mininterval=5)):
        torch.manual_seed(config.seed + step)  # so that an interrupted run ends as a straight one
        with_images, in_full = step >= config.steps, step >= config.steps + config.image_steps
        size = config.full_batch if in_full else config.image_batch if with_images else config.batch
        images, codes = batch(
            np.random.default_rng((config.seed, step)).integers(HELD, len(data.codes), size)
        )
        images, small = (images if in_full else area(images, 128)), area(images, 128)
        with autocast(device):
            predicted = model(occlude(degrade(small)), _rows(config, step)).float()
        losses = code_losses(predicted, codes, model.std_w)
        if with_images:
            with autocast(device):
                rendered = generator(predicted, 1024 if in_full else 128).float()
            losses |= picture_losses(area(rendered, images.shape[-1]), images, identity)
        loss = sum(getattr(config, f"{name}_weight") * value for name, value in losses.items())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.set_postfix({name: f"{float(value.detach()):.3f}" for name, value in losses.items()})
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
            parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
            resume.write(checkpoint, {k: v.state_dict() for k, v in parts.items()} | {"step": step + 1})
    model.eval()
    with torch.no_grad():
        images, codes = batch(np.arange(HELD))
        error = float(
            ((model(area(images, 128)) - codes)[:, :PICTURE_ROWS] / model.std_w).square().mean().sqrt()
        )
    model.save(config.out / "encoder.safetensors", steps=str(total), code_rmse=f"{error:.3f}")
    return {"code_rmse_in_std": error}
