"""All editing methods on the same codes, targets and readings, each as strong as the targets ask for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.editors import METHODS
from dystyle.editors.search import MOST_LOOKS, level_changes, shortfall
from dystyle.evaluation.bench import Bench, Seen
from dystyle.evaluation.photos import photo_files
from dystyle.evaluation.sheets import tile
from dystyle.faces import InvertedFace
from dystyle.metrics.comparison import mean_and_interval
from dystyle.metrics.drawing import draw_edit
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor

SHOWN = 4  # faces on the sheets
SHEET_SIZE = 256
HEADING = """\
# Methods

Made by `python -m dystyle.evaluate methods --count {count} --joint {joint} --sequence {sequence} --methods
{methods} --backend {backend} --json docs/benchmarks/methods.json --plots docs/benchmarks`: the same {count}
random faces (seeds {first_seed} on, truncation {truncation}), targets and readings for all. Methods with
strengths search them on the picture until the targets are read, {steps} pictures at most
(`dystyle.editors.search`; StyleFlow looks at one more, to know what the face reads); DyStyle takes the
targets as they are and looks at no picture. {portraits}
Means with half of their 95 % confidence intervals; the columns are those of [editing.md](editing.md), and

- reached: of the asked values, how many are read within 3 % of the range, or above 95 % (below 5 %)
- error where reached: of these, the error by the judges, which no method looks at
- dependency: mean change of the attributes that were not asked for, in deviations among faces (the
  Attribute Dependency of StyleSpace, over all edits)
- seconds: of one edit, with as many edits at a time as the machine has cores

What it says, and what each method cannot do: [Methods](../methods.md#how-they-compare).
"""
PORTRAITS = """\
Portraits are {photos} real ones that nothing was trained on (`--photos FOLDER --first-photo {first_photo}`),
inverted by `fast`, and what no code has of them comes along."""


@dataclass(frozen=True)
class MethodComparisonConfig:
    """The comparison of all methods.

    Attributes:
        count: faces, of seeds `first_seed` on; truncation of theirs.
        joint: numbers of attributes edited at once.
        sequence: attributes edited one after the other; 0 leaves this out.
        photos: folder of portraits to be edited as well, inverted by `fast`, taken in the order of their
            names; first_photo, photo_count: which of them. They are on no sheet.
        methods: names of `dystyle.editors.METHODS`; none stands for all.
        backend: what runs the engines, see `FaceEditor.from_pretrained`.
        quick: three faces, one and three attributes: to see that everything runs.
    """

    count: int = 22
    first_seed: int = 40_000
    truncation: float = 0.7
    joint: tuple[int, ...] = (1, 2, 3, 5)
    sequence: int = 3
    photos: Path | None = None
    first_photo: int = 0
    photo_count: int = 32
    methods: tuple[str, ...] = ()
    backend: str = "onnx"
    quick: bool = False


def evaluate_methods(config: MethodComparisonConfig, plots: Path | None = None) -> dict:
    """Measure every method.

    Args:
        plots: folder to write `methods.png` and a contact sheet for every kind of edit to.

    Returns:
        By kind of edit ("1 at once", "3 in sequence") and method the figures of `Bench.figures`, with
        "reached", "dependency", "seconds", and "by_attribute", the shares reached.
    """
    if config.quick:
        config = replace(config, count=3, joint=(1, 3), sequence=0)
    editor = FaceEditor.from_pretrained(backend=config.backend)
    seeds = range(config.first_seed, config.first_seed + config.count)
    codes = [editor.sample(seed, config.truncation) for seed in seeds]
    benches = {"": Bench(editor, codes)}
    names = config.methods or tuple(METHODS)
    result = {"count": config.count, "first_seed": config.first_seed, "truncation": config.truncation}
    result |= {"joint": config.joint, "sequence": config.sequence, "methods": names}
    result |= {"backend": config.backend, "photos": 0, "first_photo": config.first_photo, "edits": {}}
    if config.photos is not None:
        files = photo_files(config.photos, config.first_photo, config.photo_count)
        faces = [editor.invert(file) for file in files]
        benches["portraits, "] = Bench(editor, [face.code for face in faces], faces=faces)
        result["photos"] = len(faces)
    editors = {name: editor.with_method(name) for name in names}
    unedited = [_shrink(editor.synthesize(code)) for code in codes[:SHOWN]]
    for kind, bench in benches.items():
        shown = plots if bench is benches[""] else None
        for label, edits, sequential in _kinds(config, list(editor.attributes), len(bench.codes)):
            figures, columns = result["edits"].setdefault(kind + label, {}), [unedited]
            for name, method in editors.items():
                run = Recorded(_in_sequence(method.edit) if sequential else method.edit, bench)
                after = bench.follow(run, edits, f"{kind}{label}, {name}")
                figures[name] = bench.figures(after, edits) | _more(bench.before, after, edits)
                figures[name]["seconds"] = float(np.mean(run.seconds))
                if shown is not None:
                    edited = [run.edited[id(edit)] for edit in edits[:SHOWN]]
                    columns.append([_shrink(editor.synthesize(code)) for code in edited])
            if shown is not None:
                _sheet(columns, ("unedited", *names), edits, shown / f"methods-{label.replace(' ', '-')}.jpg")
    if plots is not None:
        plot(result, plots / "methods.png")
    return result


class Recorded:
    """A method that keeps what it made of each configuration, and the seconds it took, of a bench's faces."""

    def __init__(self, method: Callable[..., np.ndarray], bench: Bench) -> None:
        self.method, self.seconds, self.edited = method, [], {}
        self.faces = {id(code): face for code, face in zip(bench.codes, bench.faces, strict=True)}

    def __call__(self, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        started = time.perf_counter()
        edited = self.method(code, configuration, face=self.faces[id(code)])
        self.seconds.append(time.perf_counter() - started)
        self.edited[id(configuration)] = edited
        return edited


def _in_sequence(edit: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """One attribute after the other, in the order of the configuration."""

    def method(
        code: np.ndarray, configuration: Mapping[str, float], face: InvertedFace | None = None
    ) -> np.ndarray:
        for name, value in configuration.items():
            code = edit(code, {name: value}, face=face)
        return code

    return method


def _kinds(
    config: MethodComparisonConfig, names: list[str], count: int
) -> list[tuple[str, list[dict[str, float]], bool]]:
    """(label, one edit a face, in sequence?): single attributes take turns, others are drawn, for every kind
    by itself, so that each may be measured alone."""
    kinds = [(size, f"{size} at once", False) for size in config.joint]
    if config.sequence:
        kinds.append((config.sequence, f"{config.sequence} in sequence", True))

    def draw(size: int, sequential: bool) -> list[dict[str, float]]:
        rng = np.random.default_rng((config.first_seed, size, sequential))
        if size == 1:
            return [draw_edit(rng, [names[i % len(names)]]) for i in range(count)]
        return [draw_edit(rng, rng.choice(names, size, replace=False)) for _ in range(count)]

    return [(label, draw(size, sequential), sequential) for size, label, sequential in kinds]


def attribute_dependency(
    before: list[Mapping[str, float]], after: list[Mapping[str, float]], edits: list[Mapping[str, float]]
) -> dict[str, float]:
    """Mean change of the levels of attributes that were not asked for, in their deviations over `before`,
    and half of its confidence interval, over edits.

    StyleSpace's Attribute Dependency (section 5 there), as one mean over edits of whatever size.
    """
    levels = {name: [ATTRIBUTES[name].value_to_level(b[name]) for b in before] for name in before[0]}
    spread = {name: float(np.std(values)) or 1.0 for name, values in levels.items()}
    changes = [
        np.mean([abs(change) / spread[n] for n, change in level_changes(b, a).items() if n not in edit])
        for b, a, edit in zip(before, after, edits, strict=True)
    ]
    return mean_and_interval(changes)


def _more(before: list[Seen], after: list[Seen], edits: list[dict[str, float]]) -> dict:
    """Figures that matched effect needs: what was reached, by attribute, too, how far off these are by the
    judges, and the dependency."""
    hits: dict[str, list[bool]] = {}
    errors = []
    for seen, edit in zip(after, edits, strict=True):
        for name, target in edit.items():
            hits.setdefault(name, []).append(shortfall(name, target, seen.values[name]) == 0)
            if hits[name][-1] and name in seen.judged:
                errors.append(abs(seen.judged[name] - target) / ATTRIBUTES[name].width)
    values = [[seen.values for seen in side] for side in (before, after)]
    return {
        "reached": mean_and_interval([hit for found in hits.values() for hit in found]),
        "error_where_reached": mean_and_interval(errors) if errors else None,
        "by_attribute": {name: [sum(found), len(found)] for name, found in hits.items()},
        "dependency": attribute_dependency(*values, edits),
    }


def _shrink(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SHEET_SIZE, SHEET_SIZE), interpolation=cv2.INTER_AREA)


def _sheet(columns: list[list[np.ndarray]], titles: tuple[str, ...], edits: list[dict], path: Path) -> None:
    """Faces in rows; under the first picture of a row what was asked for, under the others the method."""
    captions, pictures = [], []
    for row, edit in zip(zip(*columns, strict=True), edits, strict=False):
        asked = " ".join(f"{name[:8]}={value:.3g}" for name, value in edit.items())
        captions += [asked, *titles[1:]]
        pictures += row
    save_picture(tile(pictures, captions, len(titles)), path)


def _cell(figure: Mapping[str, float] | None, form: str) -> str:
    return "" if figure is None else f"{figure['mean']:{form}} ± {figure['ci']:{form}}"


def table(result: dict) -> str:
    """The result as Markdown."""
    words = {key: " ".join(map(str, result[key])) for key in ("methods", "joint")}
    words["portraits"] = PORTRAITS.format(**result) if result["photos"] else ""
    lines = [
        HEADING.format(**result | words, steps=MOST_LOOKS),
        "| edit | method | reached | error where reached | error | judges: error | moved | judges: sides "
        "| dependency | identity | judges: distance | Frechet | seconds |",
        "|" + "---|" * 13,
    ]
    for label, methods in result["edits"].items():
        for name, f in methods.items():
            read, judged = f["values"], f["judged"]
            shares = (read["error"], judged["error"], read["moved"], judged["sides"])
            cells = [
                *(_cell(f[key], ".0%") for key in ("reached", "error_where_reached")),
                *(_cell(figure, ".0%") for figure in shares),
                _cell(f["dependency"], ".2f"),
                _cell(f["identity"], ".2f"),
                _cell(f["descriptor_distance"], ".2f"),
                f"{f['frechet']:.3f}",
                f"{f['seconds']:.2f}",
            ]
            lines.append(f"| {label} | {METHODS[name].title} | {' | '.join(cells)} |")
    lines += ["", "Targets reached, of those asked for, by attribute over all edits:", ""]
    lines += [f"| method | {' | '.join(ATTRIBUTES)} |", "|---" * (len(ATTRIBUTES) + 1) + "|"]
    for name in result["methods"]:
        counts = {attribute: np.zeros(2, int) for attribute in ATTRIBUTES}
        for methods in result["edits"].values():
            for attribute, found in methods[name]["by_attribute"].items():
                counts[attribute] += found
        cells = (f"{hits} of {asked}" for hits, asked in counts.values())
        lines.append(f"| {METHODS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(result: dict, path: Path) -> None:
    """Effect reached against identity kept, and against what else moved: a panel for each kind of edit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = result["edits"]
    size = (5 * len(kinds), 8)
    figure, axes = pyplot.subplots(2, len(kinds), figsize=size, layout="constrained", squeeze=False)
    for column, (label, methods) in enumerate(kinds.items()):
        for ax, key in zip(axes[:, column], ("identity", "dependency"), strict=True):
            for name, f in methods.items():
                place = 1 - f["values"]["error"]["mean"], f[key]["mean"]
                ax.scatter(*place)
                ax.annotate(METHODS[name].title, place, fontsize=7)
            ax.set_xlabel("1 - error (share of the range)")
            ax.set_ylabel(key)
            ax.set_title(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
