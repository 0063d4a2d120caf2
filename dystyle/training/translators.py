"""Train a translator: STGAN, AttGAN or StarGAN, without pairs, or taught by the editor's.

`accelerate launch -m dystyle.train stgan` trains on several GPUs, and `torchrun --nproc_per_node 2 -m --
dystyle.train stgan` in processes on CPUs: each draws pictures of its own, and the gradients are averaged.
"""

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.metrics.degradations import bend
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.dataset import FaceDataset
from dystyle.training.portraits import photos_fingerprint
from dystyle.training.translator_faces import Batch, Faces
from dystyle.translators import FAMILIES
from dystyle.translators.discriminator import Discriminator
from dystyle.translators.network import Network, build, load_network
from dystyle.translators.structure import Structure

FREE = ("steps", "checkpoint_every")  # settings that may change while a run goes on
CHANGED = 0.2  # difference of a place, of 2, that counts as a change in full
SHOWN = 8  # people on the sample grid
NAMES = ("age", "gender", "smile", "mouth_open", "eyeglasses", "black_hair", "mustache", "beard")
LEAST = {"steps": 1, "batch": 2, "held": 2, "d_steps": 1, "checkpoint_every": 1}


@dataclass(frozen=True)
class TranslatorConfig:
    """Training of a translator.

    Attributes:
        data: faces of `python -m dystyle.train faces`, or a folder of photos, labelled by the readings.
        out: folder of the run (data, checkpoints, log, grids, final weights); an interrupted run goes on.
        teacher: "dystyle": learn from the editor's own edits of generated people instead of `data`.
        people, edits: how many the teacher shows, and how many edits of each.
        held: people kept for the sample grid and the figures.
        attributes: what the translator changes.
        size, width, depth, residual: see `dystyle.translators.structure.Structure`.
        start: weights to start from (a name or a path), of the same structure.
        steps: of the translator; d_steps: of the discriminator for each of them.
        alone: steps before the discriminator counts, with a teacher.
        paired: weight of the difference to the teacher's picture; edited: how many times as much it counts
            where the teacher has changed the picture, since half an edit looks much like none.
        adversarial, penalty, reconstruction: weights of the WGAN's score, its gradient penalty, and of what
            has to come back.
        classified, classify: of attributes in the translator's pictures, and in real ones.
        noise: deviation of what is added to all that the discriminator sees: without it, its attributes are
            soon moved by patterns that nobody sees, and the pictures hardly.
        bent: share of the taught pictures that are bent and lit as no code gives them.
    """

    family: ClassVar[str]
    data: Path | None = None
    out: Path = Path("runs/translator")
    teacher: Literal["none", "dystyle"] = "none"
    people: int = 1400
    edits: int = 5
    held: int = 40
    attributes: tuple[str, ...] = NAMES
    size: int = 128
    width: int = 16
    depth: int = 5
    residual: bool = True
    start: str | None = None
    steps: int = 50_000
    batch: int = 16
    lr: float = 2e-4
    d_steps: int = 5
    alone: int = 0
    paired: float = 100.0
    edited: float = 5.0
    adversarial: float = 1.0
    penalty: float = 10.0
    reconstruction: float = 100.0
    classified: float = 10.0
    classify: float = 1.0
    noise: float = 0.1
    bent: float = 0.5
    ema: float = 0.999
    checkpoint_every: int = 500
    seed: int = 0

    @property
    def structure(self) -> Structure:
        """Of the network that is trained."""
        names = tuple(name for name in ATTRIBUTES if name in self.attributes)
        return Structure(self.family, names, self.size, self.width, self.depth, self.residual)


class StganConfig(TranslatorConfig):
    __doc__, family = TranslatorConfig.__doc__, "stgan"


class AttganConfig(TranslatorConfig):
    __doc__, family = TranslatorConfig.__doc__, "attgan"


class StarganConfig(TranslatorConfig):
    __doc__, family = TranslatorConfig.__doc__, "stargan"


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Mean (|gradient| - 1)^2 of the score on the lines from real to fake pictures, (b, 3, s, s) both.

    Gulrajani et al. 2017, equation 3.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (real + share * (fake - real)).detach().requires_grad_(True)
    scores = discriminator(between)[0]
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def attribute_loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy of logits (b, n) with attributes (b, n) from -0.5 to 0.5, whose places in their ranges
    count as probabilities; summed over the attributes."""
    losses = F.binary_cross_entropy_with_logits(logits, attributes + 0.5, reduction="none")
    return losses.sum(1).mean()


def paired_loss(made: Tensor, wanted: Tensor, before: Tensor, edited: float) -> Tensor:
    """Mean absolute difference of pictures (b, 3, s, s) to those wanted.

    Args:
        before: unedited. edited: how many times as much a place counts that is to change by `CHANGED` or
            more.
    """
    changed = ((wanted - before).abs().mean(1, keepdim=True) / CHANGED).clamp(max=1)
    return ((1 + (edited - 1) * changed) * (made - wanted).abs()).mean()


class TranslatorTrainer:
    """Everything one training run holds; `run` goes from random weights to the final ones.

    Args:
        faces: to learn from; the last `held` people are kept for the figures.

    Raises:
        InputError: a setting is too small, or there are too few faces.
    """

    def __init__(self, config: TranslatorConfig, faces: Faces) -> None:
        torch.manual_seed(config.seed)
        for name, least in LEAST.items():
            if (value := getattr(config, name)) < least:
                raise InputError(f"--{name.replace('_', '-')} {value} is too little; give {least} or more.")
        if (learnt := len(faces.pictures) - config.held) < config.batch:
            raise InputError(
                f"{len(faces.pictures)} people are too few for a batch of {config.batch} and {config.held} "
                "held out; give more, or a smaller --batch or --held."
            )
        self.config, self.faces, self.kept = (
            config,
            faces.part(slice(learnt)),
            faces.part(slice(learnt, None)),
        )
        cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=cpu)
        self.device = torch.device("cpu") if cpu else self.accelerator.device
        self.family = FAMILIES[config.family]
        self.network = _network(config).to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.discriminator = Discriminator(config.structure).to(self.device)
        self.optimiser, self.d_optimiser = (
            torch.optim.Adam(network.parameters(), lr=config.lr, betas=(0.5, 0.999))
            for network in (self.network, self.discriminator)
        )
        self.step, self.seconds = 0, 0.0

    @property
    def judged(self) -> bool:
        """Whether the discriminator counts at this step."""
        return self.step >= self.config.alone

    def run(self) -> Path:
        """Train to the end, going on from the run's last checkpoint; returns the weights' path.

        Raises:
            InputError: the checkpoint is damaged and there is none before it, or was written by another
                number of processes.
        """
        config, checkpoint = self.config, self.config.out / resume.NEWEST
        main, processes = self.accelerator.is_main_process, self.accelerator.num_processes
        with self.accelerator.main_process_first():
            state = resume.read(checkpoint, processes)
        if state is not None:
            self.load(state)
        else:
            for network in (self.network, self.discriminator):
                for tensor in network.state_dict().values():
                    tensor.copy_(broadcast(tensor))
            self.average.load_state_dict(self.network.state_dict())
            torch.manual_seed(config.seed + 1 + self.accelerator.process_index)
        writer = SummaryWriter(config.out) if main else None
        steps = trange(
            self.step, config.steps, initial=self.step, total=config.steps, disable=not main, mininterval=10
        )
        for step in steps:
            started = time.perf_counter()
            logs = self.train_step()
            self.step, self.seconds = step + 1, self.seconds + time.perf_counter() - started
            last = self.step == config.steps
            if main and (self.step % 50 == 0 or last):
                for name, value in logs.items():
                    writer.add_scalar(name, value, self.step)
                steps.write(f"{self.step} " + " ".join(f"{k}={v:.3f}" for k, v in logs.items()))
            if self.step % config.checkpoint_every == 0 or last:
                self.save(checkpoint)
                if main:
                    save_picture(self.sample_grid(), config.out / f"samples-{self.step:06d}.png")
        self.accelerator.wait_for_everyone()
        return config.out / f"{config.family}.safetensors"

    def train_step(self) -> dict[str, float]:
        """Steps of the discriminator, and one of the translator; returns the numbers to log."""
        logs = {}
        if self.judged:
            for number in range(self.config.d_steps):
                losses = self._discriminator_losses(self._batch(number))
                self._descend(losses, self.discriminator, self.d_optimiser)
                logs |= {f"discriminator/{name}": value for name, value in losses.items()}
        losses = self._translator_losses(self._batch(self.config.d_steps))
        self._descend(losses, self.network, self.optimiser)
        logs |= {f"translator/{name}": value for name, value in losses.items()}
        self._follow()
        return {name: float(value.detach()) for name, value in logs.items()}

    def _batch(self, number: int) -> Batch:
        """The step's batch of this number, this process's own; bent now and then, both pictures alike."""
        process = self.accelerator.process_index
        rng = np.random.default_rng((self.config.seed, self.step, number, process))
        batch = Batch(
            *(x if x is None else x.to(self.device) for x in self.faces.draw(rng, self.config.batch))
        )
        if batch.wanted is None or not self.config.bent:
            return batch
        both = torch.cat((batch.pictures, batch.wanted), 1)
        both = torch.where(
            torch.rand(len(both), 1, 1, 1, device=both.device) < self.config.bent, bend(both), both
        )
        mirrored = torch.rand(len(both), 1, 1, 1, device=both.device) < 0.5
        pictures, wanted = torch.where(mirrored, both.flip(3), both).chunk(2, 1)
        return Batch(pictures, batch.source, batch.target, wanted)

    def _discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """WGAN-GP and classification (STGAN, equations 9 and 11), weighted."""
        config, real = self.config, self._noisy(batch.pictures)
        self.network.eval()  # so that these pictures do not count in its norms' statistics
        with torch.no_grad():
            fake = self._noisy(self.network(batch.pictures, batch.source, batch.target))
        self.network.train()
        score, logits = self.discriminator(real)
        losses = {
            "score": config.adversarial * (self.discriminator(fake)[0].mean() - score.mean()),
            "penalty": config.penalty * gradient_penalty(self.discriminator, real, fake),
            "attributes": config.classify * attribute_loss(logits, batch.source),
        }
        return losses

    def _translator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The same for the translator (equations 10, 12, 13), and what a teacher wants, weighted."""
        config, (pictures, source, target, wanted) = self.config, batch
        losses = {}
        if wanted is not None:
            made = self.network(pictures, source, target)
            losses["paired"] = config.paired * paired_loss(made, wanted, pictures, config.edited)
        elif self.family.reconstruction == "cycle":
            made = self.network(pictures, source, target)
            back = self.network(made, target, source)
            losses["reconstruction"] = config.reconstruction * (back - pictures).abs().mean()
        else:
            # In one pass: norms over the batch would else treat edits and no change differently.
            targets = torch.cat((target, source))
            made, same = self.network(pictures.repeat(2, 1, 1, 1), source.repeat(2, 1), targets).chunk(2)
            losses["reconstruction"] = config.reconstruction * (same - pictures).abs().mean()
        if self.judged:
            score, logits = self.discriminator(self._noisy(made))
            losses["score"] = -config.adversarial * score.mean()
            losses["attributes"] = config.classified * attribute_loss(logits, target)
        return losses

    def _noisy(self, pictures: Tensor) -> Tensor:
        return pictures + self.config.noise * torch.randn_like(pictures)

    def _descend(
        self, losses: dict[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        """One optimiser step; the gradients are averaged over the processes."""
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(sum(losses.values()), parameters)
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(parameters_to_vector(gradients), "mean")
            parts = flat.split([p.numel() for p in parameters])
            gradients = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """Exponential moving average of weights and of the norms' statistics, short at first."""
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        own = self.network.state_dict()
        for name, average in self.average.state_dict().items():
            if average.is_floating_point():
                average.lerp_(own[name], 1 - decay)

    @torch.no_grad()
    def sample_grid(self) -> np.ndarray:
        """Held-out people in rows: as they are, at no change, and each attribute at its other end."""
        pictures, source = (x.to(self.device) for x in self.kept.first(SHOWN))
        columns = [pictures, self.average(pictures, source, source)]
        for index in range(source.shape[1]):
            target = source.clone()
            target[:, index] = torch.where(source[:, index] > 0, -0.5, 0.5)
            columns.append(self.average(pictures, source, target))
        grid = torch.cat([torch.cat(list(column), 1) for column in columns], 2)
        return ((grid.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    def save(self, path: Path) -> None:
        """Checkpoint of everything needed to go on, and the averaged weights beside it."""
        random = gather_object([resume.random_state(self.device)])
        if not self.accelerator.is_main_process:
            return
        state = {name: getattr(self, name).state_dict() for name in self._stateful()}
        resume.write(path, state | {"step": self.step, "seconds": self.seconds, "random": random})
        made = {"steps": str(self.step), "recipe": json.dumps(resume.recipe(self.config))}
        weights = self.config.out / f"{self.config.family}.safetensors"
        self.average.save(weights, teacher=self.config.teacher, **made)

    def load(self, state: dict) -> None:
        """Go on from a checkpoint's state."""
        for name in self._stateful():
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
        resume.set_random_state(state["random"][self.accelerator.process_index], self.device)

    @staticmethod
    def _stateful() -> tuple[str, ...]:
        return "network", "average", "discriminator", "optimiser", "d_optimiser"


def _network(config: TranslatorConfig) -> Network:
    """A fresh network, or that of the file to start from."""
    if config.start is None:
        return build(config.structure)
    network = load_network(config.start)
    if network.structure != config.structure:
        raise InputError(f"'{config.start}' is of another structure ({network.structure.to_json()}).")
    return network.train().requires_grad_(True)


def train_translator(config: TranslatorConfig) -> str:
    """Prepare the data in the run's folder, train, and return the weights' path.

    Raises:
        InputError: as `Faces.read`, `Faces.teach` and `TranslatorTrainer`, there is nothing to learn from, or
            the run in the folder was begun otherwise.
    """
    if (config.data is None) == (config.teacher == "none"):
        raise InputError("Give either --data with faces, or --teacher dystyle.")
    structure, folder = config.structure, config.out / "faces"
    with Accelerator(cpu=not torch.cuda.is_available()).main_process_first():
        settings = {"family": config.family, "data": _source(config)}
        resume.begin(config.out, resume.recipe(config, FREE) | settings)
        editor = FaceEditor.from_pretrained("auto")
        if config.teacher == "dystyle":
            given = (config.people, config.edits, structure.names, structure.size, config.seed)
            faces = Faces.teach(folder, *given, editor)
        else:
            faces = Faces.read(folder, config.data, structure.names, structure.size, editor)
    return str(TranslatorTrainer(config, faces).run())


def _source(config: TranslatorConfig) -> str:
    """What the data is, and a digest of it."""
    if config.data is None:
        return config.teacher
    if (config.data / "done.txt").exists():
        return FaceDataset.load(config.data).fingerprint
    return photos_fingerprint(config.data)
