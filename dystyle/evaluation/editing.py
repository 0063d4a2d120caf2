"""How well an editor edits (the paper's section 4): targets reached, the person kept, the rest left alone.

Everything is read twice: by the networks that taught the editor, and by independent judges.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import sqrtm
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.linear import LinearEditor
from dystyle.evaluation.judges import Judges
from dystyle.pipeline import FaceEditor

# Targets that faces can follow; the sliders' ranges are wider.
TARGET_RANGES = {"yaw": (-25, 25), "pitch": (-15, 15), "age": (10, 70), "gender": (0, 1)}
# A numeric edit also counts as right within this distance of the target: there may be little to change.
TOLERANCE = {"yaw": 5, "pitch": 5, "age": 8, "gender": 0.2}
READ_SIZE = 256  # pixels to which pictures are averaged down before they are read
FEATURES = 64  # principal components of the embeddings in the Frechet distance
STANDARD_ERRORS = 1.96  # standard errors in a 95 % confidence interval
HEADING = """\
# Editing

Made by `python -m dystyle.evaluate editing --count {faces} --compared {compared} --joint {joint}
--methods {methods} --json docs/benchmarks/editing.json`: {faces} random faces, {compared} for
the other methods (seeds {first_seed} on, truncation {truncation}, not used in training), edited at
1024 px. Numeric targets are uniform in yaw ±25, pitch ±15, age 10 to 70, gender 0 to 1; binary ones go
to either end. Everything is read twice: by the networks that taught the editor, and by judges it never
met. Means with half of their 95 % confidence intervals.

- right: binary attributes on the asked side of 0.5; numeric ones nearer to the target than before, or
  within 5 degrees, 8 years, 0.2 of it
- flipped: edits after which an attribute that was not asked for has changed sides (below 0.4 to above
  0.6, or back)
- identity: cosine of faceres embeddings to the unedited face (strangers: 0.4 to 0.5); distance: of
  dlib's descriptors (one person: below 0.6); Frechet: of the embeddings of edited and unedited faces
"""

Method = Callable[[np.ndarray, Mapping[str, float]], np.ndarray]


@dataclass(frozen=True)
class EditingConfig:
    """Edits of random faces, read on the 1024 px picture.

    Attributes:
        count: faces, of seeds `first_seed` on (training draws its codes elsewhere); truncation of theirs.
        joint: numbers of attributes edited at once, besides every single one; 0 stands for all.
        methods: compared on the joint edits: "dystyle" edits jointly; "sum" adds up the same editor's single
            edits; "sequential" makes them one after the other in random order; "linear" is InterFaceGAN.
        compared: faces for the methods other than "dystyle".
    """

    count: int = 256
    first_seed: int = 10_000
    truncation: float = 0.7
    joint: tuple[int, ...] = (2, 3, 5, 0)
    methods: tuple[str, ...] = ("dystyle", "sum", "sequential", "linear")
    compared: int = 64


@dataclass(frozen=True)
class Seen:
    """What is read off one picture."""

    values: dict[str, float]
    judged: dict[str, float]
    embedding: np.ndarray
    descriptor: np.ndarray


class Bench:
    """Renders, reads, and keeps what the unedited faces read."""

    def __init__(self, editor: FaceEditor, codes: list[np.ndarray]) -> None:
        self.editor, self.judges, self.codes = editor, Judges(), codes
        self.before = [self.see(code) for code in tqdm(codes, desc="unedited faces", mininterval=10)]

    def see(self, code: np.ndarray) -> Seen:
        """Render and read one code (18, 512)."""
        picture = self.editor.synthesize(code)
        factor = len(picture) // READ_SIZE
        shape = (READ_SIZE, factor, READ_SIZE, factor, 3)
        small = picture.reshape(shape).mean((1, 3), dtype=np.float32).round().astype(np.uint8)
        judged = {name: float(value[0]) for name, value in self.judges.read(small[None]).items()}
        descriptor = self.judges.embed(small[None])[0]
        return Seen(self.editor.measure(small), judged, self.editor.embed(small), descriptor)

    def measure(self, method: Method, edits: list[dict[str, float]], label: str) -> dict:
        """The figures of one edit a face, for the first faces: see `evaluate_editing`."""
        progress = tqdm(list(zip(self.codes, edits, strict=False)), desc=label, mininterval=10)
        after = [self.see(method(code, edit)) for code, edit in progress]
        before = self.before[: len(after)]
        cosines = [a.embedding @ b.embedding for a, b in zip(after, before, strict=True)]
        distances = [np.linalg.norm(a.descriptor - b.descriptor) for a, b in zip(after, before, strict=True)]
        figures = {
            "faces": len(after),
            "identity": _mean(cosines),
            "descriptor_distance": _mean(distances),
            "frechet": frechet([s.embedding for s in before], [s.embedding for s in after]),
        }
        for readings in ("values", "judged"):
            pairs = [(getattr(b, readings), getattr(a, readings)) for b, a in zip(before, after, strict=True)]
            figures[readings] = compare(pairs, edits)
        return figures


def compare(pairs: list[tuple[dict, dict]], edits: list[dict[str, float]]) -> dict:
    """Readings before and after, against what was asked for.

    Returns:
        "reached": by edited attribute "error" and "unedited_error" (numeric, mean absolute) or "success"
        (binary); "right": share of the binary ones on the asked side of 0.5, and of the numeric ones that
        moved the asked way; "change": mean absolute change by attribute that was not edited; "flipped":
        share of edits after which an attribute that was not asked for (nor is carried along) has changed
        sides, and "flips" which ones.
    """
    errors, unedited, changes, flips = {}, {}, {}, {}
    right, flipped = [], []
    for (before, after), edit in zip(pairs, edits, strict=False):
        free = set(edit).union(*(ATTRIBUTES[name].carries for name in edit))
        changed = False
        for name, value in after.items():
            sided = ATTRIBUTES[name].high == 1
            if name not in edit:
                changes.setdefault(name, []).append(abs(value - before[name]))
                flip = sided and name not in free and crossed(before[name], value)
                flips.setdefault(name, []).append(flip)
                changed |= flip
            elif ATTRIBUTES[name].kind == "binary":
                errors.setdefault(name, []).append((value > 0.5) == (edit[name] > 0.5))
                right.append(errors[name][-1])
            else:
                errors.setdefault(name, []).append(abs(value - edit[name]))
                unedited.setdefault(name, []).append(abs(before[name] - edit[name]))
                right.append(errors[name][-1] < max(unedited[name][-1], TOLERANCE[name]))
        flipped.append(changed)
    reached = {}
    for name in ATTRIBUTES:
        if name in errors and ATTRIBUTES[name].kind == "binary":
            reached[name] = {"success": _mean(errors[name])}
        elif name in errors:
            reached[name] = {"error": _mean(errors[name]), "unedited_error": _mean(unedited[name])}
    return {
        "reached": reached,
        "right": _mean(right),
        "change": {name: _mean(values) for name, values in changes.items()},
        "flipped": _mean(flipped),
        "flips": {name: float(np.mean(values)) for name, values in flips.items() if any(values)},
    }


def crossed(before: float, after: float) -> bool:
    """Has a value changed sides, from one clear side of 0.5 to the other?"""
    return (before < 0.4 and after > 0.6) or (before > 0.6 and after < 0.4)


def frechet(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Frechet distance of two sets of embeddings, in their leading principal components."""
    a, b = np.float64(a), np.float64(b)
    _, _, basis = np.linalg.svd(a - a.mean(0), full_matrices=False)
    a, b = a @ basis[:FEATURES].T, b @ basis[:FEATURES].T
    spread = [np.cov(x.T) for x in (a, b)]
    cross = sqrtm(spread[0] @ spread[1])
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spread[0] + spread[1] - 2 * cross.real))


def evaluate_editing(config: EditingConfig) -> dict:
    """Measure single and joint edits.

    Returns:
        "single" by attribute, and "joint" by number of attributes and method. Each: "identity", mean cosine
        to the unedited face by the identity network; "descriptor_distance", the same by the judges'
        face_recognition (Euclidean); "frechet", distance of the embeddings of all edited faces to those of
        the unedited; "values" and "judged", what the teachers and the judges read, see `compare`. Means
        come with half of their 95 % confidence interval.
    """
    editor = FaceEditor.from_pretrained()
    seeds = range(config.first_seed, config.first_seed + config.count)
    bench = Bench(editor, [editor.sample(seed, config.truncation) for seed in seeds])
    rng = np.random.default_rng(config.first_seed)
    result = {"faces": config.count, "compared": config.compared, "methods": config.methods}
    result |= {"first_seed": config.first_seed, "truncation": config.truncation, "single": {}}
    for name in editor.attributes:
        edits = [draw(rng, [name]) for _ in range(config.count)]
        result["single"][name] = bench.measure(editor.edit, edits, name)
    result["joint"] = {}
    for size in config.joint:
        names = list(editor.attributes)
        size = size or len(names)
        edits = [draw(rng, rng.choice(names, size, replace=False)) for _ in range(config.count)]
        result["joint"][str(size)] = {
            method: bench.measure(
                METHODS[method](bench),
                edits[: config.count if method == "dystyle" else config.compared],
                f"{size} at once, {method}",
            )
            for method in config.methods
        }
    return result


def _sum(bench: Bench) -> Method:
    edit = bench.editor.edit
    return lambda code, c: code + sum(edit(code, {name: value}) - code for name, value in c.items())


def _sequential(bench: Bench) -> Method:
    rng = np.random.default_rng(0)

    def method(code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        for name in rng.permutation(list(configuration)):
            code = bench.editor.edit(code, {name: configuration[name]})
        return code

    return method


def _linear(bench: Bench) -> Method:
    editor = bench.editor
    return partial(LinearEditor.load().edit, measure=lambda code: editor.measure(editor.synthesize(code)))


METHODS: dict[str, Callable[[Bench], Method]] = {
    "dystyle": lambda bench: bench.editor.edit,
    "sum": _sum,
    "sequential": _sequential,
    "linear": _linear,
}


def draw(rng: np.random.Generator, names) -> dict[str, float]:
    """Uniform targets; binary attributes to either end."""
    return {
        str(name): float(
            rng.integers(2) if ATTRIBUTES[name].kind == "binary" else rng.uniform(*TARGET_RANGES[name])
        )
        for name in names
    }


def _mean(values) -> dict[str, float]:
    """Mean of a list and half of its 95 % confidence interval (normal approximation; 0 for a single one)."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=min(1, len(values) - 1)) / len(values) ** 0.5
    return {"mean": float(values.mean()), "ci": float(STANDARD_ERRORS * error)}


def table(result: dict) -> str:
    """The result as Markdown: what was reached, then what else changed."""
    rows = {(label, "dystyle"): figures for label, figures in result["single"].items()}
    for size, methods in result["joint"].items():
        rows |= {(f"{size} at once", method): figures for method, figures in methods.items()}
    lines = [
        HEADING.format(**result | {key: " ".join(result[key]) for key in ("methods", "joint")}),
        "| edit | method | faces | right | judges: right | flipped | judges: flipped "
        "| identity | judges: distance | Frechet |",
        "|" + "---|" * 10,
    ]
    for (label, method), f in rows.items():
        numbers = [
            *(_percent(f[readings]["right"]) for readings in ("values", "judged")),
            *(_percent(f[readings]["flipped"]) for readings in ("values", "judged")),
            _number(f["identity"]),
            _number(f["descriptor_distance"]),
            f"{f['frechet']:.3f}",
        ]
        lines.append(f"| {label} | {method} | {f['faces']} | {' | '.join(numbers)} |")
    lines += [
        "",
        "By attribute: mean absolute error, in brackets had nothing been done, or share reached.",
        "",
        "| edit | method | attribute | reached | by the judges |",
        "|---|---|---|---|---|",
    ]
    for (label, method), f in rows.items():
        for name, reached in f["values"]["reached"].items():
            judged = f["judged"]["reached"].get(name)
            lines.append(f"| {label} | {method} | {name} | {_reached(reached)} | {_reached(judged)} |")
    names = [name for name in ATTRIBUTES if any(name in f["values"]["change"] for f in rows.values())]
    lines += ["", "Mean absolute change of what was not edited:", ""]
    lines += [f"| edit | method | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for (label, method), f in rows.items():
        change = f["values"]["change"]
        cells = [f"{change[name]['mean']:.2f}" if name in change else "" for name in names]
        lines.append(f"| {label} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ± {figure['ci']:.2f}"


def _percent(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.0%} ± {figure['ci']:.0%}"


def _reached(figures: Mapping[str, dict] | None) -> str:
    if figures is None:
        return ""
    if "success" in figures:
        return _percent(figures["success"])
    return f"{_number(figures['error'])} ({figures['unedited_error']['mean']:.1f})"
