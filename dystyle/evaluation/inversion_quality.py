"""How well inversion gives a person back: identity, pixels and time, by quality."""

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.evaluation.sheets import tile
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.metrics.comparison import is_right
from dystyle.metrics.degradations import degraded
from dystyle.metrics.distances import perceptual_loss
from dystyle.metrics.drawing import draw_edit
from dystyle.metrics.independent_judges import Judges
from dystyle.pictures import load_image, save_picture
from dystyle.pipeline import FaceEditor, InvertedFace

READ_SIZE = 256
EDITED = {"age": 60.0, "smile": 1.0}  # in the sheets' last columns
HEADING = """\
# Inversion

Made by `python -m dystyle.evaluate inversion --count {count} --slow-count {slow_count} --backend {backend}
{option}--json docs/benchmarks/inversion.json --plots docs/benchmarks`: {count} generated faces
({slow_count} for `precise`; seeds {first_seed} on, truncation {truncation}, not used in training), degraded
as photos are, and public-domain photos, each detected, aligned, inverted and rendered at 1024 px. Means with
their standard deviation.

- identity: cosine of faceres embeddings to the portrait (the network that training, descent and
  refinement look at); distance: of dlib's descriptors, which none of them has met (one person: below 0.6)
- pixels: root mean square difference at 256 px, of 255; SSIM: structural similarity at 256 px;
  perceptual: distance of the identity network's early features (`perceptual_loss`)
- edits right: one random attribute of each face edited from the inverted code, and in brackets from the
  code that the face was made of; "right" as in [editing.md](editing.md)
- seconds: of `FaceEditor.invert` on {hardware}, engines warm
"""


@dataclass(frozen=True)
class InversionQualityConfig:
    """Inversion of generated faces and photos.

    Attributes:
        count: generated faces, of seeds `first_seed` on; truncation of theirs.
        photos: pictures to invert, too.
        slow_count: how many of them to invert with `precise`.
        refine: the qualities to compare.
        encoder, backend, device: see `FaceEditor.from_pretrained`.
    """

    count: int = 128
    slow_count: int = 32
    first_seed: int = 30_000
    truncation: float = 0.9
    photos: tuple[Path, ...] = (Path("webapp/examples/astronaut.jpg"),)
    refine: tuple[str, ...] = ("fast", "balanced", "precise")
    encoder: str = "fast"
    backend: str = "onnx"
    device: Literal["cpu", "cuda"] = "cpu"


def evaluate_inversion(config: InversionQualityConfig, plots: Path | None = None) -> dict:
    """Invert every face at every quality.

    Args:
        plots: folder to write `inversion.png` and the sheet `inversion.jpg` to: portraits, what came back,
            and that edited, of the photos and the first faces.

    Returns:
        "generated" and, by file name, "photos": by quality lists over the faces of "identity", "distance",
        "pixels", "ssim", "perceptual" and "seconds" (of `FaceEditor.invert`, without its first call);
        "edits" by quality: lists of whether a random edit was right, "inverted" and "sampled".
    """
    editor = FaceEditor.from_pretrained(config.device, config.backend, encoder=config.encoder)
    judges = Judges()
    editor.warm_up()
    seeds = range(config.first_seed, config.first_seed + config.count)
    codes = [editor.sample(seed, config.truncation) for seed in seeds]
    pictures = degraded([editor.synthesize(code) for code in codes], config.first_seed)
    photos = {path.name: load_image(path) for path in config.photos}
    result = {"count": config.count, "slow_count": config.slow_count, "first_seed": config.first_seed}
    hardware = f"{os.cpu_count()} cores" if config.device == "cpu" else torch.cuda.get_device_name()
    result |= {"truncation": config.truncation, "backend": config.backend, "hardware": hardware}
    result |= {"option": "" if config.device == "cpu" else "--device cuda "}
    result |= {"generated": {}, "edits": {}, "photos": {name: {} for name in photos}}
    shown: dict[int, list[np.ndarray]] = {}
    for refine in config.refine:
        editor.invert(pictures[0] if pictures else next(iter(photos.values())), refine)  # opens what it needs
        count = min(config.count, config.slow_count) if refine == "precise" else config.count
        edits = result["edits"].setdefault(refine, {"inverted": [], "sampled": []})
        chosen = [*photos.values(), *pictures[:count]]
        for index, picture in enumerate(tqdm(chosen, desc=refine, mininterval=10)):
            started = time.perf_counter()
            face = editor.invert(picture, refine)
            seconds = time.perf_counter() - started
            figures, again = _compare(editor, judges, face)
            number = index - len(photos)
            group = result["photos"][list(photos)[index]] if number < 0 else result["generated"]
            for name, value in (figures | {"seconds": seconds}).items():
                group.setdefault(refine, {}).setdefault(name, []).append(value)
            if number >= 0:
                rng = np.random.default_rng(config.first_seed + number)
                edit = draw_edit(rng, [rng.choice(list(editor.attributes))])
                edits["inverted"].append(_edit_is_right(editor, face.code, edit, face))
                edits["sampled"].append(_edit_is_right(editor, codes[number], edit))
            if index < 8:
                edited = editor.synthesize(editor.edit(face.code, EDITED, face=face), face=face)
                shown.setdefault(index, [_shrink(face.portrait)]).extend((again, _shrink(edited)))
    if plots is not None:
        columns = ["portrait", *(c for refine in config.refine for c in (refine, f"{refine}: {_title()}"))]
        rows = [row for row in shown.values() if len(row) == len(columns)]  # seen at every quality
        tiles = [picture for row in rows for picture in row]
        save_picture(tile(tiles, columns * len(rows), len(columns)), plots / "inversion.jpg")
        _plot(result["generated"], plots / "inversion.png")
    return result


def _title() -> str:
    return ", ".join(f"{name}={value:g}" for name, value in EDITED.items())


def _edit_is_right(
    editor: FaceEditor, code: np.ndarray, edit: dict[str, float], face: InvertedFace | None = None
) -> bool:
    codes = code, editor.edit(code, edit, face=face)
    before, after = (editor.measure(editor.synthesize(c, face=face)) for c in codes)
    return all(is_right(ATTRIBUTES[n], before[n], after[n], target) for n, target in edit.items())


def _shrink(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (READ_SIZE, READ_SIZE), interpolation=cv2.INTER_AREA)


def _compare(editor: FaceEditor, judges: Judges, face: InvertedFace) -> tuple[dict[str, float], np.ndarray]:
    """Figures of one inversion, and its picture."""
    portrait, again = _shrink(face.portrait), _shrink(editor.synthesize(face.code, face=face))
    a, b = judges.embed(np.stack([portrait, again]))
    figures = {
        "identity": float(editor.embed(portrait) @ editor.embed(again)),
        "distance": float(np.linalg.norm(a - b)),
        "pixels": float(np.sqrt(np.square(portrait.astype(np.float32) - again).mean())),
        "ssim": float(structural_similarity(portrait, again, channel_axis=2)),
        "perceptual": _perceptual(portrait, again),
    }
    return figures, again


@cache
def _network() -> IdentityNetwork:
    return IdentityNetwork()


@torch.no_grad()
def _perceptual(a: np.ndarray, b: np.ndarray) -> float:
    images = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2) / 127.5 - 1
    features = _network().features(images)
    return float(perceptual_loss([maps[:1] for maps in features], [maps[1:] for maps in features]))


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        HEADING.format(**result),
        "| faces | quality | identity | distance | pixels | SSIM | perceptual | seconds | edits right |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, qualities in {"generated": result["generated"], **result["photos"]}.items():
        for refine, figures in qualities.items():
            cells = [
                f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")
                for values in figures.values()
            ]
            edits = result["edits"][refine] if label == "generated" else None
            right = edits and f"{np.mean(edits['inverted']):.0%} ({np.mean(edits['sampled']):.0%})"
            lines.append(f"| {label} | {refine} | {' | '.join(cells)} | {right or ''} |")
    return "\n".join(lines)


def _plot(generated: dict, path: Path) -> None:
    """Box plots over the faces, by quality."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 6, figsize=(18, 4), layout="constrained")
    for ax, name in zip(
        axes, ("identity", "distance", "pixels", "ssim", "perceptual", "seconds"), strict=True
    ):
        ax.boxplot([figures[name] for figures in generated.values()], tick_labels=list(generated))
        ax.set_title(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
