"""How far the attribute readings can be trusted: labels, mirrors, sizes, other networks, gradients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.evaluation.sheets import tile
from dystyle.knowledge.readings import FaceReader
from dystyle.metrics.independent_judges import Judges
from dystyle.metrics.labels import read_labels
from dystyle.pipeline import FaceEditor

matplotlib.use("Agg")

SIZES = (64, 128, 256, 512)
BINS = np.linspace(0, 1, 11)
STEP = 0.2  # length of the step along a gradient; a picture of 128 px has a length of about 120
PROBES_AT_ONCE = 10

HEADING = """\
# Attribute readings

Made by `python -m dystyle.evaluate attributes --json docs/benchmarks/attributes.json --plots
docs/benchmarks`. Calibration curves and confusions: `attributes.png`; the faces with the highest and
lowest readings of each attribute: `attributes-NAME.jpg`.
"""


@dataclass(frozen=True)
class ReadingQualityConfig:
    """The report on the attribute readings, by the engine that `FaceEditor.measure` runs.

    Attributes:
        labels: folder of the hand labels; every fifth face is held out of training and used here.
        faces: random faces for the checks without labels; people: of them for identity verification.
        pool: random faces of which the sheets show the highest and lowest readings, `shown` of each.
        first_seed: of the random faces; truncation of theirs.
    """

    labels: Path = Path("data/labels")
    faces: int = 200
    people: int = 64
    pool: int = 800
    shown: int = 30
    first_seed: int = 20_000
    truncation: float = 0.9


def evaluate_attributes(config: ReadingQualityConfig, plots: Path | None = None) -> dict:
    """Run the report.

    Args:
        plots: folder for plots (`attributes.png`) and contact sheets (`attributes-NAME.jpg`).

    Returns:
        "held_out": by binary attribute accuracy, AUC, counts, confusion and calibration curve, of the
        project's readings and of the independent judges; "mirror", "resolution", "agreement": mean absolute
        differences in the attribute's unit; "gradients": shares of faces; "identity": AUC of telling an
        edited or noisy picture of a person from other people.
    """
    editor, judges = FaceEditor.from_pretrained(backend="onnx"), Judges()
    result = {"held_out": _held_out(editor, judges, config.labels)}
    seeds = range(config.first_seed, config.first_seed + config.pool)
    codes = [editor.sample(seed, config.truncation) for seed in seeds]
    read, thumbnails, pictures = [], [], []
    for code in tqdm(codes, desc="random faces", mininterval=10):
        picture = editor.synthesize(code)
        read.append(editor.measure(picture))
        thumbnails.append(_shrink(picture, 128))
        if len(pictures) < config.faces:
            pictures.append(picture)
    full = _columns(read[: config.faces])
    result["mirror"] = _mirror(editor, pictures, full)
    result["resolution"] = {str(size): _resolution(editor, pictures, full, size) for size in SIZES}
    result["agreement"] = _agreement(judges, pictures, full)
    result["gradients"] = _gradients(np.stack(thumbnails[: config.faces]))
    result["identity"] = _identity(editor, judges, codes[: config.people], pictures[: config.people])
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        _plot(result["held_out"]).savefig(plots / "attributes.png", dpi=80)
        for name, values in _columns(read).items():
            order = np.argsort(values)
            chosen = [*order[::-1][: config.shown], *order[: config.shown]]
            captions = [f"{values[i]:.3g}" for i in chosen]
            sheet = tile([thumbnails[i] for i in chosen], captions, columns=10)
            Image.fromarray(sheet).save(plots / f"attributes-{name}.jpg", quality=80)
    return result


def _columns(readings: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([read[name] for read in readings]) for name in readings[0]}


def _shrink(picture: np.ndarray, size: int) -> np.ndarray:
    factor = len(picture) // size
    shape = (size, factor, size, factor, 3)
    return picture.reshape(shape).mean((1, 3), dtype=np.float32).round().astype(np.uint8)


def _judged(judges: Judges, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The judges' values of pictures, (n,) by attribute."""
    parts = [judges.read(np.stack(pictures[i : i + 10])) for i in range(0, len(pictures), 10)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _held_out(editor: FaceEditor, judges: Judges, folder: Path) -> dict:
    labels, held = read_labels(folder)
    codes = np.load(folder / "codes.npz")["w"][held]
    pictures = [
        _shrink(editor.synthesize(np.repeat(code[None], 18, 0)), 256)
        for code in tqdm(codes, desc="labelled faces", mininterval=10)
    ]
    sources = {
        "readings": _columns([editor.measure(picture) for picture in pictures]),
        "judges": _judged(judges, pictures),
    }
    return {
        name: {
            source: _against_labels(values[name], truth[held])
            for source, values in sources.items()
            if name in values
        }
        for name, truth in labels.items()
    }


def _against_labels(values: np.ndarray, truth: np.ndarray) -> dict:
    bins = np.digitize(values, BINS[1:-1])
    filled = [b for b in range(len(BINS) - 1) if (bins == b).any()]
    return {
        "accuracy": float(((values > 0.5) == truth).mean()),
        "auc": float(roc_auc_score(truth, values)),
        "positives": int(truth.sum()),
        "faces": len(truth),
        "confusion": confusion_matrix(truth, values > 0.5).tolist(),  # rows: labels, columns: readings
        "calibration": {
            "read": [float(values[bins == b].mean()) for b in filled],
            "labelled": [float(truth[bins == b].mean()) for b in filled],
            "faces": [int((bins == b).sum()) for b in filled],
        },
    }


def _mirror(editor: FaceEditor, pictures: list[np.ndarray], full: Mapping[str, np.ndarray]) -> dict:
    mirrored = _columns([editor.measure(picture[:, ::-1]) for picture in pictures])
    signs = {name: ATTRIBUTES[name].mirror_sign for name in full}
    return {name: float(np.abs(mirrored[name] - signs[name] * full[name]).mean()) for name in full}


def _resolution(
    editor: FaceEditor, pictures: list[np.ndarray], full: Mapping[str, np.ndarray], size: int
) -> dict:
    small = _columns([editor.measure(_shrink(picture, size)) for picture in pictures])
    return {name: float(np.abs(small[name] - full[name]).mean()) for name in full}


def _agreement(judges: Judges, pictures: list[np.ndarray], full: Mapping[str, np.ndarray]) -> dict:
    judged = _judged(judges, [_shrink(picture, 256) for picture in pictures])
    return {
        name: {
            "correlation": float(np.corrcoef(values, full[name])[0, 1]),
            "difference": float(np.abs(values - full[name]).mean()),
            "same_side": float(((values > 0.5) == (full[name] > 0.5)).mean())
            if ATTRIBUTES[name].scale == "probability"
            else None,
        }
        for name, values in judged.items()
    }


def _gradients(pictures: np.ndarray) -> dict:
    """Shares of faces whose reading has a finite, non-zero gradient, and rises one step along it."""
    reader = FaceReader()
    finite = {name: [] for name in ATTRIBUTES}
    raised = {name: [] for name in ATTRIBUTES}
    for images in tqdm(_batches(pictures), desc="gradients", mininterval=10):
        x = images.requires_grad_(True)
        before = reader(x)
        for name, score in before.items():
            (gradient,) = torch.autograd.grad(score.sum(), x, retain_graph=True)
            norm = gradient.flatten(1).norm(dim=1)
            finite[name] += (torch.isfinite(norm) & (norm > 0)).tolist()
            with torch.no_grad():
                after = reader(x + gradient / norm[:, None, None, None] * STEP)[name]
            raised[name] += (after > score).tolist()
    return {
        name: {"finite": float(np.mean(finite[name])), "raised": float(np.mean(raised[name]))}
        for name in ATTRIBUTES
    }


def _batches(pictures: np.ndarray) -> Iterator[torch.Tensor]:
    for start in range(0, len(pictures), PROBES_AT_ONCE):
        chunk = torch.from_numpy(pictures[start : start + PROBES_AT_ONCE])
        yield chunk.permute(0, 3, 1, 2) / 127.5 - 1


def _identity(
    editor: FaceEditor, judges: Judges, codes: list[np.ndarray], pictures: list[np.ndarray]
) -> dict:
    """Can the networks tell a person, edited or under noise, from the others?"""
    rng = np.random.default_rng(0)
    variants = {
        "noise": [_noisy(rng, picture) for picture in pictures],
        **{
            f"{name} = {value}": [editor.synthesize(editor.edit(code, {name: value})) for code in codes]
            for name, value in (("yaw", 20), ("smile", 1), ("age", 60))
        },
    }
    networks = {
        "readings": lambda images: np.stack([editor.embed(image) for image in images]),
        "judges": lambda images: judges.embed(np.stack([_shrink(image, 256) for image in images])),
    }
    result = {}
    for network, embed in networks.items():
        start = embed(pictures)
        scores = {label: -_distances(start, embed(images)) for label, images in variants.items()}
        same = np.eye(len(codes), dtype=bool)
        result[network] = {
            label: {
                "auc": float(roc_auc_score(same.ravel(), score.ravel())),
                "same": float(-score[same].mean()),
                "different": float(-score[~same].mean()),
            }
            for label, score in scores.items()
        }
    return result


def _noisy(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    return (picture + rng.normal(0, 16, picture.shape)).clip(0, 255).astype(np.uint8)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return torch.cdist(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _plot(held_out: Mapping[str, dict]) -> Figure:
    """Calibration curves with the number of faces in each bin, and confusions."""
    figure = Figure(figsize=(3 * len(held_out), 6), layout="constrained")
    axes = figure.subplots(2, len(held_out))
    for (name, sources), (top, bottom) in zip(held_out.items(), axes.T, strict=True):
        top.plot((0, 1), (0, 1), color="0.8", linewidth=1)
        for source, marker in (("readings", "o-"), ("judges", "s:")):
            if source in sources:
                curve = sources[source]["calibration"]
                top.plot(curve["read"], curve["labelled"], marker, markersize=4, label=source)
        top.set(title=ATTRIBUTES[name].label, xlabel="value read", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        confusion = np.array(sources["readings"]["confusion"])
        bottom.imshow(confusion / confusion.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(confusion):
            bottom.text(
                column, row, count, ha="center", va="center", color="black" if row != column else "white"
            )
        bottom.set(xticks=(0, 1), yticks=(0, 1), xlabel="read", ylabel="labelled")
    axes[0, 0].set_ylabel("share labelled so")
    axes[0, 0].legend()
    return figure


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        HEADING,
        "Against the hand labels that were held out of training:",
        "",
        "| attribute | read by | accuracy | AUC | positives | missed | false |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sources in result["held_out"].items():
        for source, f in sources.items():
            (_, false), (missed, _) = f["confusion"]
            counts = f"{f['positives']} of {f['faces']} | {missed} | {false}"
            lines.append(f"| {name} | {source} | {f['accuracy']:.3f} | {f['auc']:.3f} | {counts} |")
    lines += [
        "",
        "Random faces: mean absolute difference of the reading of a face to that of the mirrored face (for",
        "yaw, to its negative), of the face at other sizes than 1024 px, and of the judges; correlation with",
        "the judges; share of faces whose reading rises along its gradient.",
        "",
        f"| attribute | mirrored | {' | '.join(f'{size} px' for size in result['resolution'])} "
        "| judges differ | correlation | rises |",
        "|---" * (len(result["resolution"]) + 5) + "|",
    ]
    for name, mirrored in result["mirror"].items():
        sizes = " | ".join(f"{figures[name]:.2f}" for figures in result["resolution"].values())
        agreement = result["agreement"].get(name)
        judged = f"{agreement['difference']:.2f} | {agreement['correlation']:.2f}" if agreement else " | "
        raised = result["gradients"][name]["raised"]
        lines.append(f"| {name} | {mirrored:.2f} | {sizes} | {judged} | {raised:.1%} |")
    lines += [
        "",
        "Identity: distance of a person's picture to an edited or noisy one, to those of others, and AUC.",
        "",
        "| changed | network | same | different | AUC |",
        "|---|---|---|---|---|",
    ]
    for network, figures in result["identity"].items():
        for label, f in figures.items():
            lines.append(f"| {label} | {network} | {f['same']:.2f} | {f['different']:.2f} | {f['auc']:.4f} |")
    return "\n".join(lines)
