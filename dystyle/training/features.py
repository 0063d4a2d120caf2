"""Train the encoder of the residual: what of a photo no code holds, predicted in one pass.

Portraits of photos and of generated faces that are bent and covered in places, so that their codes lack
something; the loss is on what the generator makes of its features with the residual added.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dystyle.encoders import PASSES
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.precision import autocast
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.photo import (
    FACE,
    Part,
    PhotoConfig,
    Stage,
    descend,
    face_losses,
    picture_losses,
    restore,
    root_mean_square,
)
from dystyle.training.portraits import Portraits, photos_fingerprint

FACE_EVERY = 3  # steps, of which one is on the face; the others see a part of the picture of this side:
SIDE = 36


@dataclass(frozen=True)
class FeaturesConfig(PhotoConfig):
    """Training the encoder of the residual.

    Attributes:
        out: folder of the run, for `portraits` and `features.safetensors`; an interrupted run goes on.
        photos: folder of photos to learn from, of each of which the largest face counts; none: generated
            faces only.
        variants, generated: see `Portraits.prepare`.
        held: how many people are for the report, the photos' first.
        start: weights to go on from (a name or a path), whose structure counts; none: untrained.
        width, inner, outer: of an untrained network, see `FeatureEncoder`.
        second_steps, second_lr: a further stage, in half of whose steps the network looks again, at the
            picture of what it predicted first: `FaceEditor` lets it look twice.
        pixels_weight, texture_weight: see `picture_losses`. identity_weight, perceptual_weight: see
            `face_losses`.
        prior_weight: of the residual's mean square, in units of the features' standard deviation.
    """

    out: Path = Path("runs/features")
    photos: Path | None = None
    variants: int = 2
    generated: int = 400
    held: int = 20
    steps: int = 1000
    batch: int = 4
    start: str | None = None
    width: int = 128
    inner: int = 2
    outer: int = 2
    second_steps: int = 400
    second_lr: float = 5e-4
    pixels_weight: float = 1.0
    texture_weight: float = 4.0
    identity_weight: float = 1.0
    perceptual_weight: float = 1.0
    prior_weight: float = 0.02


def prior(residual: Tensor, scale: Tensor) -> Tensor:
    """Mean square of a residual (b, 512, 64, 64) in units of the features' standard deviations (512,)."""
    return (residual / scale[:, None, None]).square().mean()


def _untrained(config: FeaturesConfig, generator: MobileStyleGAN) -> FeatureEncoder:
    structure = {"width": config.width, "inner": config.inner, "outer": config.outer}
    return FeatureEncoder.for_generator(generator, **structure)


def train_features(config: FeaturesConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Write `features.safetensors` into the run's folder; goes on from the run's checkpoint.

    Args:
        generator: frozen, on the device of the work.

    Returns:
        Of the people held out, root mean square difference at 256 px and cosine of the embeddings, of the
        codes alone ("rmse_code", "identity_code") and with the residual ("rmse", "identity"); and how many
        steps were skipped, see `descend`.

    Raises:
        InputError: there are no photos or no faces in them, too few people are left to learn from, the run in
            the folder was begun otherwise, see `resume`, or as `FeatureEncoder.load`.
    """
    device = generator.mean_w.device
    settings = resume.recipe(config, free=("checkpoint_every",))
    resume.begin(config.out, settings | {"photos": photos_fingerprint(config.photos)})
    editor, generator = FaceEditor.from_pretrained(backend=config.backend), generator.eval()
    data = Portraits.prepare(
        config.out / "portraits",
        config.photos,
        config.variants,
        config.generated,
        config.held + 1,
        config.seed,
        editor,
        generator,
    )
    learnt = np.flatnonzero(data.people(config.variants) >= config.held)
    identity = IdentityNetwork().eval().requires_grad_(False).to(device)
    torch.manual_seed(config.seed)
    network = _untrained(config, generator) if config.start is None else FeatureEncoder.load(config.start)
    network = network.train().requires_grad_(True).to(device, memory_format=torch.channels_last)

    def batch(index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Portraits in full, their codes' renders, and codes."""
        pictures = np.stack([data.pictures[i] for i in index])
        pictures, renders, codes = (
            torch.from_numpy(array).to(device) for array in (pictures, data.renders[index], data.codes[index])
        )
        return pictures.permute(0, 3, 1, 2) / 127.5 - 1, renders.float(), codes

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        portraits, renders, codes = batch(rng.choice(learnt, config.batch))
        gain, offset = torch.from_numpy(rng.standard_normal((2, config.batch, 1, 1, 1))).float().to(device)
        portraits = (portraits * (1 + 0.06 * gain) + 0.04 * offset).clamp(-1, 1)
        part = FACE if step % FACE_EVERY == 0 else Part.draw(rng, SIDE)
        again = step >= config.steps and step // FACE_EVERY % 2 == 1
        passes = PASSES if again else 1
        features, residual = restore(generator, network, portraits, renders, codes, passes)
        seen, wanted = part.decode(generator, features + residual, codes), part.cut(portraits)
        terms = picture_losses(seen, wanted) | {"prior": prior(residual, network.scale)}
        return terms | (face_losses(part.framed(seen), part.framed(wanted), identity) if part is FACE else {})

    stages = Stage(config.steps, config.lr), Stage(config.second_steps, config.second_lr)
    result = descend(config, network, stages, losses)
    network.eval().save(config.out / "features.safetensors", recipe=json.dumps(resume.recipe(config)))

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = []
        for index in range(config.held):
            portraits, renders, codes = batch(np.array([index]))
            features, residual = restore(generator, network, portraits, renders, codes)
            row = []
            for x in (features, features + residual):
                with autocast(codes.device):
                    seen = generator.decode(x, codes).float()
                    cosine = (identity(seen) * identity(portraits)).sum(1)
                row += [float(root_mean_square(seen, portraits).mean()), float(cosine.mean())]
            rows.append(row)
        names = ("rmse_code", "identity_code", "rmse", "identity")
        return dict(zip(names, np.mean(rows, 0).round(3).tolist(), strict=True)) if rows else {}

    return report() | result
