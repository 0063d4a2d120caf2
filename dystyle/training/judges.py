"""Fit the independent judges' calibration to hand-labelled generated faces."""

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.metrics.independent_judges import PROBES, Judges
from dystyle.metrics.labels import read_labels
from dystyle.training.dataset import FaceDataset
from dystyle.training.resume import make_folder
from dystyle.weights import save

# Inverse L2 strength for features of unit length, from cross-validation within the four fifths fitted on,
# like the crops and layers in `dystyle.metrics.independent_judges`.
REGULARISATION = 10.0


def train_judges(labels: Path, dataset: Path, out: Path, generator: MobileStyleGAN) -> dict[str, float]:
    """Fit, write the calibration, and return accuracy, AUC and positives on the held-out fifth.

    `PROBES`: logistic regressions on standardised features, with classes weighted equally where positives
    are rare. The smile has nothing to fit and is only scored.

    Args:
        labels: folder with `faces.csv`.
        dataset: folder with the labelled faces, rendered in the same order.
        out: safetensors file to write.

    Raises:
        InputError: as `read_labels`, or faces are missing.
    """
    truth, held = read_labels(labels)
    make_folder(out.parent)
    judges, images = Judges(calibrated=False), FaceDataset.load(dataset, least=len(held)).images
    features = judges.features(images)
    tensors = zero_pose(judges, generator, images[~held][:300])
    scores = {"smile": features["smile"] - 0.5}
    for name in PROBES:
        x = features[name]
        weight, bias = fit(x[~held], truth[name][~held])
        tensors |= {f"{name}_weight": np.float32(weight), f"{name}_bias": np.float32([bias])}
        scores[name] = x @ weight + bias
    save(out, tensors, format="calibration")
    report = {}
    for name, score in scores.items():
        y = truth[name][held]
        report[f"{name}/accuracy"] = float(((score[held] > 0) == y).mean())
        report[f"{name}/auc"] = float(roc_auc_score(y, score[held]))
        report[f"{name}/positives"] = int(y.sum())
    return report


@torch.no_grad()
def zero_pose(judges: Judges, generator: MobileStyleGAN, images: np.ndarray) -> dict[str, np.ndarray]:
    """What counts as straight: level is the mean face, ahead is where mirrored faces read the opposite."""
    mean_face = (generator(generator.mean_w[None], 1024).clamp(-1, 1) + 1) * 127.5
    pitch = judges.features(mean_face.round().byte().permute(0, 2, 3, 1).numpy())["pitch"]
    yaw = [judges.features(x)["yaw"].mean() for x in (images, images[:, :, ::-1])]
    return {"yaw_zero": np.float32([np.mean(yaw)]), "pitch_zero": pitch}


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (d,) and bias of a logistic regression of y (n,) on features x (n, d)."""
    mean, scale = x.mean(0), (x.std(0) + 1e-6) * x.shape[1] ** 0.5
    balance = "balanced" if y.mean() < 0.1 else None
    model = LogisticRegression(C=REGULARISATION, class_weight=balance, max_iter=1000)
    model.fit((x - mean) / scale, y)
    weight = model.coef_[0] / scale
    return weight, model.intercept_[0] - (weight * mean).sum()
