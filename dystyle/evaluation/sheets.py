"""Contact sheets: faces in rows, edits in columns, to be looked at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dystyle.attributes import validate_configuration
from dystyle.edit import parse_configuration
from dystyle.errors import InputError
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor

LINE, LETTER = 18, 9  # pixels
MIDDLE, FINE = 4, 8  # rows of W+ from which the styles of 16 and of 64 px begin, see StyleGAN's figure 3


@dataclass(frozen=True)
class SheetConfig:
    """A contact sheet of edits.

    Attributes:
        out: picture to write.
        photos: one row each, beginning with the photo's portrait and its reconstruction.
        seeds: one row for each random person.
        edits: one column each, as in `dystyle.edit --set`, joined by commas: `yaw=25,smile=1`.
        size: pixels of one picture.
        refine: how photos are inverted.
        encoder: what inverts them, as in `dystyle.edit --encoder`.
        truncation: of the random people.
    """

    out: Path = Path("sheet.jpg")
    photos: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()
    edits: tuple[str, ...] = ("age=65", "smile=0", "yaw=25,smile=1")
    size: int = 256
    refine: str = "fast"
    encoder: str = "fast"
    truncation: float = 0.7


def make_sheet(config: SheetConfig) -> None:
    """Render the sheet.

    Raises:
        InputError: a bad photo, attribute or value.
    """
    editor = FaceEditor.from_pretrained(backend="onnx", encoder=config.encoder)
    edits = (parse_configuration(tuple(edit.split(","))) for edit in config.edits)
    targets = [validate_configuration(edit, editor.attributes) for edit in edits]
    people = [(editor.sample(seed, config.truncation), None) for seed in config.seeds]
    faces = [editor.invert(photo, config.refine) for photo in config.photos]
    people += [(face.code, face) for face in faces]
    rows = []
    for code, face in tqdm(people, desc="contact sheet"):
        codes = [editor.edit(code, target, face=face) for target in ({}, *targets)]
        pictures = [editor.synthesize(edited, face=face) for edited in codes]
        rows.append(([] if face is None else [face.portrait]) + pictures)
    titles = ["photo"] * bool(config.photos) + ["unedited", *config.edits]
    save_picture(compose(rows, titles, config.size), config.out)


@dataclass(frozen=True)
class MixingConfig:
    """A contact sheet of style mixing.

    Attributes:
        out: picture to write.
        seeds, others: random people, one row for each pair.
        size: pixels of one picture.
        truncation: of the random people.
    """

    out: Path = Path("mixing.jpg")
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    others: tuple[int, ...] = (5, 6, 7, 8)
    size: int = 256
    truncation: float = 0.7


def make_mixing_sheet(config: MixingConfig) -> None:
    """Render people with the coarse, the middle or the fine styles of another one (StyleGAN, section 3.1).

    Raises:
        InputError: not as many others as people.
    """
    if len(config.seeds) != len(config.others) or not config.seeds:
        raise InputError("Give as many --others as --seeds, one or more.")
    editor, rows = FaceEditor.from_pretrained(backend="onnx"), []
    for pair in tqdm(list(zip(config.seeds, config.others, strict=True)), desc="contact sheet"):
        own, other = (editor.sample(seed, config.truncation) for seed in pair)
        coarse, fine = editor.mix(other, own, MIDDLE), editor.mix(own, other, FINE)
        middle = editor.mix(editor.mix(own, other, MIDDLE), own, FINE)
        rows.append([editor.synthesize(code) for code in (own, coarse, middle, fine, other)])
    titles = ("a person", "coarse of the other", "middle of the other", "fine of the other", "the other")
    save_picture(compose(rows, titles, config.size), config.out)


def tile(pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> np.ndarray:
    """Pictures (s, s, 3) of one size in a grid, each over its caption."""
    size = len(pictures[0])
    sheet = np.full((-(-len(pictures) // columns) * (size + 20), columns * size, 3), 255, np.uint8)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = index // columns * (size + 20), index % columns * size
        sheet[top : top + size, left : left + size] = picture
        place = (left + 4, top + size + 15)
        cv2.putText(sheet, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet


def compose(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], size: int) -> np.ndarray:
    """Pictures in a grid under their titles; shorter rows are aligned to the right."""
    captions = [textwrap.wrap(title.replace(",", ", "), size // LETTER) for title in titles]
    height = 10 + LINE * max(map(len, captions))
    sheet = np.full((height + size * len(rows), size * len(titles), 3), 255, np.uint8)
    for column, caption in enumerate(captions):
        for line, words in enumerate(caption, 1):
            place = (column * size + 6, line * LINE)
            cv2.putText(sheet, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures, len(titles) - len(pictures)):
            top, left = height + row * size, column * size
            small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
            sheet[top : top + size, left : left + size] = small
    return sheet
