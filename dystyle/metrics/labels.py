"""The hand labels of generated faces, on which predictors and judges are fitted and measured."""

import csv
from pathlib import Path

import numpy as np


def read_labels(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Hand labels, (n,) bool by attribute, and which faces are held out, (n,) bool: every fifth.

    The order of the faces is random already. Glasses are eyeglasses and sunglasses.
    """
    with open(folder / "faces.csv") as file:
        rows = list(csv.DictReader(file))
    labels = {
        name: np.array([int(row[name]) > 0 for row in rows])
        for name in ("eyeglasses", "mustache", "beard", "smile", "mouth_open", "eyes_closed")
    }
    labels["black_hair"] = np.array([row["hair"] == "black" for row in rows])
    return labels, np.arange(len(rows)) % 5 == 0
