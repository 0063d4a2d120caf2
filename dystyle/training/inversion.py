"""Train the fast encoder and the steps behind it together, through the pictures that their codes give.

Codes are a poor teacher: most of what tells two of them apart cannot be seen, and a photo has none. Here the
pictures are compared, so the faces may be bent and lit as no code of the generator's gives them, as photos
are. ReStyle (Alaluf et al. 2021) trains its steps so, too.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from dystyle.encoders.descent import COLOUR_SIDE, ROWS, WINDOW, DescentStep, load_steps, save_steps
from dystyle.encoders.fast import FastEncoder
from dystyle.encoders.precision import autocast
from dystyle.encoders.refine import picture_loss
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.metrics.degradations import bend, degrade, occlude
from dystyle.metrics.distances import perceptual_loss
from dystyle.training import resume
from dystyle.training.dataset import FaceDataset, area

PREVIEW, FULL = 128, 1024


@dataclass(frozen=True)
class InverterConfig:
    """Training the fast encoder and its descent on bent faces.

    Attributes:
        faces: folder of rendered faces (`python -m dystyle.train faces`). held: how many are for the report.
        out: folder of the run, for `encoder.safetensors` and `descent.safetensors`; an interrupted run goes
            on.
        encoder, descent: weights to start from (names or paths).
        encoder_lr: of Adam. descent_lr: likewise, as a share of each map's root mean square.
        picture_weight, identity_weight, perceptual_weight: of what the previews lack of the picture.
        w_weight, spread_weight: as in `RefineConfig`.
        code_weight: of the distance to the face's own code in the rows that the previews do not show.
        steps, batch: with previews of 128 px. full_steps, full_batch: then with full pictures, whose colours
            previews only guess.
    """

    faces: Path = Path("runs/faces")
    held: int = 64
    out: Path = Path("runs/inversion")
    encoder: str = "encoder"
    descent: str = "descent"
    steps: int = 2000
    batch: int = 12
    full_steps: int = 100
    full_batch: int = 3
    encoder_lr: float = 2e-4
    descent_lr: float = 0.01
    picture_weight: float = 1.0
    identity_weight: float = 1.0
    perceptual_weight: float = 1.0
    w_weight: float = 0.004
    spread_weight: float = 0.008
    code_weight: float = 1.0
    ema: float = 0.99
    checkpoint_every: int = 100
    seed: int = 0


class Inverter(nn.Module):
    """The fast encoder and the steps behind it, with what they look at.

    Args:
        generator, identity: frozen, on the device of the work.
    """

    def __init__(self, config: InverterConfig, generator: MobileStyleGAN, identity: IdentityNetwork) -> None:
        super().__init__()
        self.looks = (generator, identity)  # a tuple, whose networks are not this module's own
        self.encoder = FastEncoder.load(config.encoder).requires_grad_(True)
        self.reads, self.writes = nn.ParameterList(), nn.ParameterList()
        for step in load_steps(config.descent):
            read, write = torch.from_numpy(step.read), torch.from_numpy(step.write)
            write = write / self.encoder.std_w.repeat(ROWS)
            even = (write.square().mean() / read.square().mean()) ** 0.25  # both factors learn alike
            self.reads.append(read * even)
            self.writes.append(write / even)
        self.register_buffer("window", torch.from_numpy(WINDOW))

    def forward(
        self, photos: Tensor, pictures: Tensor, size: int = PREVIEW
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Codes of photos of these pictures, (b, 3, s, s) in [-1, 1]: the encoder's, and after each step.

        Yields:
            Codes (b, 18, 512), what they render to at `size` px, averaged down to s px, and the embeddings of
            that; each with gradients of its own step.
        """
        with autocast(photos.device):
            codes = self.encoder(photos).float()
            wanted = self._describe(pictures, self.looks[1](pictures).float())
        for read, write in (*zip(self.reads, self.writes, strict=True), (None, None)):
            with autocast(photos.device):
                rendered = area(self.looks[0](codes, size).float(), pictures.shape[-1])
                embeddings = self.looks[1](rendered).float()
            yield codes, rendered, embeddings
            if read is not None:
                if size == FULL:  # `FaceEditor` compares previews all the same
                    with torch.no_grad(), autocast(photos.device):
                        rendered = self.looks[0](codes, 256).float()
                        embeddings = self.looks[1](rendered).float()
                lacking = wanted - self._describe(rendered, embeddings)
                move = (lacking.detach() @ read @ write).unflatten(1, (ROWS, -1)) * self.encoder.std_w
                codes = codes.detach()
                codes = torch.cat((codes[:, :ROWS] + move, codes[:, ROWS:]), 1)

    def _describe(self, pictures: Tensor, embeddings: Tensor) -> Tensor:
        """`describe` of pictures (b, 3, s, s): (b, 1792)."""
        colours = F.adaptive_avg_pool2d((pictures.clamp(-1, 1) + 1) / 2, COLOUR_SIDE) * self.window
        return torch.cat((embeddings, colours.permute(0, 2, 3, 1).flatten(1)), 1)

    def losses(
        self, photos: Tensor, pictures: Tensor, own: Tensor, config: InverterConfig, size: int = PREVIEW
    ) -> tuple[Tensor, list[float]]:
        """The loss of all codes, and the mean cosine to the picture before and after each step.

        Args:
            photos, pictures, size: as in `forward`. own: (b, 18, 512), what the faces were made of.
        """
        generator, identity = self.looks
        with torch.no_grad(), autocast(photos.device):
            wanted, features = identity(pictures).float(), identity.features(pictures)
        total, cosines, rows = 0, [], generator.rows(size)
        for codes, rendered, embeddings in self(photos, pictures, size):
            cosine = (embeddings * wanted).sum(1).mean()
            with autocast(photos.device):
                perceptual = perceptual_loss(identity.features(rendered), features).float().mean()
            used = (codes[:, :ROWS] - generator.mean_w) / generator.std_w
            spread = (used - used.mean(1, keepdim=True)).square().mean()
            total = total + config.picture_weight * picture_loss(rendered, pictures)
            total = total + config.identity_weight * (1 - cosine) + config.perceptual_weight * perceptual
            total = total + config.w_weight * used.square().mean() + config.spread_weight * spread
            if rows < ROWS:
                wanted_rows = (own[:, rows:ROWS] - generator.mean_w) / generator.std_w
                total = total + config.code_weight * F.smooth_l1_loss(used[:, rows:], wanted_rows)
            cosines.append(float(cosine.detach()))
        return total, cosines

    def save(self, folder: Path, **metadata: str) -> None:
        """Write the encoder and the steps."""
        scale = self.encoder.std_w.repeat(ROWS)
        steps = [
            DescentStep(read.detach().cpu().numpy(), (write.detach() * scale).cpu().numpy())
            for read, write in zip(self.reads, self.writes, strict=True)
        ]
        self.encoder.save(folder / "encoder.safetensors", **metadata)
        save_steps(folder / "descent.safetensors", steps, **metadata)


def train_inversion(config: InverterConfig, generator: MobileStyleGAN) -> dict[str, list[float]]:
    """Write the encoder and its steps into the run's folder; goes on from the run's checkpoint.

    Args:
        generator: makes the previews, on the device of the work.

    Returns:
        "before" and "after": mean cosine of the held-out faces' previews to the pictures, of the encoder's
        codes and after each step.

    Raises:
        InputError: as `FastEncoder.load`, `load_steps`, there are no faces, or the run in the folder was
            begun otherwise, see `resume`.
    """
    device = generator.mean_w.device
    data = FaceDataset.load(config.faces, least=config.held + max(config.batch, config.full_batch))
    checkpoint = config.out / resume.NEWEST
    settings = resume.recipe(config, free=("checkpoint_every",))
    resume.begin(config.out, settings | {"faces": data.fingerprint})
    identity = IdentityNetwork().eval().requires_grad_(False).to(device)
    generator = generator.eval().requires_grad_(False)
    model = Inverter(config, generator, identity).to(device, memory_format=torch.channels_last).eval()
    maps = [*model.reads, *model.writes]
    groups = [{"params": list(model.encoder.parameters()), "most": config.encoder_lr}]
    for values in maps:
        most = config.descent_lr * float(values.detach().square().mean().sqrt())
        groups.append({"params": [values], "most": most})
    optimiser = torch.optim.Adam(groups, lr=config.encoder_lr, betas=(0.9, 0.99))
    average = {name: values.detach().clone() for name, values in model.named_parameters()}

    def batch(index: np.ndarray, seed: int, in_full: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Photos, pictures and codes of faces; every second time something is before them."""
        torch.manual_seed(seed)
        images, codes = (torch.from_numpy(array[index]).to(device) for array in (data.images, data.codes))
        images = images.permute(0, 3, 1, 2) / 127.5 - 1
        pictures = bend(images if in_full else area(images, PREVIEW))
        photos = degrade(pictures)
        return (occlude(photos) if seed % 2 else photos), pictures, codes

    @torch.no_grad()
    def report() -> list[float]:
        parts = np.array_split(np.arange(config.held), -(-config.held // 8))
        cosines = [model.losses(*batch(part, 0), config)[1] for part in parts]
        return np.mean(cosines, 0).round(4).tolist()

    if state := resume.read(checkpoint):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average = {name: values.to(device) for name, values in state["average"].items()}
        before, start = state["before"], state["step"]
    else:
        before, start = report(), 0
    total = config.steps + config.full_steps
    for step in (progress := trange(start, total, initial=start, total=total, mininterval=5)):
        in_full = step >= config.steps
        size, count = (FULL, config.full_batch) if in_full else (PREVIEW, config.batch)
        rng = np.random.default_rng((config.seed, step))  # so that an interrupted run ends as a straight one
        index = np.sort(rng.choice(np.arange(config.held, len(data.codes)), count, replace=False))
        seed = 10**6 * config.seed + step + 1
        loss, cosines = model.losses(*batch(index, seed, in_full), config, size)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = group["most"] * min(1, (step + 1) / 30) * (1 - 0.95 * step / total)
        optimiser.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        for name, values in model.named_parameters():
            average[name].lerp_(values.detach(), 1 - decay)
        progress.set_postfix(loss=f"{float(loss.detach()):.3f}", identity=np.round(cosines, 3).tolist())
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            resume.write(checkpoint, state | {"before": before, "step": step + 1})
    for name, values in model.named_parameters():
        values.data.copy_(average[name])
    model.save(config.out, recipe=json.dumps(resume.recipe(config)))
    return {"before": before, "after": report()}
