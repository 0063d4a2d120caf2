"""Is it still the person's own photo? Real photos inverted, edited, and compared with the photo itself.

Everything is read by judges that taught nothing: `dystyle.metrics.independent_judges`, and for the perceptual
distance an image classifier.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from skimage.metrics import structural_similarity
from tqdm import tqdm

from dystyle.alignment import Face, hull
from dystyle.attributes import ATTRIBUTES, Attribute
from dystyle.errors import InputError
from dystyle.evaluation.sheets import compose
from dystyle.metrics.comparison import is_right, mean_and_interval
from dystyle.metrics.efficientnet import EfficientNetLite0
from dystyle.metrics.independent_judges import Judges
from dystyle.pictures import is_named_like_a_picture, load_image, save_picture
from dystyle.pipeline import FaceEditor, InvertedFace

READ_SIZE = 256  # px at which pictures are compared
YEARS, DEGREES = 25, 16  # numeric edits are by so much, to where there is more room
EDITED = ("smile", "mouth_open", "eyes_closed", "eyeglasses", "age", "yaw")
MARGIN = 0.08  # of the picture, around what an edit may change
DETAILS = {"eyes": (360, 300, 424, 200), "mouth": (380, 590, 300, 200), "hair": (200, 60, 320, 240)}
HEADING = """\
# Photos

Made by `python -m dystyle.evaluate photos --folder FOLDER --first {first} --count {count}
--backend {backend}`, with `--json` and `--plots`: {faces} real portraits that nothing was trained on, each
inverted, and edited in six ways: smile, mouth, eyes and glasses to the other end, age by {years} years and
yaw by {degrees} degrees to where there is more room. `code` is the W+ code of `fast` alone. Nothing unedited
has pixels of the photo, but `fast` has its fine structure, by a blur of 3 px at full size, which generators
lack (`dystyle.compositing.detailed`). Means with half of their 95 % confidence intervals.

- RMSE (of 255) and SSIM at {size} px; perceptual: distance of EfficientNet-Lite0's features; dlib: distance
  of dlib's descriptors to the photo (one person: below 0.6); faceres: cosine (it taught the encoders); fine:
  fine structure as a share of the photo's; seconds: of `FaceEditor.invert`, engines warm
- right: by the judges; dlib, as above, to the photo and not to the unedited picture; elsewhere: mean
  difference to the photo, of 255, where the edit has no business (expression and glasses only);
  background: the same beside the head; preview: how many times as long as a random person's the preview of
  the edit takes at {size} px, from targets to picture, the two in turn
"""


@dataclass(frozen=True)
class PhotosConfig:
    """Inversion and six edits of real photos.

    Attributes:
        folder: of photos, taken in the order of their names; first, count: which of them (0: all).
        qualities: "code", "fast", "balanced", "precise".
        backend, device: see `FaceEditor.from_pretrained`.
        details: how many faces to show at their full size.
    """

    folder: Path = Path("photos")
    first: int = 0
    count: int = 0
    qualities: tuple[str, ...] = ("code", "fast")
    backend: str = "onnx"
    device: Literal["cpu", "cuda"] = "cpu"
    details: int = 6


def evaluate_photos(config: PhotosConfig, plots: Path | None = None) -> dict:
    """Invert and edit every photo at every quality.

    Args:
        plots: folder for the sheets `photos-QUALITY.png` and, at their full size, `photos-details.png`.

    Returns:
        "unedited" by quality and "edited" by quality and attribute: figures by name, each with "mean" and
        "ci"; what they are is said in the table's heading.

    Raises:
        InputError: there is no photo in the folder, or no face in one of them.
    """
    files = photo_files(config.folder, config.first, config.count)
    editor, judges, look = (
        FaceEditor.from_pretrained(config.device, config.backend),
        Judges(),
        EfficientNetLite0(),
    )
    editor.warm_up()
    unedited, edited, details = {}, {}, []
    for quality in config.qualities:
        rows = []
        for number, file in enumerate(tqdm(files, desc=quality, mininterval=10)):
            face, seconds = _invert(editor, file, quality)
            picture = editor.synthesize(face.code, face=face)
            _add(unedited.setdefault(quality, {}), _fidelity(editor, judges, look, face.portrait, picture))
            _add(unedited[quality], {"seconds": seconds})
            pictures = {}
            mesh = editor.align(file)[0]
            before = _judge(judges, face.portrait)
            for name in EDITED:
                target = {name: _target(ATTRIBUTES[name], before[name])}
                pictures[name] = editor.synthesize(editor.edit(face.code, target, face=face), face=face)
                figures = _edited_figures(judges, mesh, face.portrait, pictures[name], target, before)
                figures["preview"] = _preview(editor, face, target, number)
                _add(edited.setdefault(quality, {}).setdefault(name, {}), figures)
            if number < 20:
                rows.append([face.portrait, picture, *pictures.values()])
            if number < config.details:
                details.append(_details([face.portrait, picture, pictures["smile"], pictures["yaw"]]))
        if plots is not None:
            titles = ["photo", "unedited", *EDITED]
            save_picture(compose(rows, titles, READ_SIZE), plots / f"photos-{quality}.png")
    if plots is not None and details:
        save_picture(np.concatenate(details), plots / "photos-details.png")
    return {
        **{"first": config.first, "count": config.count, "faces": len(files), "backend": config.backend},
        "unedited": {q: _means(figures) for q, figures in unedited.items()},
        "edited": {q: {n: _means(f) for n, f in edits.items()} for q, edits in edited.items()},
    }


def photo_files(folder: Path, first: int, count: int) -> list[Path]:
    """So many photos of a folder in the order of their names, from one on; 0: all.

    Raises:
        InputError: there are none.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    files = sorted(path for path in found if is_named_like_a_picture(path.name))[first:][: count or None]
    if not files:
        raise InputError(f"There are no photos in '{folder}'; give a folder with .jpg or .png files.")
    return files


def _invert(editor: FaceEditor, file: Path, quality: str) -> tuple[InvertedFace, float]:
    photo, started = load_image(file), time.perf_counter()
    face = editor.invert(photo, "fast" if quality == "code" else quality)
    seconds = time.perf_counter() - started
    return (dataclasses.replace(face, residual=None) if quality == "code" else face), seconds


def _target(row: Attribute, value: float) -> float:
    """The other end of a binary attribute, a fixed step to where there is more room of a numeric one."""
    if row.kind == "binary":
        return float(value < 0.5)
    middle, step = {"age": (45, YEARS), "yaw": (0, DEGREES)}[row.name]
    return float(row.clamp(value + (step if value < middle else -step)))


def _fidelity(
    editor: FaceEditor, judges: Judges, look: EfficientNetLite0, photo: np.ndarray, picture: np.ndarray
) -> dict[str, float]:
    a, b = _shrink(photo), _shrink(picture)
    first, second = judges.embed(np.stack((a, b)))
    return {
        "rmse": float(np.sqrt(np.square(a.astype(np.float32) - b).mean())),
        "ssim": float(structural_similarity(a, b, channel_axis=2)),
        "perceptual": look.distance(a, b),
        "dlib": float(np.linalg.norm(first - second)),
        "faceres": float(editor.embed(a) @ editor.embed(b)),
        "fine": fine_structure(picture) / fine_structure(photo),
    }


def fine_structure(picture: np.ndarray) -> float:
    """Mean contrast of a picture (s, s, 3) uint8 to its neighbourhood of two pixels, of 255."""
    grey = picture.astype(np.float32).mean(2)
    return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2)).mean())


def _judge(judges: Judges, picture: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in judges.read(_shrink(picture)[None]).items()}


def _edited_figures(
    judges: Judges,
    mesh: Face,
    photo: np.ndarray,
    picture: np.ndarray,
    edit: Mapping[str, float],
    before: Mapping[str, float],
) -> dict[str, float]:
    ((name, target),) = edit.items()
    after = _judge(judges, picture)
    a, b = _shrink(photo), _shrink(picture)
    first, second = judges.embed(np.stack((a, b)))
    difference = np.abs(a.astype(np.float32) - b).mean(2)
    strip = READ_SIZE // 8  # the outer eighths of the upper three quarters: hair and shoulders are elsewhere
    beside = np.concatenate((difference[: 6 * strip, :strip], difference[: 6 * strip, -strip:]), 1)
    figures = {
        "right": float(is_right(ATTRIBUTES[name], before[name], after[name], target)),
        "dlib": float(np.linalg.norm(first - second)),
        "background": float(beside.mean()),
    }
    if region := ATTRIBUTES[name].region:
        inside = hull(mesh.landmarks[list(region)], mesh.quad, MARGIN, READ_SIZE)
        figures["elsewhere"] = float(difference[~inside].mean())
    return figures


def _preview(editor: FaceEditor, face: InvertedFace, edit: Mapping[str, float], seed: int) -> float:
    """Seconds of an edited preview of a face, in those of a random person's."""
    seconds = []
    for code, own in ((face.code, face), (face.code, face), (editor.sample(seed), None)):
        started = time.perf_counter()
        editor.synthesize(editor.edit(code, edit, face=own), READ_SIZE, face=own)
        seconds.append(time.perf_counter() - started)
    return seconds[1] / seconds[2]  # the first one may find out what is to be known once


def _shrink(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (READ_SIZE, READ_SIZE), interpolation=cv2.INTER_AREA)


def _details(pictures: list[np.ndarray]) -> np.ndarray:
    """Eyes, mouth and the edge of the hair of pictures (1024, 1024, 3), at their full size, in a row each."""
    parts = (
        np.concatenate([picture[y : y + h, x : x + w] for picture in pictures], 1)
        for x, y, w, h in DETAILS.values()
    )
    rows = list(parts)
    widest = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows])


def _add(lists: dict[str, list[float]], figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        lists.setdefault(name, []).append(value)


def _means(lists: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: mean_and_interval(values) for name, values in lists.items()}


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [HEADING.format(**result, years=YEARS, degrees=DEGREES, size=READ_SIZE)]
    names = ("rmse", "ssim", "perceptual", "dlib", "faceres", "fine", "seconds")
    lines += ["| unedited | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for quality, figures in result["unedited"].items():
        lines.append(f"| {quality} | " + " | ".join(_cell(figures[name]) for name in names) + " |")
    names = ("right", "dlib", "elsewhere", "background", "preview")
    lines += ["", "| edited | edit | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for quality, edits in result["edited"].items():
        for edit, figures in edits.items():
            cells = (_cell(figures[name]) if name in figures else "" for name in names)
            lines.append(f"| {quality} | {edit} | " + " | ".join(cells) + " |")
        means = (np.mean([f[n]["mean"] for f in edits.values() if n in f]) for n in names)
        lines.append(f"| {quality} | **all** | " + " | ".join(f"**{mean:.2f}**" for mean in means) + " |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ± {figure['ci']:.2f}"
