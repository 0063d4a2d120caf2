"""Train a StyleGAN2 on a folder of pictures (Karras et al. 2020, arXiv 1912.04958; ADA: arXiv 2006.06676).

Or the first StyleGAN (Karras et al. 2019, arXiv 1812.04948), whose networks grow: see `growth`.

`accelerate launch -m dystyle.train generator` trains on several GPUs, and `torchrun --nproc_per_node 2 -m --
dystyle.train generator` in processes on CPUs: each sees pictures of its own, and the gradients are averaged.
"""

import hashlib
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from tqdm import trange

from dystyle.errors import InputError
from dystyle.generators import STYLEGAN2_SIZES as SIZES
from dystyle.generators.checkpoints import read_discriminator, read_generator, save
from dystyle.generators.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from dystyle.generators.stylegan2 import Discriminator, StyleGAN2
from dystyle.metrics.distances import PRINCIPAL_COMPONENTS, frechet
from dystyle.metrics.efficientnet import EfficientNetLite0
from dystyle.metrics.inception import Inception
from dystyle.pictures import save_picture
from dystyle.training import resume
from dystyle.training.augment import adapt, augment
from dystyle.training.growth import Growth, shrink
from dystyle.training.pictures import Pictures

DIM = 512
STEP = 1e-2  # of a path in W, for the perceptual path length
SMALLEST = 8  # pixels, for the discriminator's blocks and the augmentation's filters
CLAMP, HALF_BLOCKS = 256.0, 4  # in float16
CHUNK = 32  # pictures at once when nothing is learnt
ADAPT_EVERY = 4  # steps between changes of the augmentation's probability
FEWEST = 4  # pictures: either half of them has a covariance
LEAST = {"steps": 1, "batch": 1, "compared": FEWEST, "paths": 1, "r1_every": 1, "path_every": 1}
LEAST |= {"checkpoint_every": 1, "evaluate_every": 1, "phase": 1}
FREE = ("steps", "checkpoint_every", "evaluate_every")  # settings that may change while a run goes on
KINDS = {"stylegan2": (StyleGAN2, Discriminator), "stylegan1": (StyleGAN1, StyleGAN1Discriminator)}
WARM_UP = 0.05  # the average's half-life is at most this share of the pictures seen so far


@dataclass(frozen=True)
class GeneratorConfig:
    """Training of a StyleGAN generator.

    Attributes:
        data: folder or zip file of pictures, four or more; labels in its `dataset.json` are not used.
        out: folder of the run (checkpoints, log, grids, final weights); an interrupted run goes on.
        size: pixels of the pictures, a power of two.
        architecture: "stylegan2", or "stylegan1", which grows from `smallest` px: a size fades in during
            `phase` pictures, and the next one after as many more. Networks from files do not grow.
        channel_base, channel_max, mapping_layers: structure, see `StyleGAN2`.
        start, start_discriminator: files to start from, in any format that `read_generator` and
            `read_discriminator` take; their structure counts.
        mirror: pictures may be mirrored.
        steps: each with `batch` real pictures in every process.
        precision: "bf16" for everything but regularisation, losses and weights; or "fp16" for the four
            largest blocks of both networks, their activations clamped, as the ADA paper's code does (GPUs).
        r1: weight of the gradient penalty; None: 0.0002 size^2 / pictures of a step, as in the ADA paper.
            While networks grow, it does with the square of their size.
        path_length: weight of the path length regularisation; None: 2, and 0 for stylegan1, which has none.
        r1_every, path_every: steps between them (lazy regularisation, section 3.1).
        mixing: share of the pictures that are made of two codes.
        half_life: of the averaged generator, in pictures.
        augment: adaptive augmentation; ada_speed: pictures in which its probability can go from 0 to 1.
        compared: pictures in the Frechet distance; paths: in the perceptual path length.
        inception: NVIDIA's TorchScript file `inception-2015-12-05.pt`, to take the FID of as many, too.
    """

    data: Path
    out: Path = Path("runs/generator")
    size: int = 256
    architecture: Literal["stylegan2", "stylegan1"] = "stylegan2"
    smallest: int = 8
    phase: int = 600_000
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    start: str | None = None
    start_discriminator: str | None = None
    mirror: bool = True
    steps: int = 100_000
    batch: int = 32
    precision: Literal["no", "bf16", "fp16"] = "no"
    lr: float = 0.002
    r1: float | None = None
    path_length: float | None = None
    r1_every: int = 16
    path_every: int = 4
    mixing: float = 0.9
    half_life: float = 10_000
    augment: bool = True
    ada_speed: float = 500_000
    compared: int = 2000
    paths: int = 256
    inception: str | None = None
    checkpoint_every: int = 1000
    evaluate_every: int = 5000
    seed: int = 0


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norms of the gradients of (b, 1) logits by the images they belong to: (b,)."""
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradients.square().sum((1, 2, 3))


def path_lengths(images: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
    """|J^T y| for each picture (section 3.2), over the rows of its W+ code: the root of their mean square.

    Args:
        images: (b, 3, h, w) made of codes (b, rows, 512). noise: y, normal numbers shaped like images.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradients,) = torch.autograd.grad((images * scaled).sum(), codes, create_graph=True)
    return gradients.square().sum(2).mean(1).sqrt()


def _check_start(name: str, network: StyleGAN2 | Discriminator, size: int, kinds: tuple[type, type]) -> None:
    if network.size != size:
        raise InputError(f"'{name}' is of {network.size} px; give --size {network.size} to start from it.")
    if type(network) not in kinds:
        raise InputError(
            f"'{name}' is a {type(network).__name__}; training with this --architecture starts from a "
            f"{kinds[0].__name__} and a {kinds[1].__name__}."
        )
    if network.c_dim:
        raise InputError(f"'{name}' knows classes, and training here is without; start from another one.")


def _growth(config: GeneratorConfig, batch: int) -> Growth:
    """How the networks grow by `batch` pictures a step; those of StyleGAN2 and from files are of one size."""
    grows = config.architecture == "stylegan1" and config.start is None and config.start_discriminator is None
    if grows and (config.smallest not in SIZES or not SMALLEST <= config.smallest <= config.size):
        raise InputError(
            f"Nothing grows from {config.smallest} px; give --smallest a power of two, {SMALLEST} to --size."
        )
    growth = Growth(config.smallest if grows else config.size, config.size, config.phase)
    if (needed := -(-growth.pictures // batch)) > config.steps:
        raise InputError(
            f"In {config.steps} steps nothing grows to {config.size} px; give --steps {needed} or more, or a "
            "smaller --phase."
        )
    return growth


def _describe(source: Path, names: list[str]) -> tuple[str, bool]:
    """How many pictures a folder or zip file holds with a digest of their names and sizes; has it labels?"""
    if source.is_dir():
        sizes, table = [(source / name).stat().st_size for name in names], source / "dataset.json"
        text = table.read_bytes() if table.exists() else b"{}"
    else:
        with zipfile.ZipFile(source) as archive:
            sizes = [archive.getinfo(name).file_size for name in names]
            text = archive.read("dataset.json") if "dataset.json" in archive.namelist() else b"{}"
    digest = hashlib.sha256(repr(list(zip(names, sizes, strict=True))).encode()).hexdigest()[:16]
    try:
        labels = json.loads(text).get("labels")
    except (ValueError, AttributeError):
        labels = None
    return f"{len(names)} pictures, {digest}", bool(labels)


@dataclass(frozen=True)
class Judge:
    """A network by whose features real and generated pictures are compared.

    Attributes:
        embed: pictures (b, 3, s, s) in [-1, 1] -> (b, n).
        about: what it sees, for the card.
        components: see `frechet`.
    """

    embed: Callable[[Tensor], Tensor]
    about: str
    components: int | None

    def distance(self, real: np.ndarray, fake: np.ndarray) -> float:
        return frechet(real, fake, self.components)


class GeneratorTrainer:
    """Everything one training run holds; `run` goes from random weights to the final ones.

    Raises:
        InputError: the data is missing or too little, a setting is, the precision is not there on this
            machine, a file to start from does not fit, or the run in the folder was begun otherwise.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        cpu = not torch.cuda.is_available()
        if cpu and config.precision == "fp16":
            raise InputError("fp16 needs a GPU; train with --precision bf16 or no.")
        if config.size < SMALLEST:
            raise InputError(f"Training needs pictures of at least {SMALLEST} px; give a larger --size.")
        for name, least in LEAST.items():
            if (value := getattr(config, name)) < least:
                raise InputError(f"--{name.replace('_', '-')} {value} is too little; give {least} or more.")
        # float16 is the networks' own matter; accelerate casts to bfloat16 only.
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no", cpu=cpu
        )
        self.device = torch.device("cpu") if cpu else self.accelerator.device
        self.batch = config.batch * self.accelerator.num_processes
        self.growth = _growth(config, self.batch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.pictures = Pictures(config.data, config.size, config.mirror)
        if (count := len(self.pictures.names)) < FEWEST:
            raise InputError(f"'{config.data}' holds {count} picture(s); training takes {FEWEST} or more.")
        data, labelled = _describe(config.data, self.pictures.names)
        if labelled and self.accelerator.is_main_process:
            print(
                "The labels in dataset.json are not used: this training is without classes.", file=sys.stderr
            )
        with self.accelerator.main_process_first():
            resume.begin(config.out, resume.recipe(config, FREE) | {"data": data})
        self.generator, self.average, self.discriminator = self._networks()
        self.average.requires_grad_(False)
        self.g_optimiser = self._optimiser(self.generator, config.path_every)
        self.d_optimiser = self._optimiser(self.discriminator, config.r1_every)
        self.r1 = 0.0002 * config.size**2 / self.batch if config.r1 is None else config.r1
        default = 2.0 if config.architecture == "stylegan2" else 0.0
        self.path_length = default if config.path_length is None else config.path_length
        self.mean_length = torch.zeros((), device=self.device)
        self.p, self.signs = 0.0, []
        self.step, self.seconds = 0, 0.0
        self.figures: list[dict[str, float]] = []
        self.look = EfficientNetLite0(self.device)
        about = "EfficientNet-Lite0's features, in their leading principal components, not the FID"
        self.judges = {"frechet": Judge(self.look.embed, about, PRINCIPAL_COMPONENTS)}
        if config.inception is not None:
            network = Inception(config.inception, self.device)
            self.judges["fid"] = Judge(network.embed, "Inception's features", None)

    def _networks(self) -> tuple[StyleGAN2, StyleGAN2, Discriminator]:
        """The generator, its average and the discriminator, fresh or from files."""
        config, half = self.config, self.config.precision == "fp16"
        kinds = KINDS[config.architecture]
        structure = {name: getattr(config, name) for name in ("size", "channel_base", "channel_max")}
        generator = {"mapping_layers": config.mapping_layers} | structure
        source = judge = None
        if config.start is not None:
            source = read_generator(config.start)
            _check_start(config.start, source, config.size, kinds)
            generator = source.structure
            structure |= {name: generator[name] for name in ("channel_base", "channel_max")}
        if config.start_discriminator is not None:
            judge = read_discriminator(config.start_discriminator)
            _check_start(config.start_discriminator, judge, config.size, kinds)
            structure = judge.structure
        clamp = {"clamp": CLAMP} if half else {}
        networks = *(kinds[0](**generator | clamp) for _ in range(2)), kinds[1](**structure | clamp)
        for network, start in zip(networks, (source, source, judge), strict=True):
            if start is not None:
                network.load_state_dict(start.state_dict())
            network.to(self.device).half = HALF_BLOCKS if half else 0
        return networks

    def _optimiser(self, network: nn.Module, every: int) -> torch.optim.Adam:
        """Adam; the steps of the lazy regularisation in between must not count (appendix B)."""
        share = every / (every + 1)
        lr, betas = self.config.lr * share, (0.0, 0.99**share)
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=1e-8)

    def run(self) -> Path:
        """Train to the end, going on from the run's last checkpoint; returns the weights' path.

        Raises:
            InputError: the checkpoint is damaged and there is none before it, or was written by another
                number of processes.
        """
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
            for network in (self.generator, self.discriminator):
                for tensor in network.state_dict().values():
                    tensor.copy_(broadcast(tensor))
            self.average.load_state_dict(self.generator.state_dict())
            # From here on every process draws codes of its own.
            torch.manual_seed(config.seed + 1 + self.accelerator.process_index)
        writer = SummaryWriter(config.out) if main else None
        batches = self._batches()
        progress = trange(
            self.step, config.steps, initial=self.step, total=config.steps, disable=not main, mininterval=10
        )
        for step in progress:
            started = time.perf_counter()
            logs = self.train_step(next(batches))
            self.step, self.seconds = step + 1, self.seconds + time.perf_counter() - started
            last = self.step == config.steps
            if main and (self.step % config.evaluate_every == 0 or last):
                self.evaluate()
                logs |= {f"quality/{name}": self.figures[-1][name] for name in (*self.judges, "ppl")}
                grid = self.sample_grid()
                writer.add_image("samples", grid, self.step, dataformats="HWC")
                save_picture(grid, config.out / f"samples-{self.step:06d}.png")
            if main:
                for name, value in logs.items():
                    writer.add_scalar(name, value, step)
                if self.step % 20 == 0 or last:
                    progress.write(f"{self.step} " + " ".join(f"{k}={v:.3f}" for k, v in logs.items()))
            if self.step % config.checkpoint_every == 0 or last:
                self.save(checkpoint)
        if main:
            self.write_card()
        self.accelerator.wait_for_everyone()
        return config.out / "generator.safetensors"

    def _batches(self) -> Iterator[Tensor]:
        """Real pictures from this step on, (b, 3, size, size) in [-1, 1]."""
        where = (self.accelerator.process_index, self.accelerator.num_processes)
        for images in self.pictures.batches(self.config.batch, self.config.seed, self.step, *where):
            yield torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1

    def train_step(self, reals: Tensor) -> dict[str, float]:
        """One step of both networks on real pictures (b, 3, size, size); returns the numbers to log."""
        config, logs = self.config, {}
        size, alpha = self._grow()
        reals = shrink(reals, size, alpha)
        self.discriminator.requires_grad_(False)
        logs["loss/generator"] = F.softplus(-self._judge(self._fakes(len(reals)))).mean()
        self._descend(logs["loss/generator"], self.generator, self.g_optimiser)
        if self.step % config.path_every == 0 and self.path_length:
            penalty, logs["path/length"] = self._path_penalty(max(1, len(reals) // 2))
            loss = penalty * self.path_length * config.path_every
            self._descend(loss, self.generator, self.g_optimiser)
        self.discriminator.requires_grad_(True)

        with torch.no_grad():
            fakes = self._fakes(len(reals))
        real, fake = self._judge(reals), self._judge(fakes)
        logs["loss/discriminator"] = F.softplus(-real).mean() + F.softplus(fake).mean()
        self._descend(logs["loss/discriminator"], self.discriminator, self.d_optimiser)
        if self.step % config.r1_every == 0 and self.r1:
            # By the pictures before the augmentation, as the ADA paper's code does.
            images = reals.requires_grad_(True)
            logs["r1"] = r1_penalty(self._score(augment(images, self.p)), images).mean()
            loss = logs["r1"] * self.r1 * (size / config.size) ** 2 / 2 * config.r1_every
            self._descend(loss, self.discriminator, self.d_optimiser)

        self._follow()
        logs |= {"score/real": real.mean(), "score/fake": fake.mean(), "ada/signs": real.sign().mean()}
        if config.augment:
            self._adapt(logs["ada/signs"].detach())
        logs = {name: float(value.detach()) for name, value in logs.items()} | {"ada/p": self.p}
        return logs | {"growth/size": size, "growth/alpha": alpha}

    def _grow(self) -> tuple[int, float]:
        """Size of this step and how far it has faded in; Adam begins anew where a fade begins or ends."""
        now, before = (self.growth.at(max(0, step) * self.batch) for step in (self.step, self.step - 1))
        if (now[0], now[1] < 1) != (before[0], before[1] < 1):
            self.g_optimiser.state.clear()
            self.d_optimiser.state.clear()
        return now

    def _grown(self) -> tuple[int, dict[str, float]]:
        """Size of the pictures now, and what both networks have to know of a fade."""
        size, alpha = self.growth.at(self.step * self.batch)
        return size, {} if alpha == 1 else {"alpha": alpha}

    def _score(self, images: Tensor) -> Tensor:
        """The discriminator's logits (b, 1)."""
        return self.discriminator(images, **self._grown()[1])

    def _generate(self, codes: Tensor) -> Tensor:
        """Pictures of W+ codes with random noise."""
        size, fading = self._grown()
        return self.generator(codes, size, "random", **fading)

    def _judge(self, images: Tensor) -> Tensor:
        """The discriminator's logits (b, 1) of augmented pictures."""
        images = augment(images, self.p)  # in float32: places in a picture do not fit into bfloat16
        with self.accelerator.autocast():
            return self._score(images).float()

    def _codes(self, count: int) -> Tensor:
        """Random W+ codes (count, rows, 512); some change to a second person's at a random row."""
        first, second = self.generator.map(torch.randn(2 * count, DIM)).chunk(2)
        rows = self.generator.rows(self._grown()[0])
        crossover = torch.randint(1, rows, (count,))
        mixed = torch.rand(count) < self.config.mixing
        return self.generator.mix(first, second, torch.where(mixed, crossover, rows))

    def _fakes(self, count: int) -> Tensor:
        codes = self._codes(count)
        with self.accelerator.autocast():
            return self._generate(codes).float()

    def _path_penalty(self, count: int) -> tuple[Tensor, Tensor]:
        """(|J^T y| - a)^2 with a the running mean of |J^T y| (equation 4), averaged, and the mean length."""
        codes = self._codes(count)
        images = self._generate(codes)
        lengths = path_lengths(images, codes, torch.randn_like(images))
        mean = self.accelerator.reduce(lengths.detach().mean(), "mean")
        self.mean_length = self.mean_length.lerp(mean, 0.01)
        return (lengths - self.mean_length).square().mean(), lengths.mean().detach()

    def _descend(self, loss: Tensor, network: nn.Module, optimiser: torch.optim.Adam) -> None:
        """One optimiser step; the gradients are averaged over the processes."""
        optimiser.zero_grad()
        self.scaler.scale(loss).backward()
        learning = [p for p in network.parameters() if p.grad is not None]
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(parameters_to_vector(p.grad for p in learning), "mean")
            for p, mean in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
                p.grad = mean.view_as(p)
        self.scaler.step(optimiser)
        self.scaler.update()

    def _adapt(self, signs: Tensor) -> None:
        """Count this step's mean sign, and every few steps change the augmentation's probability."""
        self.signs.append(signs)
        if len(self.signs) == ADAPT_EVERY:
            mean = float(self.accelerator.reduce(torch.stack(self.signs).mean(), "mean"))
            self.p, self.signs = adapt(self.p, mean, ADAPT_EVERY * self.batch, self.config.ada_speed), []

    @torch.no_grad()
    def _follow(self) -> None:
        """Exponential moving average of the generator, short at first."""
        half_life = min(self.config.half_life, WARM_UP * (self.step + 1) * self.batch)
        decay = 0.5 ** (self.batch / half_life)
        for average, parameter in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def _render(self, codes: Tensor) -> Tensor:
        """The averaged generator's pictures of W or W+ codes, with fixed noise; enlarged while it grows."""
        size, fading = self._grown()
        images = [self.average(chunk, size, "fixed", **fading) for chunk in codes.split(CHUNK)]
        return F.interpolate(torch.cat(images), (self.config.size, self.config.size))

    def _fixed_z(self, count: int, seed: int) -> Tensor:
        """The same numbers in every evaluation, without touching those of the training."""
        z = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
        return torch.from_numpy(z).to(self.device)

    def _real_features(self, name: str) -> np.ndarray:
        """Of the first pictures in a shuffled order, as a judge sees them; read once a run."""
        count = min(self.config.compared, len(self.pictures))
        path = self.config.out / f"{name}-{count}.npy"
        if not path.exists():
            features, batches = [], self.pictures.batches(CHUNK, self.config.seed + 1)
            for _ in trange(0, count, CHUNK, desc="reading pictures", mininterval=10):
                images = torch.from_numpy(next(batches)).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1
                features.append(self.judges[name].embed(images).cpu().numpy())
            with resume.whole(path) as file:
                np.save(file, np.concatenate(features)[:count])
        return np.load(path)

    @torch.no_grad()
    def evaluate(self) -> None:
        """Add to `figures.json` what the averaged generator has reached.

        "frechet": of EfficientNet-Lite0's features, see `frechet`; "fid": of Inception's, where its file was
        given. "ppl": mean distance by EfficientNet-Lite0 over the squared step, at ends of paths in W,
        without outliers; not LPIPS.
        """
        config, row = self.config, {"step": self.step, "pictures": self.step * self.batch}
        row["minutes"] = self.seconds / 60
        for name, judge in self.judges.items():
            real = self._real_features(name)
            codes = self.average.map(self._fixed_z(len(real), config.seed))
            fake = [judge.embed(self._render(chunk)).cpu().numpy() for chunk in codes.split(CHUNK)]
            row[name] = judge.distance(real, np.concatenate(fake))
        starts, ends = self.average.map(self._fixed_z(2 * config.paths, config.seed + 1)).chunk(2)
        pairs = zip(starts.split(CHUNK), starts.lerp(ends, STEP).split(CHUNK), strict=True)
        distances = (
            torch.cat([self.look.distances(self._render(a), self._render(b)) for a, b in pairs]) / STEP**2
        )
        low, high = distances.quantile(0.01), distances.quantile(0.99)
        row["ppl"] = float(distances[(distances >= low) & (distances <= high)].mean())
        self.figures.append(row | {"p": self.p})
        (config.out / "figures.json").write_text(json.dumps(self.figures, indent=2) + "\n")

    def sample_grid(self, rows: int = 6, columns: int = 10) -> np.ndarray:
        """The averaged generator's pictures of the same random codes every time, (h, w, 3) uint8."""
        images = self._render(self.average.map(self._fixed_z(rows * columns, self.config.seed + 2)))
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        size = self.config.size
        grid = pixels.reshape(rows, columns, size, size, 3).swapaxes(1, 2)
        return grid.reshape(rows * size, columns * size, 3)

    def save(self, path: Path) -> None:
        """Checkpoint of everything needed to go on, and the averaged weights beside it."""
        with torch.device("cpu"):  # where its seed counts
            self.average.measure_w()
        random = gather_object([self._random()])
        if not self.accelerator.is_main_process:
            return
        state = {name: getattr(self, name).state_dict() for name in self._stateful()}
        state |= {name: getattr(self, name) for name in self._plain()} | {"random": random}
        resume.write(path, state)
        recipe = json.dumps(resume.recipe(self.config))
        save(self.average, path.parent / "generator.safetensors", steps=str(self.step), recipe=recipe)

    def load(self, state: dict) -> None:
        """Go on from a checkpoint's state."""
        for name in self._stateful():
            getattr(self, name).load_state_dict(state[name])
        for name in self._plain():
            setattr(self, name, state[name])
        self.mean_length = self.mean_length.to(self.device)
        random = state["random"][self.accelerator.process_index]
        self.signs = [torch.tensor(sign, device=self.device) for sign in random["signs"]]
        resume.set_random_state(random, self.device)

    @staticmethod
    def _stateful() -> tuple[str, ...]:
        return "generator", "average", "discriminator", "g_optimiser", "d_optimiser", "scaler"

    @staticmethod
    def _plain() -> tuple[str, ...]:
        return "mean_length", "p", "step", "seconds", "figures"

    def _random(self) -> dict[str, Tensor | list[float]]:
        """What differs between processes: random numbers, and signs not yet counted."""
        signs = [float(sign) for sign in self.signs]
        return resume.random_state(self.device) | {"signs": signs}

    def write_card(self) -> None:
        """`generator.md`: a card for the weights."""
        config, about = self.config, []
        for name, judge in self.judges.items():
            real = self._real_features(name)
            apart = judge.distance(real[::2], real[1::2])
            about.append(
                f"{name}: Frechet distance of {judge.about}, of {len(real)} pictures; halves of the real "
                f"ones are {apart:.3f} apart."
            )
        lines = [
            "# generator",
            "",
            f"A {type(self.average).__name__} of {config.size} px, trained on "
            f"{len(self.pictures.names)} pictures. {self.step} steps of {self.batch} pictures in "
            f"{self.accelerator.num_processes} process(es) took "
            f"{self.seconds / 60:.0f} minutes.",
            "",
            f"Made by `python -m dystyle.train generator` with {json.dumps(resume.recipe(self.config))}.",
            "",
            *about,
            "ppl: path length in W, by the distance of EfficientNet-Lite0's features, not LPIPS.",
            "",
            f"| pictures seen | minutes | {' | '.join(self.judges)} | ppl | augmentation p |",
            "|---" * (4 + len(self.judges)) + "|",
        ]
        for row in self.figures:
            figures = [f"{row['pictures']:,}", f"{row['minutes']:.0f}"]
            figures += [f"{row[name]:.3f}" for name in self.judges]
            lines.append(f"| {' | '.join(figures)} | {row['ppl']:.1f} | {row['p']:.2f} |")
        (config.out / "generator.md").write_text("\n".join(lines) + "\n")
