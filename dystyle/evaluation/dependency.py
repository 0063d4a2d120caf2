"""Attribute dependency over the strength of an edit (StyleSpace, Wu et al. 2021, section 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors import METHODS, open_method
from dystyle.editors.base import Editor, StrengthEditor
from dystyle.editors.search import Read, level_changes
from dystyle.metrics.comparison import mean_and_interval
from dystyle.pipeline import FaceEditor

PREVIEW = 256
OVER = 2.0  # how far strengths go, in those that the slopes say would cross an attribute's whole range
HEADING = """\
# Attribute dependency

Made by `python -m dystyle.evaluate dependency --count {count} --steps {steps} --methods {methods} --backend
{backend} --json docs/benchmarks/dependency.json --plots docs/benchmarks`: how much all other attributes
change by the time that one has changed by so much (Attribute Dependency, StyleSpace, Wu et al. 2021,
section 5). Each of {count} random faces (seeds {first_seed} on, truncation {truncation}) is edited to one
attribute in {steps} steps, towards the end that it is farther from: strengths grow evenly, DyStyle's
targets go evenly to that end. Changes are in deviations among {people} random people; where a path passes a
change of the asked attribute, what the others have changed by is interpolated between its steps, and
averaged over them. So nobody wins by doing little: what is not reached has no figure.

- reached: share of the edits that change the asked attribute by so much at all
- dependency: mean change of the others where it does, with half of its 95 % confidence interval
- beside {first}: the same as a multiple of {first}'s, over the edits that both bring so far
"""


@dataclass(frozen=True)
class DependencyConfig:
    """Attribute dependency of all methods.

    Attributes:
        count: faces, of seeds `first_seed` on; truncation of theirs.
        steps: pictures along one edit.
        changes: of the asked attribute, at which dependency is told, in deviations among people.
        people: random ones who say what a deviation is.
        methods: names of `dystyle.editors.METHODS`; none stands for all.
        backend: what runs the engines, see `FaceEditor.from_pretrained`.
    """

    count: int = 8
    first_seed: int = 41_000
    truncation: float = 0.7
    steps: int = 5
    changes: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    people: int = 128
    methods: tuple[str, ...] = ()
    backend: str = "onnx"


def path(
    editor: Editor, code: np.ndarray, name: str, values: Mapping[str, float], steps: int, read: Read
) -> Iterator[np.ndarray]:
    """Codes (18, 512) along one attribute's edit, evenly towards the end that `values` are farther from.

    Methods with strengths are followed by them, others by their targets.
    """
    row = ATTRIBUTES[name]
    up, shares = row.value_to_level(values[name]) < 0, np.arange(1, steps + 1) / steps
    if isinstance(editor, StrengthEditor):
        move = editor.mover(code, (name,), read)
        farthest = min(editor.farthest, OVER * 2 / editor.slopes[editor.names.index(name)])
        for share in shares:
            yield move(np.array([share * farthest if up else -share * farthest]))
    else:
        end = row.high if up else row.low
        for share in shares:
            yield editor.edit(code, {name: values[name] + share * (end - values[name])}, read)


def dependency(asked: Sequence[float], others: Sequence[float], change: float) -> float | None:
    """How much others have changed where the asked attribute first has by `change`; None if it never has.

    Args:
        asked: its signed change after every step of a path that starts from 0. others: their mean absolute
            change, likewise.
    """
    x, y = np.concatenate(((0.0,), asked)), np.concatenate(((0.0,), others))
    beyond = np.flatnonzero(x >= change)
    if not len(beyond):
        return None
    last = beyond[0]
    share = (change - x[last - 1]) / (x[last] - x[last - 1])
    return float(y[last - 1] + share * (y[last] - y[last - 1]))


def evaluate_dependency(config: DependencyConfig, plots: Path | None = None) -> dict:
    """Follow every method's edits.

    Args:
        plots: folder to write `dependency.png` to.

    Returns:
        "edits" by method: a list with "attribute" and, for each of the `changes`, the dependency or None;
        the settings beside it.
    """
    editor = FaceEditor.from_pretrained(backend=config.backend)

    def read(code: np.ndarray) -> dict[str, float]:
        return editor.measure(editor.synthesize(code, PREVIEW))

    people = [read(editor.sample(seed, config.truncation)) for seed in range(config.people)]
    spread = {n: float(np.std([row.value_to_level(p[n]) for p in people])) for n, row in ATTRIBUTES.items()}
    codes = [editor.sample(config.first_seed + i, config.truncation) for i in range(config.count)]
    before = [read(code) for code in codes]
    methods = config.methods or tuple(METHODS)
    editors = {method: open_method(method, editor.backend) for method in methods}
    names = [name for name in ATTRIBUTES if all(name in opened.names for opened in editors.values())]
    edits: dict[str, list] = {method: [] for method in methods}
    for method, opened in editors.items():
        for name in tqdm(names, desc=method, mininterval=10):
            for code, values in zip(codes, before, strict=True):
                sign = 1 if ATTRIBUTES[name].value_to_level(values[name]) < 0 else -1
                asked, others = [], []
                for moved in path(opened, code, name, values, config.steps, read):
                    changes = {n: c / spread[n] for n, c in level_changes(values, read(moved)).items()}
                    asked.append(sign * changes.pop(name))
                    others.append(np.mean(np.abs(list(changes.values()))))
                found = [dependency(asked, others, change) for change in config.changes]
                edits[method].append({"attribute": name, "dependency": found})
    result = {key: getattr(config, key) for key in DependencyConfig.__dataclass_fields__}
    result |= {"methods": methods, "spread": spread, "edits": edits}
    if plots is not None:
        plot(result, plots / "dependency.png")
    return result


def summary(result: dict) -> dict[str, list[dict]]:
    """By method and change: share "reached", "dependency" as `mean_and_interval`, and "beside" the first
    method, the ratio of the means over the edits that both reach (None where there are none)."""
    first = result["edits"][result["methods"][0]]
    figures = {}
    for method, edits in result["edits"].items():
        rows = figures.setdefault(method, [])
        for index in range(len(result["changes"])):
            found = [edit["dependency"][index] for edit in edits]
            reached = [value for value in found if value is not None]
            both = [
                (value, other["dependency"][index])
                for value, edit, other in zip(found, edits, first, strict=True)
                if value is not None and other["dependency"][index] is not None
            ]
            own, others = np.mean(both, 0) if both else (0, 0)
            rows.append(
                {
                    "reached": len(reached) / len(found),
                    "dependency": mean_and_interval(reached),
                    "beside": float(own / others) if others else None,
                }
            )
    return figures


def table(result: dict) -> str:
    """The result as Markdown."""
    first = METHODS[result["methods"][0]].title
    words = {"methods": " ".join(result["methods"]), "first": first}
    columns = [f"reached {c:g} | dependency | beside {first}" for c in result["changes"]]
    lines = [HEADING.format(**result | words), f"| method | {' | '.join(columns)} |"]
    lines.append("|---" * (3 * len(columns) + 1) + "|")
    for method, rows in summary(result).items():
        cells = []
        for row in rows:
            mean, beside = row["dependency"], row["beside"]
            cells += [
                f"{row['reached']:.0%}",
                "" if mean is None else f"{mean['mean']:.2f} ± {mean['ci']:.2f}",
                "" if beside is None else f"{beside:.2f}",
            ]
        lines.append(f"| {METHODS[method].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(result: dict, file: Path) -> None:
    """Dependency over the asked attribute's change, and the share of edits that come so far."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for method, rows in summary(result).items():
        means = [np.nan if row["dependency"] is None else row["dependency"]["mean"] for row in rows]
        axes[0].plot(result["changes"], means, marker="o", label=METHODS[method].title)
        axes[1].plot(result["changes"], [row["reached"] for row in rows], marker="o")
    axes[0].set_ylabel("mean change of the others (deviations)")
    axes[1].set_ylabel("share of the edits that come so far")
    for ax in axes:
        ax.set_xlabel("change of the asked attribute (deviations)")
    axes[0].legend(fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)
