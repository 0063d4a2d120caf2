"""Train a DyStyle editor: latent warm-up, then single attributes (easy), then random subsets (hard).

The generator and the networks that read its pictures are frozen; gradients run through them into the
editor. Starting codes are drawn, rendered and read once.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm, trange

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import MEASURED, FaceReader, IdentityNetwork
from dystyle.training.dataset import sample_codes
from dystyle.training.guide import LatentGuide, fit_guide
from dystyle.training.losses import attribute_loss, carried_loss, identity_loss, norm_loss, preservation_loss

# Targets are drawn where faces can follow; the table's full ranges are what the slider shows.
TARGET_RANGES = {"yaw": (-32, 32), "pitch": (-18, 18), "age": (6, 75)}


@dataclass(frozen=True)
class EditorConfig:
    """Training of the DyStyle editor.

    Attributes:
        out: folder of the run (checkpoints, log, final weights); an interrupted run goes on.
        faces: number of starting codes.
        attributes: names of the experts.
        rows, hidden: structure of the editor, see `DyStyle`.
        size: pixels of the pictures that are read.
        compared: faces rendered in full to learn how previews read differently, see `fit_correction`.
        guide_steps: steps of fitting the latent guide.
        warmup_steps: steps of 128 codes on the latent guide, before any picture is rendered.
        steps, batch, groups: picture steps; each batch is split into groups of one configuration each.
        easy: share of the steps with one attribute at a time.
        most: most attributes in a configuration of the hard stage.
    """

    out: Path = Path("runs/editor")
    faces: int = 4000
    attributes: tuple[str, ...] = MEASURED
    rows: int = 9
    hidden: int = 160
    size: int = 128
    compared: int = 96
    guide_steps: int = 4000
    warmup_steps: int = 2500
    steps: int = 2500
    batch: int = 8
    groups: int = 4
    easy: float = 0.35
    most: int = 4
    lr: float = 4e-4
    identity_weight: float = 2.0
    norm_weight: float = 0.04
    preservation_weight: float = 0.3
    ema: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


def sample_configuration(names: tuple[str, ...], count: int, batch: int) -> dict[str, Tensor]:
    """A uniform random configuration of `count` attributes with uniform targets, (batch,) each.

    Binary targets are the two ends in two cases of three and anything between otherwise.
    """
    configuration = {}
    for name in [names[i] for i in torch.randperm(len(names))[:count]]:
        row = ATTRIBUTES[name]
        uniform = torch.rand(batch)
        if row.kind == "binary":
            uniform = torch.where(torch.rand(batch) < 2 / 3, uniform.round(), uniform)
        low, high = TARGET_RANGES.get(name, (row.low, row.high))
        configuration[name] = low + uniform * (high - low)
    return configuration


@torch.no_grad()
def read_faces(
    codes: Tensor,
    generator: MobileStyleGAN,
    reader: FaceReader,
    identity: IdentityNetwork,
    size: int,
    cache: Path,
) -> tuple[Tensor, Tensor]:
    """Signals (n, 10) and embeddings (n, 1024) of the codes' pictures at `size` px; kept in `cache`."""
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        return stored["signals"], stored["embeddings"]
    signals, embeddings = [], []
    for chunk in tqdm(codes.split(8), desc="reading faces", mininterval=5):
        images = generator(chunk, size)
        signals.append(reader.signals(images))
        embeddings.append(identity(images))
    result = torch.cat(signals), torch.cat(embeddings)
    torch.save({"signals": result[0], "embeddings": result[1]}, cache)
    return result


@torch.no_grad()
def fit_correction(
    codes: Tensor, scores: Mapping[str, Tensor], generator: MobileStyleGAN, reader: FaceReader
) -> dict[str, tuple[float, float]]:
    """Gain and offset by attribute that turn a preview's readings into those of the full picture.

    Previews are smooth, so an old face reads ten years younger on them; an editor trained on what they
    show would fall short by as much. Least squares over `codes`, whose preview readings are `scores`.
    """
    full = [reader(generator(chunk)) for chunk in tqdm(codes.split(4), desc="full pictures", mininterval=5)]
    correction = {}
    for name, preview in scores.items():
        wanted = torch.cat([part[name] for part in full])
        x = torch.stack((preview[: len(codes)], torch.ones(len(codes))), 1)
        gain, offset = torch.linalg.lstsq(x, wanted[:, None]).solution[:, 0].tolist()
        correction[name] = (gain, offset)
    return correction


class EditorTrainer:
    """Everything one training run holds; `run` goes from the warm-up to the final weights."""

    def __init__(self, config: EditorConfig, generator: MobileStyleGAN) -> None:
        torch.manual_seed(config.seed)
        self.config, self.generator = config, generator
        self.reader, self.identity = FaceReader(), IdentityNetwork()
        config.out.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(config.seed)
        mean_w = generator.mean_w.numpy()
        self.codes = torch.from_numpy(sample_codes(rng, config.faces, generator.map, mean_w))
        signals, self.embeddings = read_faces(
            self.codes, generator, self.reader, self.identity, config.size, config.out / "readings.pt"
        )
        scores = self.reader.calibrate(signals)
        self.correction = fit_correction(self.codes[: config.compared], scores, generator, self.reader)
        self.scores = self.corrected(scores)
        self.editor = DyStyle(
            config.attributes, config.rows, config.hidden, generator.mean_w, generator.std_w
        )
        self.average = DyStyle(
            config.attributes, config.rows, config.hidden, generator.mean_w, generator.std_w
        )
        self.optimiser = torch.optim.Adam(self.editor.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.step = 0

    def corrected(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the full picture would read, from the readings of its preview."""
        gains = self.correction
        return {name: score * gains[name][0] + gains[name][1] for name, score in scores.items()}

    def run(self) -> Path:
        """Train to the end, going on from the run's last checkpoint; returns the weights' path."""
        checkpoint = self.config.out / "checkpoint.pt"
        if checkpoint.exists():
            self.load(checkpoint)
        else:
            self.warm_up()
            self.average.load_state_dict(self.editor.state_dict())
            self.save(checkpoint)
        writer = SummaryWriter(self.config.out)
        progress = trange(self.step, self.config.steps, initial=self.step, total=self.config.steps)
        for step in progress:
            logs = self.train_step()
            self.step = step + 1
            for name, value in logs.items():
                writer.add_scalar(name, value, step)
            if step % 20 == 0:
                progress.write(f"{step} " + " ".join(f"{k}={v:.3f}" for k, v in logs.items()))
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save(checkpoint)
        return self.config.out / "dystyle.safetensors"

    def warm_up(self) -> None:
        """Minutes of image training in seconds: the guide stands in for generator and readers."""
        config = self.config
        x = (self.codes - self.generator.mean_w) / self.generator.std_w
        names = list(self.scores)
        readings = torch.stack([self.scores[name] for name in names], 1)
        guide, r2 = fit_guide(x, readings, config.guide_steps)
        print("guide R2 on held-out faces:", {n: round(float(v), 2) for n, v in zip(names, r2, strict=True)})
        self._set_lr(1e-3)
        for step in trange(config.warmup_steps, desc="warm-up", mininterval=5):
            index = torch.randint(len(self.codes), (128,))
            count = 1 if step < config.warmup_steps / 2 else int(torch.randint(1, config.most + 1, ()))
            configuration = sample_configuration(self.editor.names, count, len(index))
            edited = self.editor(self.codes[index], configuration)
            scores = self._guided(guide, edited, names)
            before = {name: self.scores[name][index] for name in names}
            loss = sum(attribute_loss(scores, configuration).values()).mean()
            loss = loss + config.preservation_weight * preservation_loss(scores, before, configuration)
            loss = loss + 2 * config.norm_weight * norm_loss(edited, self.codes[index], self.generator.std_w)
            self._descend(loss)

    def _guided(self, guide: LatentGuide, edited: Tensor, names: list[str]) -> dict[str, Tensor]:
        x = (edited - self.generator.mean_w) / self.generator.std_w
        return dict(zip(names, guide(x + 0.1 * torch.randn_like(x)).unbind(1), strict=True))

    def train_step(self) -> dict[str, float]:
        """One step on rendered pictures; returns the numbers to log."""
        config = self.config
        easy = self.step < config.easy * config.steps
        index = torch.randint(len(self.codes), (config.batch,))
        edits = []
        for chunk in index.chunk(config.groups):
            count = 1 if easy else int(torch.randint(1, config.most + 1, ()))
            configuration = sample_configuration(self.editor.names, count, len(chunk))
            edits.append((chunk, configuration, self.editor(self.codes[chunk], configuration)))
        edited = torch.cat([edit for _, _, edit in edits])
        images = self._view(self.generator(edited, config.size))
        shift, scale = torch.randn(config.batch, 2) * 0.012, 1 + torch.randn(config.batch) * 0.03
        scores = self.corrected(self.reader(images, shift, scale))
        logs: dict[str, Tensor] = {}
        self._attribute_terms(edits, scores, logs)
        logs["loss/identity"] = identity_loss(self.identity(images), self.embeddings[index])
        logs["loss/norm"] = norm_loss(edited, self.codes[index], self.generator.std_w)
        loss = (
            logs["loss/attributes"]
            + config.preservation_weight * logs["loss/preservation"]
            + config.identity_weight * logs["loss/identity"]
            + config.norm_weight * logs["loss/norm"]
        )
        self._set_lr(config.lr * min(1, (self.step + 1) / 50) * (1 - 0.95 * self.step / config.steps))
        logs["gradient"] = self._descend(loss)
        decay = min(config.ema, (self.step + 1) / (self.step + 10))
        for average, parameter in zip(self.average.parameters(), self.editor.parameters(), strict=True):
            average.data.lerp_(parameter.data, 1 - decay)
        return {name: float(value.detach()) for name, value in logs.items()}

    def _attribute_terms(self, edits: list, scores: Mapping[str, Tensor], logs: dict[str, Tensor]) -> None:
        """Attribute and preservation losses, group by group."""
        start, attribute, preservation = 0, [], []
        for chunk, configuration, _ in edits:
            part = {name: score[start : start + len(chunk)] for name, score in scores.items()}
            start += len(chunk)
            losses = attribute_loss(part, configuration)
            attribute.append(sum(losses.values()).mean() + carried_loss(part, configuration))
            before = {name: self.scores[name][chunk] for name in part}
            preservation.append(preservation_loss(part, before, configuration))
            logs |= {f"attribute/{name}": value.mean() for name, value in losses.items()}
        logs["loss/attributes"] = torch.stack(attribute).mean()
        logs["loss/preservation"] = torch.stack(preservation).mean()

    @staticmethod
    def _view(images: Tensor) -> Tensor:
        """What a network may not exploit: exact grey values and pixel noise."""
        bounded = images.clamp(-1, 1) + 0.05 * (images - images.clamp(-1, 1))
        return bounded + 0.02 * torch.randn_like(images)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def _descend(self, loss: Tensor) -> Tensor:
        """One optimiser step; returns the gradient's norm. A step with a wild gradient is skipped."""
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.editor.parameters(), 1.0)
        if math.isfinite(norm) and norm < 60:
            self.optimiser.step()
        return norm

    def save(self, path: Path) -> None:
        """Checkpoint of everything needed to go on, and the averaged weights beside it."""
        state = {
            "editor": self.editor.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "random": torch.get_rng_state(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)
        recipe = json.dumps(asdict(self.config), default=str)
        self.average.save(path.parent / "dystyle.safetensors", steps=str(self.step), recipe=recipe)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.editor.load_state_dict(state["editor"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
