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
from dataclasses import asdict, dataclass, replace
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
from dystyle.metrics.degradations import degrade
from dystyle.training import resume
from dystyle.training.curriculum import Curriculum, sample_configuration
from dystyle.training.dataset import FaceDataset
from dystyle.training.editor_loss import EditorLoss, Readings
from dystyle.training.editor_report import card, edits_grid, held_out_figures
from dystyle.training.inversion import Inverter, InverterConfig
from dystyle.training.losses import backgrounds
from dystyle.training.warm_up import LR as WARM_UP_LR
from dystyle.training.warm_up import WarmUp, fit_readings_guide, warm_up

SETTLING_STEPS = 50  # the learning rate grows over so many


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
        start: weights to start from (a name or a path). only_new: all that they have stays as it is, and so
            do its edits, bit for bit; new experts learn, and every edit holds one of theirs.
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
        precision: "bf16" renders and embeds in bfloat16; readings and weights stay in float32. Only for
            GPUs, and CPUs that compute in it (`fast_bfloat16`): others take minutes a step.
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


def learning_rate(config: EditorConfig, step: int) -> float:
    """Grows over the first steps, then falls in a straight line to a twentieth."""
    return config.lr * min(1, (step + 1) / SETTLING_STEPS) * (1 - 0.95 * step / config.steps)


def averaging_decay(config: EditorConfig, step: int) -> float:
    """Of the averaged weights: short at first, so that they forget the start."""
    return min(config.ema, (step + 1) / (step + 10))


def read_augmented(reader: FaceReader, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Read pictures (b, 3, s, s) without what an editor may exploit: exact values, one side, fine patterns.

    Some are mirrored, and asked for mirrored targets: what a mirrored face reads counts with the attribute's
    sign in the mirror.

    Returns:
        Scores (b,) by attribute, as of the pictures themselves, and the pictures that were read.
    """
    mirrored, blurred = torch.rand(2, len(pictures)) < torch.tensor([[0.5], [0.3]])
    bounded = pictures.clamp(-1, 1) + 0.05 * (pictures - pictures.clamp(-1, 1))
    x = torch.where(mirrored[:, None, None, None], bounded.flip(3), bounded)
    x = torch.where(blurred[:, None, None, None], F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), x)
    x = x + 0.02 * torch.randn_like(pictures)
    shift, scale = torch.randn(len(x), 2) * 0.012, 1 + torch.randn(len(x)) * 0.03
    scores = reader(x, shift, scale)
    signs = {name: torch.where(mirrored, ATTRIBUTES[name].mirror_sign, 1) for name in scores}
    return {name: signs[name] * score for name, score in scores.items()}, x


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
        self.data = FaceDataset.load(config.faces)
        learnt = len(self.data.codes) - config.held
        if learnt < config.starts:
            raise InputError(
                f"{config.faces} holds {len(self.data.codes)} faces, too few for {config.starts} to start "
                f"from and {config.held} held out: render more or give fewer --starts."
            )
        with self.accelerator.main_process_first():
            settings = resume.recipe(config, free=("checkpoint_every",))
            resume.begin(config.out, settings | {"faces": self.data.fingerprint})
        self.codes = torch.from_numpy(self.data.codes[:learnt].copy()).to(self.device)
        self.full = self._read("full", learnt if config.warmup_steps else config.compared)
        self.starts = self._starts()
        self.size = 0  # of the pictures in training; `resize` sets it and what was read at it
        structure = (config.attributes, config.rows, config.hidden, generator.mean_w, generator.std_w)
        self.editor, self.average = (DyStyle(*structure).to(self.device) for _ in range(2))
        self.new: tuple[str, ...] = ()  # attributes that alone learn; none if all do
        if config.start is not None:
            self._start_from(DyStyle.load(config.start))
        self.learning = [p for p in self.editor.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.learning, lr=config.lr, betas=(0.9, 0.99))
        self.curriculum = Curriculum(config.most, config.hard * config.steps)
        self.loss = EditorLoss(
            identity=config.identity_weight,
            norm=config.norm_weight,
            preservation=config.preservation_weight,
            background=config.background_weight,
            std_w=self.generator.std_w,
        )
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
            self.new = tuple(name for name in self.editor.names if name not in source.names)
            if not self.new:
                raise InputError(f"'{config.start}' has experts for all of the attributes: nothing is new.")
            self.editor.requires_grad_(False)
            for name in self.new:
                self.editor.experts[name].requires_grad_(True)

    def _cached(self, name: str, make) -> object:
        """Tensors that `make` computes, kept in the run's folder; one process makes them."""
        path = self.config.out / f"{name}.pt"
        with self.accelerator.main_process_first():
            if not path.exists():
                tensors = make()
                with resume.whole(path) as file:
                    torch.save(tensors, file)
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
            inverter = Inverter(InverterConfig(), self.generator, self.identity).to(self.device)

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
        config, checkpoint = self.config, self.config.out / resume.NEWEST
        main = self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            state = resume.read(checkpoint, self.accelerator.num_processes)
        if state is not None:
            self.load(state)
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
                    writer.add_image("edits", self._grid(), step)
        if self.size == 0:  # a finished run was started again: all processes read, one reports
            self.resize(self.stage()[0])
        if main:
            self._report()
        self.accelerator.wait_for_everyone()
        return config.out / "dystyle.safetensors"

    def _grid(self, faces: int = 4) -> Tensor:
        """See `edits_grid`: of the first faces."""
        scores = {name: score[:faces] for name, score in self.full.scores.items()}
        return edits_grid(self.average, self.codes[:faces], scores, self.generator)

    def _report(self) -> None:
        """`report.json`, and `dystyle.md`: a card for the weights."""
        config = self.config
        codes = torch.from_numpy(self.data.codes[-config.held :].copy()).to(self.device)
        figures = held_out_figures(self.average, codes, self._scores, config.most, config.seed)
        made = (
            f"{self.step} steps in {self.accelerator.num_processes} process(es) took {self.seconds / 60:.0f} "
            "minutes.\n\nMade by `python -m dystyle.train editor` with "
            f"{json.dumps(resume.recipe(config))}."
        )
        read = f"{config.held} held-out faces, read by the editor's teachers at {self.size} px."
        (config.out / "report.json").write_text(json.dumps(figures, indent=2))
        (config.out / "dystyle.md").write_text(card(self.average, made, read, figures))

    def _scores(self, codes: Tensor) -> dict[str, Tensor]:
        """Scores of codes (b, 18, 512), as of the full pictures."""
        scores = [self.reader(self.generator(chunk, self.size)) for chunk in codes.split(8)]
        return self.corrected({name: torch.cat([s[name] for s in scores]) for name in scores[0]})

    def warm_up(self) -> None:
        """Train on codes alone, before any picture is rendered."""
        config, network = self.config, self.generator
        guide, r2 = fit_readings_guide(
            self.codes, self.full, network.mean_w, network.std_w, config.guide_steps
        )
        if self.accelerator.is_main_process:
            print("guide R2 on held-out faces:", {name: round(value, 2) for name, value in r2.items()})
        self._set_lr(WARM_UP_LR)
        weights = (config.preservation_weight, config.identity_weight, config.norm_weight)
        warm = WarmUp(guide, tuple(self.full.scores), self.codes, self.full, *weights, self.new)
        warm_up(warm, self.editor, config.warmup_steps, config.most, self._descend)

    def train_step(self) -> dict[str, float]:
        """One step on rendered pictures; returns the numbers to log."""
        config, (size, batch) = self.config, self.stage()
        if size != self.size:
            self.resize(size)
        index, level = torch.randint(len(self.before.embeddings), (batch,)), self.curriculum.level(self.step)
        codes, before = self.starts[index], self.before[index]
        configurations = self._draw_configurations(before, level)
        edited = self._edit(codes, configurations)
        pictures = self._preview(edited, size)
        scores, images = read_augmented(self.reader, pictures)
        with self.accelerator.autocast():
            embeddings = self.identity(images)
        after = Readings(self.corrected(scores), embeddings.float(), backgrounds(pictures))
        loss, logs = self.loss(configurations, before, after, codes, edited)

        self._set_lr(learning_rate(config, self.step))
        logs["gradient"] = self._descend(loss)
        decay = averaging_decay(config, self.step)
        for average, parameter in zip(self.average.parameters(), self.editor.parameters(), strict=True):
            average.data.lerp_(parameter.data, 1 - decay)
        losses = [value.detach() for name, value in logs.items() if name.startswith("attribute/")]
        self.curriculum.update(self.step, float(self.accelerator.reduce(torch.stack(losses).mean(), "mean")))
        return {name: float(value.detach()) for name, value in logs.items()} | {"level": level}

    def _draw_configurations(self, before: Readings, level: int) -> list[dict[str, Tensor]]:
        """Up to `level` attributes for every part of the batch."""
        configurations, names = [], self.editor.names
        for part in torch.arange(len(before.embeddings)).chunk(self.config.groups):
            count = int(torch.randint(min(self.config.least, level), level + 1, ()))
            configurations.append(sample_configuration(names, count, before[part].scores, self.new))
        return configurations

    def _edit(self, codes: Tensor, configurations: list[dict[str, Tensor]]) -> Tensor:
        """Codes (b, 18, 512), edited part by part; rows that the preview does not show stay."""
        parts = zip(codes.chunk(self.config.groups), configurations, strict=True)
        edited = torch.cat([self.editor(part, configuration) for part, configuration in parts])
        rows = self.generator.rows(self.size)
        return torch.cat((edited[:, :rows], codes[:, rows:]), 1)

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

    def load(self, state: dict) -> None:
        """Go on from a checkpoint's state."""
        self.editor.load_state_dict(state["editor"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        reached, losses = state["curriculum"]["reached"], state["curriculum"]["losses"]
        self.curriculum.reached, self.curriculum.losses = reached, losses
        self.step, self.seconds = state["step"], state["seconds"]
        random = state["random"][self.accelerator.process_index]
        resume.set_random_state(random, self.device)
