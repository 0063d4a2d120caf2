"""Train a DyStyle editor: latent warm-up, then single attributes (easy), then random subsets (hard).

The generator and the networks that read its pictures are frozen; gradients run through them into the
editor. The starting codes are those of a rendered dataset; what pictures show of them is read once.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm, trange

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.training.dataset import FaceDataset
from dystyle.training.guide import fit_guide
from dystyle.training.losses import (
    attribute_loss,
    carried_loss,
    identity_loss,
    identity_tolerance,
    norm_loss,
    preservation_loss,
)

# Targets are drawn where faces can follow; the table's full ranges are what the slider shows.
TARGET_RANGES = {"yaw": (-32, 32), "pitch": (-18, 18), "age": (6, 75)}
# Preview size -> W+ rows its picture is made from; it knows later rows only through their average.
PREVIEW_ROWS = {128: 9, 256: 11}
# Share of numeric targets that are the face's own value: an edit to what is there already changes nothing.
STAY = 0.1
IDENTITY_DIMENSIONS = 48


@dataclass(frozen=True)
class EditorConfig:
    """Training of the DyStyle editor.

    Attributes:
        out: folder of the run (checkpoints, log, final weights); an interrupted run goes on.
        faces: folder of rendered faces (`python -m dystyle.train faces`), for the guide and to start from.
        starts, fine_starts: how many of them edits start from at 128 px and at 256 px.
        attributes: names of the experts.
        start: weights to start from (a name or a path). only_new: the experts that they have stay as they
            are; new ones and the fusion learn.
        rows, hidden: structure of the editor, see `DyStyle`.
        compared: faces that show how previews read differently from full pictures, see `fit_correction`.
        guide_steps: steps of fitting the latent guide.
        warmup_steps: steps of 128 codes on the latent guide, before any picture is rendered.
        steps, batch, groups: picture steps; each batch is split into groups of one configuration each.
        easy: share of the steps with one attribute at a time.
        fine: share of the steps, the last ones, with pictures of 256 px instead of 128.
        most: most attributes in a configuration of the hard stage.
    """

    out: Path = Path("runs/editor")
    faces: Path = Path("runs/faces")
    starts: int = 3000
    fine_starts: int = 1000
    attributes: tuple[str, ...] = tuple(ATTRIBUTES)
    start: str | None = None
    only_new: bool = False
    rows: int = 11
    hidden: int = 160
    compared: int = 256
    guide_steps: int = 4000
    warmup_steps: int = 3000
    steps: int = 2500
    batch: int = 8
    groups: int = 4
    easy: float = 0.3
    fine: float = 0.15
    most: int = 5
    lr: float = 4e-4
    identity_weight: float = 2.0
    norm_weight: float = 0.04
    preservation_weight: float = 0.4
    ema: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


def sample_configuration(
    names: tuple[str, ...], count: int, current: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A uniform random configuration of `count` attributes with uniform targets, (b,) each.

    Binary targets are the two ends in two cases of three and anything between otherwise. A few numeric
    ones stay where they are.

    Args:
        current: the faces' scores, (b,) by name.
    """
    configuration = {}
    for name in [names[i] for i in torch.randperm(len(names))[:count]]:
        row, batch = ATTRIBUTES[name], len(current[name])
        uniform = torch.rand(batch)
        if row.kind == "binary":
            configuration[name] = torch.where(torch.rand(batch) < 2 / 3, uniform.round(), uniform)
            continue
        low, high = TARGET_RANGES.get(name, (row.low, row.high))
        stay = current[name].sigmoid() if name == "gender" else current[name].clamp(row.low, row.high)
        configuration[name] = torch.where(torch.rand(batch) < STAY, stay, low + uniform * (high - low))
    return configuration


@dataclass(frozen=True)
class Readings:
    """What networks see of n faces: scores (n,) by attribute, and identity embeddings (n, 1024)."""

    scores: dict[str, Tensor]
    embeddings: Tensor

    def __getitem__(self, index) -> "Readings":
        return Readings({name: score[index] for name, score in self.scores.items()}, self.embeddings[index])


def fit_correction(
    preview: Mapping[str, Tensor], full: Mapping[str, Tensor]
) -> dict[str, tuple[float, float]]:
    """Gain and offset by attribute that turn a preview's readings into those of the full picture.

    Previews are smooth, so an old face reads ten years younger on them; an editor trained on what they
    show would fall short by as much. Least squares over the same faces, read both ways.
    """
    correction = {}
    for name, x in preview.items():
        x = torch.stack((x, torch.ones_like(x)), 1)
        gain, offset = torch.linalg.lstsq(x, full[name][:, None]).solution[:, 0].tolist()
        correction[name] = (gain, offset)
    return correction


class EditorTrainer:
    """Everything one training run holds; `run` goes from the warm-up to the final weights."""

    def __init__(self, config: EditorConfig, generator: MobileStyleGAN) -> None:
        torch.manual_seed(config.seed)
        self.config, self.generator = config, generator
        self.reader, self.identity = FaceReader(), IdentityNetwork()
        config.out.mkdir(parents=True, exist_ok=True)
        self.data = FaceDataset.load(config.faces)
        self.codes = torch.from_numpy(self.data.codes.copy())
        self.full = self._read("full", len(self.codes))
        self.size = 0  # of the pictures in training; `resize` sets it and what was read at it
        structure = (config.attributes, config.rows, config.hidden, generator.mean_w, generator.std_w)
        self.editor, self.average = DyStyle(*structure), DyStyle(*structure)
        if config.start is not None:
            self._start_from(DyStyle.load(config.start))
        learning = [p for p in self.editor.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learning, lr=config.lr, betas=(0.9, 0.99))
        self.step = 0

    def _start_from(self, source: DyStyle) -> None:
        """Copy an editor; what only this one has keeps its fresh weights."""
        if (source.rows, source.hidden) != (self.config.rows, self.config.hidden):
            raise InputError(
                f"'{self.config.start}' has {source.rows} rows of {source.hidden} numbers; give --rows "
                f"{source.rows} --hidden {source.hidden} to start from it."
            )
        if missing := set(source.names) - set(self.editor.names):
            raise InputError(f"'{self.config.start}' has experts that were not asked for: {min(missing)}.")
        self.editor.load_state_dict(source.state_dict(), strict=False)
        if self.config.only_new:
            for name in source.names:
                self.editor.experts[name].requires_grad_(False)

    @torch.no_grad()
    def _read(self, kind: str, count: int) -> Readings:
        """Readings of the first faces, on the full pictures or on previews ("128", "256"); kept in files."""
        path = self.config.out / f"readings-{kind}.pt"
        if not path.exists():
            signals, embeddings = [], []
            for chunk in tqdm(torch.arange(count).split(8), desc=f"reading faces: {kind}", mininterval=10):
                if kind == "full":
                    pictures = torch.from_numpy(self.data.images[chunk.numpy()])
                    images = pictures.permute(0, 3, 1, 2) / 127.5 - 1
                else:
                    images = self.generator(self.codes[chunk], int(kind))
                signals.append(self.reader.signals(images))
                embeddings.append(self.identity(images))
            torch.save({"signals": torch.cat(signals), "embeddings": torch.cat(embeddings)}, path)
        stored = torch.load(path, weights_only=True)
        return Readings(self.reader.calibrate(stored["signals"]), stored["embeddings"])

    def resize(self, size: int) -> None:
        """Train on previews of `size` px from now on."""
        config = self.config
        self.size = size
        self.before = self._read(str(size), config.starts if size == 128 else config.fine_starts)
        preview, full = self.before[: config.compared].scores, self.full[: config.compared].scores
        count = min(len(score) for score in preview.values())
        self.correction = fit_correction(preview, {name: score[:count] for name, score in full.items()})
        self.before = Readings(self.corrected(self.before.scores), self.before.embeddings)

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
                writer.add_image("edits", self.sample_grid(), step)
        return self.config.out / "dystyle.safetensors"

    @torch.no_grad()
    def sample_grid(self, faces: int = 4) -> Tensor:
        """Faces in rows, unedited and with each attribute at the far end of its range: (3, h, w), 0..1."""
        codes, columns = self.codes[:faces], [self.codes[:faces]]
        for name in self.average.names:
            low, high = TARGET_RANGES.get(name, (ATTRIBUTES[name].low, ATTRIBUTES[name].high))
            middle = 0 if high == 1 else (low + high) / 2  # scores of probabilities are logits
            beyond = self.full.scores[name][: len(codes)] > middle
            targets = torch.where(beyond, float(low), float(high))
            columns.append(self.average(codes, {name: targets}))
        images = torch.cat([self.generator(column, 128) for column in columns], 3)
        return (torch.cat(list(images), 1) / 2 + 0.5).clamp(0, 1)

    def warm_up(self) -> None:
        """Minutes of image training in seconds: the guide stands in for generator and readers."""
        config = self.config
        x = (self.codes - self.generator.mean_w) / self.generator.std_w
        names = list(self.full.scores)
        embeddings = self.full.embeddings
        # Identity in as many dimensions as the guide can predict.
        centre = embeddings.mean(0)
        *_, basis = torch.pca_lowrank(embeddings, min(IDENTITY_DIMENSIONS, len(x)))
        outputs = torch.cat(
            (torch.stack(list(self.full.scores.values()), 1), (embeddings - centre) @ basis), 1
        )
        guide, r2 = fit_guide(x, outputs, config.guide_steps)
        print("guide R2 on held-out faces:", {n: round(float(v), 2) for n, v in zip(names, r2, strict=False)})
        print(f"identity: {float(r2[len(names) :].mean()):.2f}")
        self._set_lr(1e-3)
        for step in trange(config.warmup_steps, desc="warm-up", mininterval=10):
            index = torch.randint(len(self.codes), (128,))
            before = self.full[index]
            count = 1 if step < config.warmup_steps / 2 else int(torch.randint(1, config.most + 1, ()))
            configuration = sample_configuration(self.editor.names, count, before.scores)
            edited = self.editor(self.codes[index], configuration)
            noisy = (edited - self.generator.mean_w) / self.generator.std_w
            read = guide(noisy + 0.1 * torch.randn_like(noisy))
            scores = dict(zip(names, read[:, : len(names)].unbind(1), strict=True))
            same = F.cosine_similarity(read[:, len(names) :], guide(x[index])[:, len(names) :]).mean()
            loss = sum(attribute_loss(scores, configuration).values()).mean()
            loss = loss + config.preservation_weight * preservation_loss(scores, before.scores, configuration)
            loss = loss + config.identity_weight / 4 * (1 - same)
            loss = loss + 2 * config.norm_weight * norm_loss(edited, self.codes[index], self.generator.std_w)
            self._descend(loss)

    def train_step(self) -> dict[str, float]:
        """One step on rendered pictures; returns the numbers to log."""
        config = self.config
        size = 128 if self.step < (1 - config.fine) * config.steps else 256
        if size != self.size:
            self.resize(size)
        easy = self.step < config.easy * config.steps
        index = torch.randint(len(self.before.embeddings), (config.batch,))
        edits, tolerances = [], []
        for chunk in index.chunk(config.groups):
            count = 1 if easy else int(torch.randint(1, config.most + 1, ()))
            configuration = sample_configuration(self.editor.names, count, self.before[chunk].scores)
            edits.append((chunk, configuration, self.editor(self.codes[chunk], configuration)))
            tolerances.append(identity_tolerance(configuration, self.before[chunk].scores))
        codes, edited = self.codes[index], torch.cat([edit for _, _, edit in edits])
        # Rows that the preview does not show learn nothing from it.
        rows = PREVIEW_ROWS[size]
        edited = torch.cat((edited[:, :rows], codes[:, rows:]), 1)
        images, mirrored = self._view(self.generator(edited, size))
        shift, scale = torch.randn(config.batch, 2) * 0.012, 1 + torch.randn(config.batch) * 0.03
        scores = self.reader(images, shift, scale)
        scores["yaw"] = torch.where(mirrored, -scores["yaw"], scores["yaw"])
        scores = self.corrected(scores)
        logs: dict[str, Tensor] = {}
        self._attribute_terms(edits, scores, logs)
        embeddings, tolerance = self.identity(images), torch.cat(tolerances)
        logs["loss/identity"] = identity_loss(embeddings, self.before.embeddings[index], tolerance)
        logs["loss/norm"] = norm_loss(edited, codes, self.generator.std_w)
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
            before = self.before[chunk].scores
            preservation.append(preservation_loss(part, before, configuration))
            logs |= {f"attribute/{name}": value.mean() for name, value in losses.items()}
        logs["loss/attributes"] = torch.stack(attribute).mean()
        logs["loss/preservation"] = torch.stack(preservation).mean()

    @staticmethod
    def _view(images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures without what a network may exploit (exact values, one side, fine patterns).

        Returns:
            Images, some of them mirrored or blurred, and which ones are mirrored, (b,).
        """
        mirrored, blurred = torch.rand(2, len(images)) < torch.tensor([[0.5], [0.3]])
        bounded = images.clamp(-1, 1) + 0.05 * (images - images.clamp(-1, 1))
        x = torch.where(mirrored[:, None, None, None], bounded.flip(3), bounded)
        x = torch.where(blurred[:, None, None, None], F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), x)
        return x + 0.02 * torch.randn_like(images), mirrored

    def _set_lr(self, lr: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def _descend(self, loss: Tensor) -> Tensor:
        """One optimiser step; returns the gradient's norm. A step with a wild gradient is skipped."""
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for p in self.editor.parameters() if p.requires_grad], 1.0)
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
