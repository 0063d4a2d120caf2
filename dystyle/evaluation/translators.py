"""Translators in STGAN's protocol and the project's own: what comes back at no change, and what edits do.

Everything is read by judges that taught nothing (`dystyle.metrics.independent_judges`).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from dystyle.alignment import hull
from dystyle.attributes import ATTRIBUTES, Attribute
from dystyle.errors import InputError
from dystyle.evaluation.sheets import compose
from dystyle.metrics.comparison import compare, mean_and_interval
from dystyle.metrics.independent_judges import Judges
from dystyle.pictures import is_named_like_a_picture, save_picture
from dystyle.pipeline import FaceEditor
from dystyle.translators.compiled import Translator

READ_SIZE = 256  # px at which edited pictures are compared and read
YEARS = 25  # of edits of the age, to where there is more room
MARGIN = 0.08  # of the picture, around what an edit may change
EDITED = tuple(name for name in ATTRIBUTES if name not in ("yaw", "pitch", "eyes_closed"))
SHOWN = 12  # faces on a sheet
CORNERS = np.float32([(0, 0), (0, 1), (1, 1), (1, 0)])  # of a portrait
HEADING = """\
# Translators

Made by `python -m dystyle.evaluate translators`: {faces} faces ({source}), each edited in one way after the
other: age by {years} years to where there is more room, all else to its other end. Pictures are compared at
{size} px. DyStyle works on the W+ code alone, whose unedited picture is not quite a photo's face. Means with
half of their 95 % confidence intervals.

- reconstruction: PSNR in dB and SSIM of the network's own picture at no change, in its own size
- right: share of the edits that reach what was asked for, by the judges; moved: mean change of the attributes
  that were not asked for, as a share of their range; dlib: distance of descriptors to the unedited portrait
  (one person: below 0.6); elsewhere: mean difference to it, of 255, where expressions, glasses and beards
  have no business
- ms: of the edit and its picture, engines warm
"""


@dataclass(frozen=True)
class TranslatorsConfig:
    """Translators beside DyStyle on codes.

    Attributes:
        methods: as of `FaceEditor.from_pretrained`: names or files of translators, and "dystyle".
        count: faces; first: the seed of the first generated one, or the number of the first photo.
        folder: of photos, taken in the order of their names, instead of generated faces.
        truncation: of generated faces.
        backend: see `FaceEditor.from_pretrained`.
    """

    methods: tuple[str, ...] = ("stgan", "dystyle")
    count: int = 30
    first: int = 70_000
    folder: Path | None = None
    truncation: float = 0.7
    backend: str = "onnx"


def evaluate_translators(config: TranslatorsConfig, plots: Path | None = None) -> dict:
    """Measure every method on the same faces and edits.

    Args:
        plots: folder for a sheet of each method, `translators-METHOD.png`.

    Returns:
        "methods": by name "reconstruction" (translators only), "edits" by attribute and "all", figures as the
        table's heading says them.

    Raises:
        InputError: there are no photos in the folder, or as `FaceEditor.from_pretrained`.
    """
    editor, judges = FaceEditor.from_pretrained(backend=config.backend), Judges()
    people = list(_people(config, editor))
    result = {"faces": len(people), "source": "photos" if config.folder else "generated", "methods": {}}
    for method in config.methods:
        other, rows = editor.with_method(method), []
        figures: dict[str, list[dict]] = {}
        for portrait, code in tqdm(people, desc=Path(method).stem, mininterval=10):
            row = _measure(other, judges, portrait, code, figures)
            rows.append([_shrink(portrait), *row])
        result["methods"][other.method.title] = _summary(figures)
        if plots is not None:
            titles = ["portrait", *(["no change"] if other.edits_pictures else []), *_edited(other)]
            save_picture(
                compose(rows[:SHOWN], titles, READ_SIZE), plots / f"translators-{Path(method).stem}.png"
            )
    return result


def _people(config: TranslatorsConfig, editor: FaceEditor):
    """Portraits (1024, 1024, 3) with a code each."""
    if config.folder is None:
        for seed in range(config.first, config.first + config.count):
            code = editor.sample(seed, config.truncation)
            yield editor.synthesize(code), code
        return
    found = config.folder.iterdir() if config.folder.is_dir() else ()
    files = sorted(path for path in found if is_named_like_a_picture(path.name))[config.first :]
    if not files:
        raise InputError(f"There are no photos in '{config.folder}'; give a folder with .jpg or .png files.")
    for file in files[: config.count]:
        portrait = editor.align(file)[1]
        yield portrait, editor.encode(portrait)


def _measure(
    editor: FaceEditor, judges: Judges, portrait: np.ndarray, code: np.ndarray, figures: dict[str, list]
) -> list[np.ndarray]:
    """Add one person's figures by attribute; returns the pictures."""
    own, pictures = _shrink(portrait), []
    before, descriptor = _read(judges, own), judges.embed(own[None])[0]
    if isinstance(editor.method, Translator):
        values = editor.measure(portrait)
        same = editor.method.run(portrait, values, values)
        seen = editor.method.translate(portrait, {}, values)
        psnr = float(peak_signal_noise_ratio(seen, same))
        figures.setdefault("reconstruction", []).append(
            {"psnr": psnr, "ssim": float(structural_similarity(seen, same, channel_axis=2))}
        )
        pictures.append(cv2.resize(same, (READ_SIZE, READ_SIZE), interpolation=cv2.INTER_CUBIC))
    faces = editor.detect(portrait)
    for name in _edited(editor):
        edit = {name: _target(ATTRIBUTES[name], before[name])}
        started = time.perf_counter()
        if editor.edits_pictures:
            picture = editor.edit_picture(portrait, edit, READ_SIZE)
        else:
            picture = _shrink(editor.synthesize(editor.edit(code, edit)))
        seconds = time.perf_counter() - started
        after = _read(judges, picture)
        one = {
            "pair": (before, after),
            "edit": edit,
            "dlib": float(np.linalg.norm(descriptor - judges.embed(picture[None])[0])),
            "ms": 1000 * seconds,
        }
        if (region := ATTRIBUTES[name].region) and faces:
            points = faces[0].landmarks[list(region)]
            inside = hull(points, CORNERS * len(portrait), MARGIN, READ_SIZE)
            one["elsewhere"] = float(cv2.absdiff(own, picture).mean(2)[~inside].mean())
        figures.setdefault(name, []).append(one)
        pictures.append(picture)
    return pictures


def _summary(figures: Mapping[str, list[dict]]) -> dict:
    """Means by attribute and over all."""
    edits = {name: found for name, found in figures.items() if name != "reconstruction"}
    result = {"edits": {name: _means(found) for name, found in edits.items()}}
    result["edits"]["all"] = _means([one for found in edits.values() for one in found])
    if "reconstruction" in figures:
        both = figures["reconstruction"]
        result["reconstruction"] = {key: mean_and_interval([one[key] for one in both]) for key in both[0]}
    return result


def _means(found: list[dict]) -> dict:
    compared = compare([one["pair"] for one in found], [one["edit"] for one in found])
    figures = {key: compared[key] for key in ("right", "moved")}
    for key in ("dlib", "elsewhere", "ms"):
        if values := [one[key] for one in found if key in one]:
            figures[key] = mean_and_interval(values)
    return figures


def _edited(editor: FaceEditor) -> list[str]:
    """The attributes that this editor can change, of those that translators are trained for."""
    return [name for name in EDITED if name in editor.attributes]


def _target(row: Attribute, value: float) -> float:
    if row.scale == "probability":
        return float(value < 0.5)
    return float(row.clamp(value + (YEARS if value < (row.low + row.high) / 2 else -YEARS)))


def _read(judges: Judges, picture: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in judges.read(picture[None]).items()}


def _shrink(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (READ_SIZE, READ_SIZE), interpolation=cv2.INTER_AREA)


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [HEADING.format(**result, years=YEARS, size=READ_SIZE)]
    lines += ["| reconstruction | PSNR | SSIM |", "|---|---|---|"]
    for method, figures in result["methods"].items():
        if "reconstruction" in figures:
            psnr, ssim = (figures["reconstruction"][key] for key in ("psnr", "ssim"))
            lines.append(f"| {method} | {_cell(psnr, '.1f')} | {_cell(ssim, '.3f')} |")
    forms = {"right": ".0%", "moved": ".1%", "dlib": ".2f", "elsewhere": ".1f", "ms": ".0f"}
    lines += ["", "| method | edit | " + " | ".join(forms) + " |", "|---" * (len(forms) + 2) + "|"]
    for method, figures in result["methods"].items():
        for edit, found in figures["edits"].items():
            cells = (_cell(found[key], form) if key in found else "" for key, form in forms.items())
            lines.append(f"| {method} | {edit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float], form: str) -> str:
    return f"{figure['mean']:{form}} ± {figure['ci']:{form}}"
