"""How well inversion gives a person back: identity, pixels and time, by quality."""

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from dystyle.alignment import load_image
from dystyle.evaluation.judges import Judges
from dystyle.evaluation.sheets import tile
from dystyle.pipeline import FaceEditor, InvertedFace, save_picture
from dystyle.training.dataset import degrade

READ_SIZE = 256
HEADING = """\
# Inversion

Made by `python -m dystyle.evaluate inversion --json docs/benchmarks/inversion.json --sheets
docs/benchmarks`: {count} generated faces (seeds {first_seed} on, truncation {truncation}, not used in
training), degraded as photos are, and public-domain photos, each detected, aligned, inverted and
rendered at 1024 px. Means with their standard deviation.

- identity: cosine of faceres embeddings to the portrait (the network that training and refinement
  optimise)
- distance: of dlib's descriptors, which neither has met (one person: below 0.6)
- pixels: root mean square difference at 256 px, of 255
"""


@dataclass(frozen=True)
class InversionConfig:
    """Inversion of generated faces and photos.

    Attributes:
        count: generated faces, of seeds `first_seed` on; truncation of theirs.
        photos: pictures to invert, too.
        refine: the qualities to compare.
    """

    count: int = 128
    first_seed: int = 30_000
    truncation: float = 0.9
    photos: tuple[Path, ...] = (Path("webapp/examples/astronaut.jpg"),)
    refine: tuple[str, ...] = ("fast", "balanced", "precise")
    encoder: str = "fast"


def evaluate_inversion(config: InversionConfig, sheets: Path | None = None) -> dict:
    """Invert every face at every quality.

    Args:
        sheets: folder to write `inversion.jpg` to: portraits and what came back, of the first faces.

    Returns:
        "generated" and, by file name, "photos": by quality lists over the faces of "identity", "distance",
        "pixels" and "seconds" (of `FaceEditor.invert`, without its first call).
    """
    editor, judges = FaceEditor.from_pretrained(encoder=config.encoder), Judges()
    editor.warm_up()
    seeds = range(config.first_seed, config.first_seed + config.count)
    portraits = [editor.synthesize(editor.sample(seed, config.truncation)) for seed in seeds]
    pictures = degraded(portraits, config.first_seed)
    photos = {path.name: load_image(path) for path in config.photos}
    result = {"count": config.count, "first_seed": config.first_seed, "truncation": config.truncation}
    result |= {"generated": {}, "photos": {name: {} for name in photos}}
    shown: dict[int, list[np.ndarray]] = {}
    for refine in config.refine:
        for index, picture in enumerate(tqdm([*photos.values(), *pictures], desc=refine, mininterval=10)):
            started = time.perf_counter()
            face = editor.invert(picture, refine)
            seconds = time.perf_counter() - started
            figures, again = _compare(editor, judges, face)
            group = result["photos"][list(photos)[index]] if index < len(photos) else result["generated"]
            for name, value in (figures | {"seconds": seconds}).items():
                group.setdefault(refine, {}).setdefault(name, []).append(value)
            if index < 8:
                shown.setdefault(index, [_shrink(face.portrait)]).append(again)
    if sheets is not None:
        columns = ["portrait", *config.refine]
        tiles = [picture for row in shown.values() for picture in row]
        save_picture(tile(tiles, columns * len(shown), 2 * len(columns)), sheets / "inversion.jpg")
    return result


def degraded(portraits: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Generated portraits (s, s, 3) uint8, degraded as photos are; the same seed degrades them alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        images = (torch.from_numpy(portrait).permute(2, 0, 1)[None] / 127.5 - 1 for portrait in portraits)
        photos = [(degrade(image)[0].permute(1, 2, 0) + 1) * 127.5 for image in images]
    return [photo.round().byte().numpy() for photo in photos]


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
    }
    return figures, again


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        HEADING.format(**result),
        "| faces | quality | identity | distance | pixels | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for label, qualities in {"generated": result["generated"], **result["photos"]}.items():
        for refine, figures in qualities.items():
            cells = [
                f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")
                for values in figures.values()
            ]
            lines.append(f"| {label} | {refine} | {' | '.join(cells)} |")
    return "\n".join(lines)
