"""How well an editor edits (the paper's section 4): targets reached, the person kept, the rest left alone.

Everything is read twice: by the networks that taught the editor, and by independent judges.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.linalg import sqrtm
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.linear import LinearEditor
from dystyle.errors import InputError
from dystyle.evaluation.judges import Judges
from dystyle.metrics.degradations import degraded
from dystyle.pipeline import FaceEditor

# What is edited and read unless it is said otherwise: the project's ten. A beard, which
# docs/adding-an-attribute.md adds, hardly comes without a moustache, nor a moustache without a beard.
TEN = tuple(name for name in ATTRIBUTES if name != "beard")
# Targets that faces can follow; the sliders' ranges are wider.
TARGET_RANGES = {"yaw": (-25, 25), "pitch": (-15, 15), "age": (10, 70), "gender": (0, 1)}
# A numeric edit also counts as right within this distance of the target: there may be little to change.
TOLERANCE = {"yaw": 5, "pitch": 5, "age": 8, "gender": 0.2}
READ_SIZE = 256  # pixels to which pictures are averaged down before they are read
FEATURES = 64  # principal components of the embeddings in the Frechet distance
SHIFT = 8  # pixels of the 1024 px picture
STANDARD_ERRORS = 1.96  # standard errors in a 95 % confidence interval
# Mean absolute errors that single edits and edits of three may leave.
LIMITS = {"yaw": 3, "pitch": 3, "age": 5}
LIMITS_JOINT = {"yaw": 4, "pitch": 4, "age": 6.5}
HEADING = """\
# Editing

Made by `python -m dystyle.evaluate editing --count {faces} --compared {compared_faces}
--inverted {inverted_faces} --attributes {attributes}
--joint {joint} --methods {methods} --searched {searched} --backend {backend}`, with `--json` and `--plots`
for where this is: {faces} random faces (seeds {first_seed} on, truncation {truncation}, not used in
training; methods are compared on the first {compared_faces}), edited at 1024 px, and {inverted_faces} codes
that the encoder made of degraded pictures of further ones and of {photos}. Nothing but these {number}
attributes is edited or read. Numeric targets are uniform in yaw ±25, pitch ±15, age 10 to 70, gender 0 to
1; binary ones go to either end. Everything is read twice: by the networks that taught the editor, and by
judges it never met. Means with half of their 95 % confidence intervals.

- right: binary attributes on the asked side of 0.5; numeric ones nearer to the target than before, or
  within 5 degrees, 8 years, 0.2 of it
- error, moved: distance to the target, and change of what was not asked for, as shares of the range
- sides: of the attributes that were not asked for, how many have changed sides (below 0.4 to above 0.6,
  or back); flipped: edits after which any has
- identity: cosine of faceres embeddings to the unedited face (strangers: 0.4 to 0.5); distance: of
  dlib's descriptors (one person: below 0.6); Frechet: of the embeddings of edited and unedited faces
- sum: of this editor's single edits; sequential: they follow one another, in random order; linear:
  InterFaceGAN's directions, each to its target by line search (up to 16 pictures), likewise one after the
  other; linear_joint: their strengths are searched for all at once
"""
# What the project asks of itself, see `bounds`.
BOUNDS_HEADING = """
| asked of the editor | bound | random faces | inverted faces |
|---|---|---|---|"""

Method = Callable[[np.ndarray, Mapping[str, float]], np.ndarray]


@dataclass(frozen=True)
class EditingConfig:
    """Edits of random faces, read on the 1024 px picture.

    Attributes:
        attributes: edited one by one and together, and read.
        count: faces, of seeds `first_seed` on (training draws its codes elsewhere); truncation of theirs.
        joint: numbers of attributes edited at once, besides every single one; 0 stands for all.
        methods: compared with "dystyle", which edits jointly: "sum" adds up the same editor's single edits;
            "sequential" makes them one after the other in random order; "linear" follows InterFaceGAN's
            directions, each to its target by line search, one after the other; "linear_joint" searches for
            all their strengths at once.
        compared: faces on which they are compared; searched: numbers of attributes at which the linear ones
            are, too, which look at up to 16 pictures a search.
        inverted: further faces, degraded as photos are and put through the encoder, for the single edits
            and those of three; photos: pictures to invert, too.
        backend: what runs the engines, see `FaceEditor.from_pretrained`.
    """

    attributes: tuple[str, ...] = TEN
    count: int = 256
    first_seed: int = 10_000
    truncation: float = 0.7
    joint: tuple[int, ...] = (2, 3, 5, 0)
    methods: tuple[str, ...] = ("sum", "sequential", "linear", "linear_joint")
    compared: int = 96
    searched: tuple[int, ...] = (3, 5)
    inverted: int = 64
    photos: tuple[Path, ...] = (Path("webapp/examples/astronaut.jpg"),)
    backend: str = "onnx"


@dataclass(frozen=True)
class Seen:
    """What is read off one picture."""

    values: dict[str, float]
    judged: dict[str, float]
    embedding: np.ndarray
    descriptor: np.ndarray


class Bench:
    """Renders, reads some attributes, and keeps what the unedited faces read."""

    def __init__(
        self, editor: FaceEditor, codes: list[np.ndarray], attributes: Iterable[str] = tuple(ATTRIBUTES)
    ) -> None:
        self.editor, self.judges, self.codes, self.attributes = editor, Judges(), codes, attributes
        self.before = self._map(self.see, codes, "unedited faces")

    @staticmethod
    def _map(function: Callable, items: list, label: str) -> list:
        """The function's results, computed on all cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(tqdm(pool.map(function, items), total=len(items), desc=label, mininterval=10))

    def see(self, code: np.ndarray, shift: int = 0) -> Seen:
        """Render one code (18, 512), shift the picture to the right by some pixels, and read it."""
        picture = np.roll(self.editor.synthesize(code), shift, 1)
        factor = len(picture) // READ_SIZE
        shape = (READ_SIZE, factor, READ_SIZE, factor, 3)
        small = picture.reshape(shape).mean((1, 3), dtype=np.float32).round().astype(np.uint8)
        judged = {name: float(value[0]) for name, value in self.judges.read(small[None]).items()}
        readings = (
            {name: read[name] for name in self.attributes if name in read}
            for read in (self.editor.measure(small), judged)
        )
        return Seen(*readings, self.editor.embed(small), self.judges.embed(small[None])[0])

    def follow(self, method: Method, edits: list[dict[str, float]], label: str) -> list[Seen]:
        """What the first faces look like after one edit each."""
        pairs = list(zip(self.codes, edits, strict=False))
        return self._map(lambda pair: self.see(method(*pair)), pairs, label)

    def noise(self) -> dict[str, float]:
        """How much readings differ, as "moved" of `compare`, once a picture is shifted by `SHIFT` pixels."""
        shifted = self._map(partial(self.see, shift=SHIFT), self.codes, "shifted faces")
        pairs = [(b.values, a.values) for b, a in zip(self.before, shifted, strict=True)]
        return compare(pairs, [{}] * len(pairs))["moved"]

    def figures(self, after: list[Seen], edits: list[dict[str, float]]) -> dict:
        """The figures of what `follow` saw: see `evaluate_editing`."""
        before = self.before[: len(after)]
        cosines = [a.embedding @ b.embedding for a, b in zip(after, before, strict=True)]
        distances = [np.linalg.norm(a.descriptor - b.descriptor) for a, b in zip(after, before, strict=True)]
        result = {
            "faces": len(after),
            "identity": _mean(cosines),
            "descriptor_distance": _mean(distances),
            "frechet": frechet([s.embedding for s in before], [s.embedding for s in after]),
        }
        for readings in ("values", "judged"):
            pairs = [(getattr(b, readings), getattr(a, readings)) for b, a in zip(before, after, strict=True)]
            result[readings] = compare(pairs, edits)
        return result


def compare(pairs: list[tuple[dict, dict]], edits: list[dict[str, float]]) -> dict:
    """Readings before and after, against what was asked for.

    Returns:
        "reached": by edited attribute "error" and "unedited_error" (numeric, mean absolute) or "success"
        (binary); "right": share of the binary ones on the asked side of 0.5, and of the numeric ones that
        moved the asked way; "error", of all of them, as a share of the range; "moved", the change of the
        others, likewise; "change": mean absolute change by attribute that was not edited; "sides":
        share of the attributes that were not asked for (nor are carried along) that have changed sides,
        "flips" which ones, and "flipped" the share of edits after which any has.
    """
    errors, unedited, changes, flips = {}, {}, {}, {}
    right, flipped, sides, missed, moved = [], [], [], [], []
    for (before, after), edit in zip(pairs, edits, strict=False):
        free = set(edit).union(*(ATTRIBUTES[name].carries for name in edit if edit[name] < 0.5))
        crossings = []
        for name, value in after.items():
            span = ATTRIBUTES[name].high - ATTRIBUTES[name].low
            if name not in edit:
                changes.setdefault(name, []).append(abs(value - before[name]))
                moved.append(changes[name][-1] / span)
                flip = span == 1 and name not in free and crossed(before[name], value)
                flips.setdefault(name, []).append(flip)
                if span == 1 and name not in free:
                    crossings.append(flip)
                continue
            missed.append(abs(value - edit[name]) / span)
            if ATTRIBUTES[name].kind == "binary":
                errors.setdefault(name, []).append((value > 0.5) == (edit[name] > 0.5))
                right.append(errors[name][-1])
            else:
                errors.setdefault(name, []).append(abs(value - edit[name]))
                unedited.setdefault(name, []).append(abs(before[name] - edit[name]))
                right.append(errors[name][-1] < max(unedited[name][-1], TOLERANCE[name]))
        flipped.append(any(crossings))
        sides += crossings
    reached = {}
    for name in ATTRIBUTES:
        if name in errors and ATTRIBUTES[name].kind == "binary":
            reached[name] = {"success": _mean(errors[name])}
        elif name in errors:
            reached[name] = {"error": _mean(errors[name]), "unedited_error": _mean(unedited[name])}
    return {
        "reached": reached,
        "right": _mean(right),
        "error": _mean(missed),
        "moved": _mean(moved),
        "sides": _mean(sides),
        "change": {name: _mean(values) for name, values in changes.items()},
        "flipped": _mean(flipped),
        "flips": {name: float(np.mean(values)) for name, values in flips.items() if any(values)},
    }


def crossed(before: float, after: float) -> bool:
    """Has a value changed sides, from one clear side of 0.5 to the other?"""
    return (before < 0.4 and after > 0.6) or (before > 0.6 and after < 0.4)


def frechet(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Frechet distance of two sets of embeddings, in their leading principal components."""
    a, b = np.float64(a), np.float64(b)
    _, _, basis = np.linalg.svd(a - a.mean(0), full_matrices=False)
    a, b = a @ basis[:FEATURES].T, b @ basis[:FEATURES].T
    spread = [np.cov(x.T) for x in (a, b)]
    cross = sqrtm(spread[0] @ spread[1])
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spread[0] + spread[1] - 2 * cross.real))


def evaluate_editing(config: EditingConfig, plots: Path | None = None) -> dict:
    """Measure single and joint edits.

    Args:
        plots: folder to write `editing.png` to.

    Returns:
        "single" by attribute, "joint" by number of attributes, and "compared" by that and method, on the
        first `compared` faces, the same for all methods. Each: "identity", mean cosine
        to the unedited face by the identity network; "descriptor_distance", the same by the judges'
        face_recognition (Euclidean); "frechet", distance of the embeddings of all edited faces to those of
        the unedited; "values" and "judged", what the teachers and the judges read, see `compare`. Means
        come with half of their 95 % confidence interval. "inverted": the same of inverted faces. "noise":
        see `Bench.noise`.
    """
    editor = FaceEditor.from_pretrained(backend=config.backend)
    seeds = range(config.first_seed, config.first_seed + config.count)
    if wrong := [name for name in config.attributes if name not in editor.attributes]:
        raise InputError(
            f"The editor has not learnt '{wrong[0]}'; choose from {', '.join(editor.attributes)}."
        )
    bench = Bench(editor, [editor.sample(seed, config.truncation) for seed in seeds], config.attributes)
    result = {"faces": config.count, "compared_faces": config.compared, "methods": config.methods}
    result["attributes"] = config.attributes
    result |= {"first_seed": config.first_seed, "truncation": config.truncation}
    result |= {
        "searched": config.searched,
        "backend": config.backend,
        "photos": [path.name for path in config.photos],
    }
    result |= {"noise": bench.noise(), **_protocol(bench, config, config.joint, config.methods)}
    if config.inverted or config.photos:
        bench = Bench(editor, _inverted(editor, config), config.attributes)
        result["inverted"] = _protocol(bench, config, (3,), ())
    result["inverted_faces"] = config.inverted
    if plots is not None:
        plot(result, plots / "editing.png")
    return result


def _protocol(bench: Bench, config: EditingConfig, joint: tuple[int, ...], methods: tuple[str, ...]) -> dict:
    rng = np.random.default_rng(config.first_seed)
    names, result = list(config.attributes), {"single": {}, "joint": {}, "compared": {}}
    for name in names:
        edits = [draw(rng, [name]) for _ in bench.codes]
        result["single"][name] = bench.figures(bench.follow(bench.editor.edit, edits, name), edits)
    for size in joint:
        size = size or len(names)
        edits = [draw(rng, rng.choice(names, size, replace=False)) for _ in bench.codes]
        after = bench.follow(bench.editor.edit, edits, f"{size} at once")
        result["joint"][str(size)] = bench.figures(after, edits)
        others = {
            method: bench.follow(
                METHODS[method](bench), edits[: config.compared], f"{size} at once, {method}"
            )
            for method in methods
            if not method.startswith("linear") or size in config.searched
        }
        if others:
            seen = {"dystyle": after[: config.compared]} | others
            result["compared"][str(size)] = {name: bench.figures(s, edits) for name, s in seen.items()}
    return result


def _inverted(editor: FaceEditor, config: EditingConfig) -> list[np.ndarray]:
    """Codes of further faces, degraded and put through the encoder, and of photos."""
    first = config.first_seed + config.count
    seeds = range(first, first + config.inverted)
    pictures = degraded([editor.synthesize(editor.sample(seed, config.truncation)) for seed in seeds], first)
    return [editor.invert(picture).code for picture in (*config.photos, *pictures)]


def bounds(result: dict) -> list[tuple[str, str, str]]:
    """What the project asks of single edits and of three at once: (what, bound, reached)."""
    single, three = result["single"], result["joint"]["3"]

    def reached(name: str) -> float:
        return single[name]["values"]["reached"][name]["error"]["mean"]

    worst = min(
        (figures["values"]["reached"][name]["success"]["mean"], name)
        for name, figures in single.items()
        if ATTRIBUTES[name].kind == "binary"
    )
    together = three["values"]["reached"]
    binary = [f["success"]["mean"] for f in together.values() if "success" in f]
    kept = [f["descriptor_distance"]["mean"] for n, f in single.items() if n not in ("age", "gender")]
    judged = [figures["judged"] for figures in single.values() if figures["judged"]["right"]]
    rows = [(f"{name} alone", f"{most}", f"{reached(name):.2f}") for name, most in LIMITS.items()]
    rows.append(("worst binary attribute alone", "92%", f"{worst[0]:.0%} ({worst[1]})"))
    for name, most in LIMITS_JOINT.items():
        if name in together:
            rows.append((f"{name} among three", f"{most}", f"{together[name]['error']['mean']:.2f}"))
    rows.append(("binary attributes among three", "88%", f"{np.mean(binary):.0%}"))
    rows.append(("judges: alone, right", "85%", f"{np.mean([j['right']['mean'] for j in judged]):.0%}"))
    rows.append(("judges: among three, right", "75%", f"{three['judged']['right']['mean']:.0%}"))
    rows.append(("judges: sides, alone", "5%", f"{np.mean([j['sides']['mean'] for j in judged]):.1%}"))
    rows.append(("judges: sides, three", "12%", f"{three['judged']['sides']['mean']:.1%}"))
    rows.append(("judges: distance, but for age and gender", "0.45", f"{np.mean(kept):.2f}"))
    return rows + _compared_bounds(result["compared"])


def _compared_bounds(compared: dict) -> list[tuple[str, str, str]]:
    """What the project asks of the joint pass beside other methods on the same faces, as `bounds`."""
    rows = []

    def error(figures: dict) -> float:
        return figures["values"]["error"]["mean"]

    def identity(figures: dict) -> float:
        return figures["identity"]["mean"]

    def moved(figures: dict) -> float:
        kept = figures["values"]["moved"]
        return kept["mean"] if kept else 0.0

    asked = (
        ("error", "less", error, "sum"),
        ("identity", "more", identity, "sum"),
        ("error", "1/1.2 or more", error, "sequential"),
        *(
            row
            for method in ("linear", "linear_joint")
            for row in (
                ("error", "half or less", error, method),
                ("identity", "as much", identity, method),
                ("moved", "half or less", moved, method),
            )
        ),
    )
    for what, bound, figure, method in asked:
        sizes = [size for size, methods in compared.items() if method in methods]
        pairs = [[figure(compared[size][name]) for name in ("dystyle", method)] for size in sizes]
        cells = ", ".join(f"{ours:.3f} ({theirs:.3f})" for ours, theirs in pairs)
        if sizes:
            rows.append((f"{what}, {', '.join(sizes)} at once (in brackets: {method})", bound, cells))
    return rows


def _sum(bench: Bench) -> Method:
    edit = bench.editor.edit
    return lambda code, c: code + sum(edit(code, {name: value}) - code for name, value in c.items())


def _one_by_one(edit: Method) -> Method:
    def method(code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        rng = np.random.default_rng(code[0].view(np.uint32))  # an order of its own for every face
        for name in rng.permutation(list(configuration)):
            code = edit(code, {name: configuration[name]})
        return code

    return method


def _linear(bench: Bench) -> Method:
    """Directions that leave alone what is read, and do not care for anything else."""
    editor, directions = bench.editor, LinearEditor.load().only(bench.attributes)
    return partial(directions.edit, read=lambda code: editor.measure(editor.synthesize(code)))


METHODS: dict[str, Callable[[Bench], Method]] = {
    "sum": _sum,
    "sequential": lambda bench: _one_by_one(bench.editor.edit),
    "linear": lambda bench: _one_by_one(_linear(bench)),
    "linear_joint": _linear,
}


def draw(rng: np.random.Generator, names) -> dict[str, float]:
    """Uniform targets; binary attributes to either end."""
    return {
        str(name): float(
            rng.integers(2) if ATTRIBUTES[name].kind == "binary" else rng.uniform(*TARGET_RANGES[name])
        )
        for name in names
    }


def _mean(values) -> dict[str, float] | None:
    """Mean of a list and half of its 95 % confidence interval (normal approximation; 0 for a single one).

    None for an empty list: with all attributes edited none is left to change, and some have no judge.
    """
    if not len(values):
        return None
    values = np.asarray(values, np.float64)
    error = values.std(ddof=min(1, len(values) - 1)) / len(values) ** 0.5
    return {"mean": float(values.mean()), "ci": float(STANDARD_ERRORS * error)}


def table(result: dict) -> str:
    """The result as Markdown: what was reached, then what else changed."""
    rows = _rows(result)
    words = {key: " ".join(result[key]) for key in ("methods", "joint", "attributes")}
    words["number"] = len(result["attributes"])
    words["searched"] = " ".join(map(str, result["searched"]))
    words["photos"] = ", ".join(result["photos"]) or "no photo"
    lines = [HEADING.format(**result | words)]
    if "3" in result["joint"]:
        inverted = bounds(result["inverted"]) if "inverted" in result else []
        again = {what: value for what, _, value in inverted}
        lines.append(BOUNDS_HEADING)
        for what, bound, value in bounds(result):
            lines.append(f"| {what} | {bound} | {value} | {again.get(what, '')} |")
        lines.append(f"| moved, pictures shifted by {SHIFT} of 1024 px | | {result['noise']['mean']:.3f} | |")
    lines += [
        "",
        "| edit | method | faces | right | judges: right | error | judges: error | moved | sides "
        "| judges: sides | flipped | judges: flipped | identity | judges: distance | Frechet |",
        "|" + "---|" * 15,
    ]
    for (label, method), f in rows.items():
        taught, judged = f["values"], f["judged"]
        numbers = [
            *(_percent(read["right"]) for read in (taught, judged)),
            *(_percent(figure) for figure in (taught["error"], judged["error"], taught["moved"])),
            *(_percent(read[key]) for key in ("sides", "flipped") for read in (taught, judged)),
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
            lines.append(
                f"| {label} | {method} | {name} | {reached_text(reached)} | {reached_text(judged)} |"
            )
    names = [name for name in ATTRIBUTES if any(name in f["values"]["change"] for f in rows.values())]
    lines += ["", "Mean absolute change of what was not edited:", ""]
    lines += [f"| edit | method | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for (label, method), f in rows.items():
        change = f["values"]["change"]
        cells = [f"{change[name]['mean']:.2f}" if name in change else "" for name in names]
        lines.append(f"| {label} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(result: dict) -> dict[tuple[str, str], dict]:
    """All figures by the edit's and the method's label."""
    rows = {}
    for suffix, part in (("", result), (", inverted", result.get("inverted"))):
        if part is None:
            continue
        rows |= {(label + suffix, "dystyle"): figures for label, figures in part["single"].items()}
        for size, figures in part["joint"].items():
            rows[(f"{size} at once{suffix}", "dystyle")] = figures
            for method, compared in part["compared"].get(size, {}).items():
                rows[(f"{size} at once{suffix}, {compared['faces']} faces", method)] = compared
    return rows


def plot(result: dict, path: Path) -> None:
    """Single edits as bars, joint ones as lines over the number of attributes, by method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    names, x = list(result["single"]), np.arange(len(result["single"]))
    panels = {
        "right": lambda f, read: f[read]["right"],
        "of what was not asked for, changed sides": lambda f, read: f[read]["sides"],
        "identity (cosine)": lambda f, read: f["identity"],
    }
    for ax, (title, pick) in zip(axes[0], panels.items(), strict=True):
        readings = ("values",) if "identity" in title else ("values", "judged")
        for offset, read in enumerate(readings):
            figures = [pick(result["single"][name], read) for name in names]
            means, spread = _bars(figures)
            label = {"values": "teachers", "judged": "judges"}[read]
            ax.bar(x + 0.4 * offset, means, 0.4, yerr=spread, label=label)
        ax.set_xticks(x + 0.2, names, rotation=60, ha="right")
        ax.set_title(f"one attribute: {title}")
        if len(readings) > 1:
            ax.legend(loc="lower left" if title == "right" else "upper left")
    panels = {
        "error, by the judges (share of the range)": lambda f: f["judged"]["error"],
        "change of the others, by the judges": lambda f: f["judged"]["moved"],
        "identity (cosine)": lambda f: f["identity"],
    }
    sizes = list(result["joint"])
    for ax, (title, pick) in zip(axes[1], panels.items(), strict=True):
        compared = result["compared"] or {size: {"dystyle": f} for size, f in result["joint"].items()}
        for method in dict.fromkeys(name for size in sizes for name in compared[size]):
            known = [index for index, size in enumerate(sizes) if method in compared[size]]
            means, spread = _bars([pick(compared[sizes[index]][method]) for index in known])
            ax.errorbar(known, means, spread, marker="o", capsize=3, label=method)
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set_xlabel("attributes at once")
        ax.set_title(title)
        ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _bars(figures: list[dict[str, float] | None]) -> tuple[list[float], list[float]]:
    """Heights and half intervals; nothing is drawn where there is no figure."""
    return tuple([np.nan if f is None else f[key] for f in figures] for key in ("mean", "ci"))


def _number(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ± {figure['ci']:.2f}"


def _percent(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f"{figure['mean']:.0%} ± {figure['ci']:.0%}"


def reached_text(figures: Mapping[str, dict] | None) -> str:
    """One attribute's "reached" of `compare` for a table: the share, or the error and what it had been."""
    if figures is None:
        return ""
    if "success" in figures:
        return _percent(figures["success"])
    return f"{_number(figures['error'])} ({figures['unedited_error']['mean']:.1f})"
