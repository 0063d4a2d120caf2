"""Edits one after the other learn to end where the joint edit does: the editor teaches itself, in W+ alone.

A single edit that has been trained on unedited faces only undoes a little of what was edited before. Here
it learns, from codes that the editor itself has already edited, to arrive at what its frozen copy makes of
the unedited code and all targets at once. No picture is rendered, so a step takes a fraction of a second.
"""

import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm, trange

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.metrics.drawing import draw_edit, sample_codes
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.curriculum import draw_targets

GROUPS = 4  # parts of a batch, each with attributes of its own
AGAIN = 0.25  # share of the sequences whose last edit changes an attribute that was edited before
AT_ONCE = 3  # attributes in the joint edits that show how far these fall short
LOGGED = 50  # steps that the returned losses are means of


@dataclass(frozen=True)
class SequencesConfig:
    """Teaching an editor's single edits to follow one another.

    Attributes:
        start: weights to start from (a name or a path), which are the teacher, too.
        other: weights of another editor, which teaches the edits of the attributes that are `taken` from it.
        out: file to write.
        steps, batch, lr: of Adam; `batch` codes a step in four groups.
        most: the most edits one after the other.
        keep: weight of what edits of unedited codes do, alone and joint, against that of the sequences.
        read: faces that are rendered to see how far numeric targets are missed on average; the teacher is
            then asked for as much more as it takes to get what is wanted. 0 for what it makes of them.
        ensemble: share of the teacher's edits one after the other, in random order, in its joint edits; for a
            teacher that has been taught to make them. reach: length of its joint edits, of what they are.
        ema: decay of the averaged weights, which are written.
        backend: renders and reads them, see `FaceEditor.from_pretrained`.
    """

    start: str = "dystyle"
    other: str | None = None
    taken: tuple[str, ...] = ()
    out: Path = Path("runs/sequences/dystyle.safetensors")
    steps: int = 2500
    batch: int = 256
    lr: float = 5e-4
    most: int = 7
    keep: float = 4.0
    read: int = 400
    ensemble: float = 0.0
    reach: float = 1.0
    ema: float = 0.995
    backend: str = "auto"
    seed: int = 0


Edit = Callable[[Tensor, Mapping[str, Tensor]], Tensor]  # as `DyStyle.forward`


def graft(editor: Edit, other: Edit, taken: Sequence[str]) -> Edit:
    """An editor of codes (b, 18, 512) by targets (b,) whose edits of some attributes are another one's.

    What the other's edit changes because of the `taken` attributes is added to the editor's edit of the rest.
    """

    def edit(codes: Tensor, configuration: Mapping[str, Tensor]) -> Tensor:
        rest = {name: value for name, value in configuration.items() if name not in taken}
        edited = editor(codes, rest)
        if len(rest) < len(configuration):
            edited = edited + other(codes, configuration) - other(codes, rest)
        return edited

    return edit


class Teacher:
    """A frozen editor, asked for what makes its edits come out as wanted.

    Args:
        lines: (offset, gain) by numeric attribute of what an edit reaches as a line of what was asked for,
            for single and for joint edits.
        ensemble, reach: see `SequencesConfig`.
    """

    def __init__(
        self, editor: Edit, lines: tuple[Mapping, Mapping], ensemble: float = 0, reach: float = 1
    ) -> None:
        self.editor, self.lines, self.ensemble, self.reach = editor, lines, ensemble, reach

    def __call__(self, codes: Tensor, configuration: Mapping[str, Tensor]) -> Tensor:
        """Edited codes (b, 18, 512); the arguments are those of `DyStyle.forward`."""
        if len(configuration) < 2:
            return self.editor(codes, self._asked(configuration, self.lines[0]))
        edited = self.editor(codes, self._asked(configuration, self.lines[1]))
        if self.ensemble:
            names, sequence = list(configuration), codes
            for index in torch.randperm(len(names)).tolist():
                step = {names[index]: configuration[names[index]]}
                sequence = self.editor(sequence, self._asked(step, self.lines[0]))
            edited = edited.lerp(sequence, self.ensemble)
        return codes.lerp(edited, self.reach)

    @staticmethod
    def _asked(configuration: Mapping[str, Tensor], lines: Mapping) -> dict[str, Tensor]:
        """The targets, numeric ones with what edits miss on average on top, within the attribute's range."""
        targets = dict(configuration)
        for name in lines.keys() & targets.keys():
            offset, gain = lines[name]
            row, value = ATTRIBUTES[name], targets[name]
            targets[name] = row.clamp(2 * value - offset - gain * value)
        return targets


@torch.no_grad()
def fit_lines(
    editor: Edit,
    names: Sequence[str],
    codes: Tensor,
    count: int,
    reader: FaceEditor,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """What edits of `count` attributes reach as a line of what is asked for, by numeric attribute.

    Args:
        names: its attributes. codes: (n, 18, 512), each edited once and rendered; reader: renders and reads.

    Returns:
        (offset, gain) in the attribute's unit: reached = offset + gain * asked, by least squares.
    """
    numeric = [name for name in ATTRIBUTES if name in names and ATTRIBUTES[name].kind == "numeric"]
    asked, reached = {}, {}
    progress = tqdm(codes, desc=f"reading edits of {count}", mininterval=10)
    for name, code in zip(itertools.cycle(numeric), progress, strict=False):
        others = [other for other in names if other != name]
        edit = draw_edit(rng, [name, *rng.choice(others, min(count - 1, len(others)), replace=False)])
        targets = {key: torch.tensor([value]) for key, value in edit.items()}
        picture = reader.synthesize(editor(code[None], targets)[0].numpy())
        asked.setdefault(name, []).append(edit[name])
        reached.setdefault(name, []).append(reader.measure(picture)[name])
    return {name: tuple(np.polyfit(asked[name], reached[name], 1)[::-1].tolist()) for name in asked}


def sequence_losses(student: DyStyle, teacher: Teacher, codes: Tensor, most: int) -> dict[str, Tensor]:
    """Mean squared distances in W+, in units of W's deviation, for one random sequence of edits.

    Args:
        codes: (b, 18, 512), unedited.

    Returns:
        "sequence": of the last of two to `most` edits one after the other to the teacher's joint edit; the
        student has made those before, and may be asked for another value of one of them. "single": of its
        last edit alone to the teacher's; "joint": of all edits at once, over their number.
    """
    names = student.names
    count = int(torch.randint(2, min(most, len(names)) + 1, ()))
    chosen = [names[i] for i in torch.randperm(len(names))[:count].tolist()]
    wanted = {name: draw_targets(name, len(codes)) for name in chosen}

    def distance(edited: Tensor, goal: Tensor) -> Tensor:
        return ((edited - goal)[:, : student.rows] / student.std_w).square().mean()

    with torch.no_grad():
        joint = teacher(codes, wanted)
        done = {name: wanted[name] for name in chosen[: int(torch.randint(1, count, ()))]}
        edited = codes
        for name, value in done.items():
            edited = student(edited, {name: value})
        last = chosen[len(done)]
        if torch.rand(()) < AGAIN:
            last = chosen[int(torch.randint(len(done), ()))]
        step = {last: draw_targets(last, len(codes)) if last in done else wanted[last]}
        goal, single = teacher(codes, done | step), teacher(codes, step)
    return {
        "sequence": distance(student(edited, step), goal),
        "single": distance(student(codes, step), single),
        "joint": distance(student(codes, wanted), joint) / count,
    }


def train_sequences(config: SequencesConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Write the editor to `config.out`.

    Args:
        generator: maps Z to the W codes that are edited.

    Returns:
        By name of `sequence_losses`, their mean over the last steps, and as "untaught" that of the
        sequences over the first.

    Raises:
        InputError: as `DyStyle.load`, `FaceEditor.from_pretrained`, or there are no two edits to follow one
            another.
    """
    torch.manual_seed(config.seed)
    resume.make_folder(config.out.parent)
    rng = np.random.default_rng(config.seed)

    def codes(count: int) -> Tensor:
        return torch.from_numpy(sample_codes(rng, count, generator.map, generator.mean_w.numpy())).float()

    start, other = DyStyle.load(config.start), DyStyle.load(config.other or config.start)
    if min(config.most, len(start.names)) < 2:
        raise InputError("A sequence takes an editor of two attributes or more, and --most 2 or more.")
    if missing := set(config.taken) - set(start.names).intersection(other.names):
        raise InputError(f"'{min(missing)}' cannot be taken: both editors need an expert for it.")
    editor, lines = graft(start, other, config.taken), ({}, {})
    if config.read:
        reader = FaceEditor.from_pretrained(backend=config.backend)
        lines = tuple(
            fit_lines(editor, start.names, codes(config.read), n, reader, rng) for n in (1, AT_ONCE)
        )
        print(json.dumps({"single": lines[0], "joint": lines[1]}))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, average = copy.deepcopy(start).requires_grad_(True), copy.deepcopy(start)
    for model in (start, other, student, average):
        model.to(device)
    with torch.device(device):
        ask = Teacher(editor, lines, config.ensemble, config.reach)
        logs = _descend(student, average, ask, codes, config)
    average.save(config.out, steps=str(config.steps), recipe=json.dumps(resume.recipe(config)))
    means = {name: float(np.mean([log[name] for log in logs[-LOGGED:]])) for name in logs[0]}
    return means | {"untaught": float(np.mean([log["sequence"] for log in logs[:LOGGED]]))}


def _descend(
    student: DyStyle,
    average: DyStyle,
    teacher: Teacher,
    codes: Callable[[int], Tensor],
    config: SequencesConfig,
) -> list[dict[str, float]]:
    """The loop: trains `student`, and `average` with it; returns every step's losses."""
    optimiser = torch.optim.Adam(student.parameters(), lr=config.lr, betas=(0.9, 0.99))
    logs, progress = [], trange(config.steps, mininterval=10)
    for step in progress:
        parts = [
            sequence_losses(student, teacher, part.to(student.mean_w.device), config.most)
            for part in codes(config.batch).chunk(GROUPS)
        ]
        losses = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        optimiser.zero_grad()
        (losses["sequence"] + config.keep * (losses["single"] + losses["joint"])).backward()
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / 50) * (1 - 0.97 * step / config.steps)
        clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        for mean, parameter in zip(average.parameters(), student.parameters(), strict=True):
            mean.data.lerp_(parameter.data, 1 - decay)
        logs.append({name: float(loss.detach()) for name, loss in losses.items()})
        recent = {name: np.mean([log[name] for log in logs[-LOGGED:]]) for name in losses}
        progress.set_postfix({name: f"{value:.5f}" for name, value in recent.items()}, refresh=False)
    return logs
