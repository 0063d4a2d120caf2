"""Fit the calibration of the attribute readings to hand-labelled generated faces."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import FaceReader
from dystyle.training.dataset import FaceDataset


@dataclass(frozen=True)
class AttributeConfig:
    """Calibrating the attribute readings.

    Attributes:
        labels: folder with `codes.npz` (w, id) and `faces.csv` (0/1 columns by id).
        dataset: folder to render the labelled faces into.
        out: safetensors file to write.
    """

    labels: Path = Path("labels")
    dataset: Path = Path("runs/labelled")
    out: Path = Path("weights/knowledge/calibration.safetensors")


@torch.no_grad()
def read_signals(reader: FaceReader, pictures: np.ndarray) -> np.ndarray:
    """Raw signals (n, 10) of uint8 pictures (n, s, s, 3)."""
    chunks = (torch.from_numpy(np.array(pictures[i : i + 16])) for i in range(0, len(pictures), 16))
    return np.concatenate([reader.signals(chunk.permute(0, 3, 1, 2) / 127.5 - 1).numpy() for chunk in chunks])


def train_attributes(config: AttributeConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Fit, write the calibration, and return accuracy and AUC on the held-out fifth.

    Binary attributes: logistic regressions on standardised signals, with classes weighted equally where
    positives are rare, so that 0.5 is the visual boundary. Pitch: zero at the mean face.
    """
    with open(config.labels / "faces.csv") as file:
        labels = list(csv.DictReader(file))
    signals = read_signals(FaceReader(calibrated=False), FaceDataset.load(config.dataset).images)
    # Every fifth face is held out; the order of the labels is random already.
    held = np.arange(len(labels)) % 5 == 0
    eyes = signals[:, 8:]
    inputs = {
        "smile": signals[:, 4:7],
        "mouth_open": signals[:, 7:8],
        "eyes_closed": np.stack((eyes.mean(1), eyes.max(1)), 1),
    }
    tensors, report = {}, {}
    for name, x in inputs.items():
        y = np.array([int(row[name]) for row in labels])
        mean, std = x[~held].mean(0), x[~held].std(0)
        balance = "balanced" if y.mean() < 0.1 else None
        model = LogisticRegression(class_weight=balance).fit((x[~held] - mean) / std, y[~held])
        weight = model.coef_[0] / std
        bias = model.intercept_[0] - (weight * mean).sum()
        score = x[held] @ weight + bias
        report[f"{name}/accuracy"] = float(((score > 0) == y[held]).mean())
        report[f"{name}/auc"] = float(roc_auc_score(y[held], score))
        report[f"{name}/positives"] = int(y[held].sum())
        tensors |= {f"{name}_weight": np.float32(weight), f"{name}_bias": np.float32([bias])}
    with torch.no_grad():
        mean_face = generator(generator.mean_w[None], 1024)
        mean_pitch = float(FaceReader(calibrated=False).signals(mean_face)[0, 1])
    tensors["pitch_zero"] = np.float32([mean_pitch])
    save_file(tensors, config.out, metadata={"format": "calibration"})
    return report
