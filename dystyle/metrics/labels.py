"""The hand labels of generated faces, on which predictors and judges are fitted and measured."""

import csv
import zipfile
from pathlib import Path

import numpy as np

from dystyle.errors import InputError

COLUMNS = ("eyeglasses", "mustache", "beard", "smile", "mouth_open", "eyes_closed")
HAIR = ("black", "brown", "blond", "gray")  # colours; there are too few of red hair
HELD_EVERY = 5


def read_labels(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Hand labels, (n,) bool by attribute, and which faces are held out, (n,) bool: every fifth.

    The order of the faces is random already. Glasses are eyeglasses and sunglasses.

    Raises:
        InputError: the file is missing, lacks a column or a number, or a label is the same for all faces that
            are learnt from, or for all that are held out.
    """
    path = folder / "faces.csv"
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read; it is the table of hand labels.") from error
    for name in (*COLUMNS, "hair"):
        if any(row.get(name) is None for row in rows[:1] or [{}]):
            raise InputError(f"'{path}' has no column '{name}'; it takes {', '.join((*COLUMNS, 'hair'))}.")
    try:
        labels = {name: np.array([int(row[name]) > 0 for row in rows]) for name in COLUMNS}
    except (TypeError, ValueError) as error:
        raise InputError(f"'{path}' takes whole numbers, 0 for no, except as hair: {error}.") from error
    labels["black_hair"] = np.array([row["hair"] == "black" for row in rows])
    held = np.arange(len(rows)) % HELD_EVERY == 0
    for name, label in labels.items():
        if min(len(np.unique(label[part])) for part in (held, ~held)) < 2:
            raise InputError(
                f"'{path}' holds too few faces to learn '{name}' from, or all are labelled alike."
            )
    return labels, held


def read_hair(folder: Path) -> np.ndarray:
    """The labels of the faces' hair, (n,) text: `HAIR`, or another one.

    Raises:
        InputError: as `read_labels`.
    """
    read_labels(folder)
    with (folder / "faces.csv").open(newline="") as file:
        return np.array([row["hair"] for row in csv.DictReader(file)])


def read_label_codes(folder: Path) -> np.ndarray:
    """W codes (n, 512) float32 of the faces with hand labels, in their order.

    Raises:
        InputError: the file is missing or damaged, or does not fit the labels; as `read_labels`.
    """
    path, (_, held) = folder / "codes.npz", read_labels(folder)
    try:
        codes = np.load(path)["w"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' cannot be read; it holds the labelled faces' codes as 'w'.") from error
    if codes.shape != (len(held), 512):
        raise InputError(f"'{path}' holds codes of shape {codes.shape}, and {len(held)} faces have labels.")
    return np.float32(codes)
