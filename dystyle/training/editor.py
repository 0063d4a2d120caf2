"""Train a DyStyle editor: latent warm-up, then single attributes (easy), then growing random subsets (hard).

The generator and the networks that read its pictures are frozen; gradients run through them into the
editor. The starting codes are those of a rendered dataset; what pictures show of them is read once.
`accelerate launch -m dystyle.train editor` trains on several GPUs, and `torchrun --nproc_per_node 2 -m --
dystyle.train editor` in processes on CPUs: each draws edits of its own, and the gradients are averaged.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm, trange

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.encoders.fast import FastEncoder
from dystyle.errors import InputError
from dystyle.generators.facts import DEFAULT
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.metrics.comparison import compare, reached_text
from dystyle.metrics.degradations import degrade
from dystyle.metrics.drawing import draw_edit
from dystyle.training import resume
from dystyle.training.dataset import FaceDataset
from dystyle.training.guide import fit_guide
from dystyle.training.inversion import InversionConfig, Inverter
from dystyle.training.losses import (
    attribute_loss,
    background_loss,
    backgrounds,
    carried_loss,
    identity_loss,
    identity_tolerance,
    norm_loss,
    preservation_loss,
)

# Share of numeric targets that are the face's own value: an edit to what is there already changes nothing.
STAY = 0.1
IDENTITY_DIMENSIONS = 48
# The curriculum moves on when a window of steps brought the loss down by less than this share.
WINDOW, SETTLED = 50, 0.03


@dataclass(frozen=True)
class EditorConfig:
    """Training of the DyStyle editor.

    Attributes:
        out: folder of the run (checkpoints, log, final weights); an interrupted run goes on.
        generator: "mobile_stylegan", or a StyleGAN2 (a name or a path), which has to have rendered the faces.
        faces: folder of rendered faces (`python -m dystyle.train faces`), for the guide and to start from;
            the last `held` of them are kept for the final report.
        starts, fine_starts: how many of them edits start from at 128 px, and in larger pictures.
        inverted: every n-th of these is what the encoder makes of the face's degraded picture, so that
            photos lie within the training; 0 for none.
        attributes: names of the experts.
        start: weights to start from (a name or a path). only_new: the experts that they have stay as they
            are; new ones and the fusion learn.
        rows, hidden: structure of the editor, see `DyStyle`.
        compared: faces that show how previews read differently from full pictures, see `fit_correction`.
        guide_steps: steps of fitting the latent guide.
        warmup_steps: steps of 128 codes on the latent guide, before any picture is rendered; 0 to go
            straight to pictures.
        steps: with pictures.
        stages: the pictures' size, the share of the steps with it, and each process's batch, in order.
        groups: parts of a batch, each with a configuration of its own.
        least, most: attributes in a configuration (fewer while the curriculum is below `least`); hard: share
            of the steps after which the curriculum has got to `most` at the latest, see `Curriculum`.
        precision: "bf16" renders and embeds in bfloat16; readings and weights stay in float32.
    """

    out: Path = Path("runs/editor")
    generator: str = DEFAULT
    faces: Path = Path("runs/faces")
    held: int = 32
    starts: int = 3000
    fine_starts: int = 1000
    inverted: int = 3
    attributes: tuple[str, ...] = tuple(ATTRIBUTES)
    start: str | None = None
    only_new: bool = False
    rows: int = 10
    hidden: int = 160
    compared: int = 256
    guide_steps: int = 4000
    warmup_steps: int = 3000
    steps: int = 2500
    stages: tuple[tuple[int, float, int], ...] = ((128, 0.75, 8), (1024, 0.25, 4))
    groups: int = 4
    least: int = 1
    most: int = 6
    hard: float = 0.5
    precision: Literal["no", "bf16"] = "no"
    lr: float = 4e-4
    identity_weight: float = 1.2
    norm_weight: float = 0.04
    preservation_weight: float = 1.5
    background_weight: float = 1.0
    ema: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


def draw_targets(name: str, batch: int) -> Tensor:
    """Uniform random targets (b,) of an attribute in its unit; two of three binary ones are at an end."""
    row, uniform = ATTRIBUTES[name], torch.rand(batch)
    if row.kind == "binary":
        return torch.where(torch.rand(batch) < 2 / 3, uniform.round(), uniform)
    low, high = row.trained
    return low + uniform * (high - low)


def sample_configuration(
    names: tuple[str, ...], count: int, current: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A uniform random configuration of `count` attributes with uniform targets, (b,) each.

    A few numeric ones stay where they are.

    Args:
        current: the faces' scores, (b,) by name.
    """
    configuration = {}
    for name in [names[i] for i in torch.randperm(len(names))[:count].tolist()]:
        row, batch = ATTRIBUTES[name], len(current[name])
        targets = configuration[name] = draw_targets(name, batch)
        if row.kind == "binary":
            continue
        stay = row.score_to_value(current[name])
        configuration[name] = torch.where(torch.rand(batch) < STAY, stay, targets)
    return configuration


@dataclass(frozen=True)
class Readings:
    """What is seen of n faces: scores (n,) by attribute, identity embeddings (n, 1024), `backgrounds`."""

    scores: dict[str, Tensor]
    embeddings: Tensor
    backgrounds: Tensor

    def __getitem__(self, index) -> "Readings":
        scores = {name: score[index] for name, score in self.scores.items()}
        return Readings(scores, self.embeddings[index], self.backgrounds[index])


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


@dataclass
class Curriculum:
    """From easy to hard (section 3.4): how many attributes a configuration may hold.

    One at first; one more whenever the loss has settled, and at the latest as a straight line to `most`
    over the first `steps` steps asks for.
    """

    most: int
    steps: float
    reached: int = 1
    losses: list[float] = field(default_factory=list)

    def level(self, step: int) -> int:
        """The most attributes at this step."""
        due = 1 + int((self.most - 1) * step / self.steps) if self.steps else self.most
        return min(self.most, max(self.reached, due))

    def update(self, step: int, loss: float) -> None:
        """Take in the mean loss of an attribute in this step."""
        self.losses.append(loss)
        if len(self.losses) < 2 * WINDOW:
            return
        before, now = sum(self.losses[:WINDOW]), sum(self.losses[WINDOW:])
        self.losses = self.losses[WINDOW:]
        if now > (1 - SETTLED) * before:
            self.reached = self.level(step) + 1
            self.losses = []  # harder configurations have another loss


class EditorTrainer:
    """Everything one training run holds; `run` goes from the warm-up to the final weights.

    Args:
        generator: any generator with `mean_w`, `std_w` and pictures of W+ codes in the stages' sizes.
    """

    def __init__(self, config: EditorConfig, generator: MobileStyleGAN | StyleGAN2) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        # Told that there is no GPU, accelerate joins the processes of `torchrun` on CPUs, too.
        cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
        self.device = torch.device("cpu") if cpu else self.accelerator.device
        self.generator = generator.to(self.device)
        self.reader, self.identity = FaceReader().to(self.device), IdentityNetwork().to(self.device)
        config.out.mkdir(parents=True, exist_ok=True)
        self.data = FaceDataset.load(config.faces)
        learnt = len(self.data.codes) - config.held
        if learnt < config.starts:
            raise InputError(
                f"{config.faces} holds {len(self.data.codes)} faces, too few for {config.starts} to start "
                f"from and {config.held} held out: render more or give fewer --starts."
            )
        self.codes = torch.from_numpy(self.data.codes[:learnt].copy()).to(self.device)
        self.full = self._read("full", learnt if config.warmup_steps else config.compared)
        self.starts = self._starts()
        self.size = 0  # of the pictures in training; `resize` sets it and what was read at it
        structure = (config.attributes, config.rows, config.hidden, generator.mean_w, generator.std_w)
        self.editor, self.average = (DyStyle(*structure).to(self.device) for _ in range(2))
        if config.start is not None:
            self._start_from(DyStyle.load(config.start))
        self.learning = [p for p in self.editor.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.learning, lr=config.lr, betas=(0.9, 0.99))
        self.curriculum = Curriculum(config.most, config.hard * config.steps)
        self.step, self.seconds = 0, 0.0

    def _start_from(self, source: DyStyle) -> None:
        """Copy an editor; what only this one has keeps its fresh weights."""
        config = self.config
        if (source.rows, source.hidden) != (config.rows, config.hidden):
            raise InputError(
                f"'{config.start}' is built otherwise; give --rows {source.rows} --hidden {source.hidden} "
                "to start from it."
            )
        if missing := set(source.names) - set(self.editor.names):
            raise InputError(f"'{config.start}' has experts that were not asked for: {min(missing)}.")
        self.editor.load_state_dict(source.state_dict(), strict=False)
        if config.only_new:
            for name in source.names:
                self.editor.experts[name].requires_grad_(False)

    def _cached(self, name: str, make) -> object:
        """Tensors that `make` computes, kept in the run's folder; one process makes them."""
        path = self.config.out / f"{name}.pt"
        with self.accelerator.main_process_first():
            if not path.exists():
                torch.save(make(), path)
        return torch.load(path, weights_only=True, map_location=self.device)

    def _pictures(self, index: Tensor) -> Tensor:
        """Rendered pictures of the dataset, (b, 3, 256, 256) in [-1, 1]."""
        pictures = torch.from_numpy(self.data.images[index.cpu().numpy()]).to(self.device)
        return pictures.permute(0, 3, 1, 2) / 127.5 - 1

    @torch.no_grad()
    def _starts(self) -> Tensor:
        """The codes that edits start from: the dataset's, every n-th replaced by an inverted one."""
        config, codes = self.config, self.codes[: self.config.starts].clone()
        index = torch.arange(config.compared, config.starts, config.inverted or config.starts)
        if config.inverted and len(index):
            codes[index] = self._cached("inverted", lambda: self._inverted(index))
        return codes

    def _inverted(self, index: Tensor) -> Tensor:
        """Codes that `FaceEditor` makes of degraded pictures of the dataset, (b, 18, 512)."""
        if self.config.generator == DEFAULT:  # which the bundled descent is for
            inverter = Inverter(InversionConfig(), self.generator, self.identity).to(self.device)

            def encode(faces: Tensor) -> Tensor:
                *_, (codes, _, _) = inverter(faces, faces)
                return codes
        else:
            encode = FastEncoder.load("encoder").to(self.device)
        return torch.cat([encode(degrade(self._pictures(part))) for part in index.split(16)])

    @torch.no_grad()
    def _read(self, kind: str, count: int) -> Readings:
        """Readings of the first faces' full pictures ("full"), or of the first starts' previews ("128")."""

        def read() -> dict[str, Tensor]:
            signals, embeddings, strips = [], [], []
            for chunk in tqdm(torch.arange(count).split(8), desc=f"reading faces: {kind}", mininterval=10):
                images = (
                    self._pictures(chunk) if kind == "full" else self._preview(self.starts[chunk], int(kind))
                )
                signals.append(self.reader.signals(images))
                embeddings.append(self.identity(images))
                strips.append(backgrounds(images))
            seen = {"signals": signals, "embeddings": embeddings, "backgrounds": strips}
            return {name: torch.cat(parts) for name, parts in seen.items()}

        stored = self._cached(f"readings-{kind}-{count}", read)
        return Readings(self.reader.calibrate(stored.pop("signals")), **stored)

    def _preview(self, codes: Tensor, size: int) -> Tensor:
        """Pictures of codes; larger ones averaged down to the 256 px that networks look at."""
        with self.accelerator.autocast():
            images = self.generator(codes, size)
        images = images.float()
        return F.interpolate(images, (256, 256), mode="area") if size > 256 else images

    def stage(self) -> tuple[int, int]:
        """The pictures' size and each process's batch at this step."""
        ends = np.cumsum([share * self.config.steps for _, share, _ in self.config.stages])
        size, _, batch = self.config.stages[min(np.searchsorted(ends, self.step, "right"), len(ends) - 1)]
        return size, batch

    def resize(self, size: int) -> None:
        """Train on previews of `size` px from now on."""
        config = self.config
        self.size = size
        self.before = self._read(str(size), config.starts if size == 128 else config.fine_starts)
        preview, full = self.before[: config.compared].scores, self.full[: config.compared].scores
        count = min(len(score) for score in preview.values())
        self.correction = fit_correction(preview, {name: score[:count] for name, score in full.items()})
        self.before = replace(self.before, scores=self.corrected(self.before.scores))

    def corrected(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the full picture would read, from the readings of its preview."""
        gains = self.correction
        return {name: score * gains[name][0] + gains[name][1] for name, score in scores.items()}

    def run(self) -> Path:
        """Train to the end, going on from the run's last checkpoint; returns the weights' path."""
        with torch.device(self.device):
            return self._run()

    def _run(self) -> Path:
        config, checkpoint = self.config, self.config.out / "checkpoint.pt"
        main = self.accelerator.is_main_process
        if checkpoint.exists():
            self.load(checkpoint)
        else:
            if config.warmup_steps:
                self.warm_up()
            for parameter in self.editor.parameters():
                parameter.data = broadcast(parameter.data)
            self.average.load_state_dict(self.editor.state_dict())
            # From here on every process draws edits of its own.
            torch.manual_seed(config.seed + 1 + self.accelerator.process_index)
            self.save(checkpoint)
        writer = SummaryWriter(config.out) if main else None
        progress = trange(self.step, config.steps, initial=self.step, total=config.steps, disable=not main)
        for step in progress:
            started = time.perf_counter()
            logs = self.train_step()
            self.step, self.seconds = step + 1, self.seconds + time.perf_counter() - started
            if main:
                for name, value in logs.items():
                    writer.add_scalar(name, value, step)
                if step % 20 == 0:
                    progress.write(f"{step} " + " ".join(f"{k}={v:.3f}" for k, v in logs.items()))
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save(checkpoint)
                if main:
                    writer.add_image("edits", self.sample_grid(), step)
        if self.size == 0:  # a finished run was started again: all processes read, one reports
            self.resize(self.stage()[0])
        if main:
            self.write_report()
        self.accelerator.wait_for_everyone()
        return config.out / "dystyle.safetensors"

    @torch.no_grad()
    def sample_grid(self, faces: int = 4) -> Tensor:
        """Faces in rows, unedited and with each attribute at the far end of its range: (3, h, w), 0..1."""
        codes, columns = self.codes[:faces], [self.codes[:faces]]
        for name in self.average.names:
            row = ATTRIBUTES[name]
            low, high = row.trained
            beyond = self.full.scores[name][: len(codes)] > row.value_to_score((low + high) / 2)
            targets = torch.where(beyond, float(low), float(high))
            columns.append(self.average(codes, {name: targets}))
        images = torch.cat([self.generator(column, 128) for column in columns], 3)
        return (torch.cat(list(images), 1) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def report(self) -> dict:
        """The averaged editor on the held-out faces, by its own teachers on the last stage's pictures.

        Returns:
            By attribute edited alone, and by "N at once", what `dystyle.metrics.comparison.compare` says.
        """
        rng, names = np.random.default_rng(self.config.seed), self.average.names
        codes = torch.from_numpy(self.data.codes[-self.config.held :].copy()).to(self.device)
        before = self._values(codes)
        sizes = [size for size in (2, 3, 5) if size <= min(len(names), self.config.most)]
        plans = {name: [draw_edit(rng, [name]) for _ in codes] for name in names} | {
            f"{size} at once": [draw_edit(rng, rng.choice(names, size, replace=False)) for _ in codes]
            for size in sizes
        }
        figures = {}
        for label, edits in tqdm(plans.items(), desc="report"):
            targets = [{name: torch.tensor([value]) for name, value in edit.items()} for edit in edits]
            edited = torch.cat([self.average(c[None], t) for c, t in zip(codes, targets, strict=True)])
            figures[label] = compare(list(zip(before, self._values(edited), strict=True)), edits)
        return figures

    def _values(self, codes: Tensor) -> list[dict[str, float]]:
        """Attribute values of codes (b, 18, 512)."""
        scores = [self.reader(self.generator(chunk, self.size)) for chunk in codes.split(8)]
        joined = self.corrected({name: torch.cat([s[name] for s in scores]) for name in scores[0]})
        values = {name: ATTRIBUTES[name].score_to_value(score) for name, score in joined.items()}
        return [{name: float(value[i]) for name, value in values.items()} for i in range(len(codes))]

    def write_report(self) -> None:
        """`report.json`, and `dystyle.md`: a card for the weights."""
        figures, config, names = self.report(), self.config, self.average.names
        (config.out / "report.json").write_text(json.dumps(figures, indent=2))
        lines = [
            "# dystyle",
            "",
            f"A DyStyle editor of {', '.join(names)} on W+ rows 0 to {config.rows - 1}, width "
            f"{config.hidden}. {self.step} steps in "
            f"{self.accelerator.num_processes} process(es) took {self.seconds / 60:.0f} minutes.",
            "",
            f"Made by `python -m dystyle.train editor` with {json.dumps(resume.recipe(self.config))}.",
            "",
            f"{config.held} held-out faces, read by the editor's teachers at {self.size} px. Errors in the "
            "attributes' units, in brackets had nothing been done; binary attributes: share reached; "
            "flipped: edits after which an attribute that was not asked for has changed sides. "
            "`python -m dystyle.evaluate editing` judges the full pictures, with independent networks.",
            "",
            "| edit | reached | right | flipped |",
            "|---|---|---|---|",
        ]
        for label, figure in figures.items():
            reached = reached_text(figure["reached"].get(label))
            shares = (f"{figure[key]['mean']:.0%}" for key in ("right", "flipped"))
            lines.append(f"| {label} | {reached} | {' | '.join(shares)} |")
        (config.out / "dystyle.md").write_text("\n".join(lines) + "\n")

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
        if self.accelerator.is_main_process:
            r2s = {n: round(float(v), 2) for n, v in zip(names, r2, strict=False)}
            print("guide R2 on held-out faces:", r2s, f"identity: {float(r2[len(names) :].mean()):.2f}")
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
            norm = norm_loss(edited, self.codes[index], self.generator.std_w).mean()
            loss = loss + 2 * config.norm_weight * norm
            self._descend(loss)

    def train_step(self) -> dict[str, float]:
        """One step on rendered pictures; returns the numbers to log."""
        config = self.config
        size, batch = self.stage()
        if size != self.size:
            self.resize(size)
        index = torch.randint(len(self.before.embeddings), (batch,))
        edits, tolerances, counts, level = [], [], [], self.curriculum.level(self.step)
        for chunk in index.chunk(config.groups):
            scores = self.before[chunk].scores
            count = int(torch.randint(min(config.least, level), level + 1, ()))
            configuration = sample_configuration(self.editor.names, count, scores)
            edits.append((chunk, configuration, self.editor(self.starts[chunk], configuration)))
            tolerances.append(identity_tolerance(configuration, scores))
            counts.append(torch.full((len(chunk),), float(count)))
        codes, edited = self.starts[index], torch.cat([edit for _, _, edit in edits])
        # Rows that the preview does not show learn nothing from it.
        rows = self.generator.rows(size)
        edited = torch.cat((edited[:, :rows], codes[:, rows:]), 1)
        before, pictures = self.before[index], self._preview(edited, size)
        images, mirrored = self._view(pictures)
        shift, scale = torch.randn(batch, 2) * 0.012, 1 + torch.randn(batch) * 0.03
        scores = self.reader(images, shift, scale)
        scores = {
            name: torch.where(mirrored, ATTRIBUTES[name].mirror_sign * score, score)
            for name, score in scores.items()
        }
        scores = self.corrected(scores)
        logs: dict[str, Tensor] = {}
        self._attribute_terms(edits, scores, logs)
        with self.accelerator.autocast():
            embeddings = self.identity(images)
        # Both grow faster than the number of attributes; unshared they would hold joint edits back.
        share = 1 / torch.cat(counts)
        identity = identity_loss(embeddings.float(), before.embeddings, torch.cat(tolerances))
        logs["loss/identity"] = (share * identity).mean()
        logs["loss/norm"] = (share * norm_loss(edited, codes, self.generator.std_w)).mean()
        logs["loss/background"] = background_loss(pictures, before.backgrounds).mean()
        loss = (
            logs["loss/attributes"]
            + config.preservation_weight * logs["loss/preservation"]
            + config.identity_weight * logs["loss/identity"]
            + config.norm_weight * logs["loss/norm"]
            + config.background_weight * logs["loss/background"]
        )
        self._set_lr(config.lr * min(1, (self.step + 1) / 50) * (1 - 0.95 * self.step / config.steps))
        logs["gradient"] = self._descend(loss)
        decay = min(config.ema, (self.step + 1) / (self.step + 10))
        for average, parameter in zip(self.average.parameters(), self.editor.parameters(), strict=True):
            average.data.lerp_(parameter.data, 1 - decay)
        losses = [value.detach() for name, value in logs.items() if name.startswith("attribute/")]
        self.curriculum.update(self.step, float(self.accelerator.reduce(torch.stack(losses).mean(), "mean")))
        return {name: float(value.detach()) for name, value in logs.items()} | {"level": level}

    def _attribute_terms(self, edits: list, scores: Mapping[str, Tensor], logs: dict[str, Tensor]) -> None:
        """Attribute and preservation losses, group by group; logs errors in the attributes' units, too."""
        start, attribute, preservation = 0, [], []
        for chunk, configuration, _ in edits:
            part = {name: score[start : start + len(chunk)] for name, score in scores.items()}
            start += len(chunk)
            losses = attribute_loss(part, configuration)
            attribute.append(sum(losses.values()).mean() + carried_loss(part, configuration))
            before = self.before[chunk].scores
            preservation.append(preservation_loss(part, before, configuration))
            logs |= {f"attribute/{name}": value.mean() for name, value in losses.items()}
            for name, target in configuration.items():
                logs[f"error/{name}"] = (ATTRIBUTES[name].score_to_value(part[name]) - target).abs().mean()
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
        """One optimiser step; returns the gradient's norm. A step with a wild gradient is skipped.

        The gradients are averaged over the processes here, because one step runs the editor several times,
        with different experts.
        """
        self.optimiser.zero_grad()
        loss.backward()
        if self.accelerator.num_processes > 1:
            for parameter in self.learning:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = self.accelerator.reduce(parameters_to_vector(p.grad for p in self.learning), "mean")
            for p, mean in zip(self.learning, flat.split([p.numel() for p in self.learning]), strict=True):
                # An expert that no process has run keeps still, as it does in a single process.
                p.grad = mean.view_as(p) if mean.any() else None
        norm = nn.utils.clip_grad_norm_(self.learning, 1.0)
        if math.isfinite(norm) and norm < 60:
            self.optimiser.step()
        return norm

    def save(self, path: Path) -> None:
        """Checkpoint of everything needed to go on, and the averaged weights beside it."""
        random = gather_object([resume.random_state(self.device)])
        if not self.accelerator.is_main_process:
            return
        state = {
            "editor": self.editor.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "curriculum": asdict(self.curriculum),
            "step": self.step,
            "seconds": self.seconds,
            "random": random,
        }
        resume.write(path, state)
        recipe = json.dumps(resume.recipe(self.config))
        self.average.save(path.parent / "dystyle.safetensors", steps=str(self.step), recipe=recipe)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it was written by another number of processes.
        """
        state = resume.read(path, self.accelerator.num_processes)
        self.editor.load_state_dict(state["editor"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        reached, losses = state["curriculum"]["reached"], state["curriculum"]["losses"]
        self.curriculum.reached, self.curriculum.losses = reached, losses
        self.step, self.seconds = state["step"], state["seconds"]
        random = state["random"][self.accelerator.process_index]
        resume.set_random_state(random, self.device)
