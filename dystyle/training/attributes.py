"""Teach the readers: train the probe and calibrate the readings on hand-labelled generated faces.

The labels are few, so they are used three times. Linear models on the labelled faces' codes, on features of
the identity network and on the readers' signals are stacked into a teacher; the teacher gives soft labels to
thousands of further generated faces; the probe learns from hand labels and soft labels, under augmentation.
Then that probe joins the teacher, and a new one learns from both. Every fifth labelled face is held out of
all of it.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm, trange

from dystyle.encoders.precision import autocast
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.graph import Graph
from dystyle.knowledge.networks import load_network
from dystyle.knowledge.probe import PROBED, FaceProbe
from dystyle.knowledge.readings import IDENTITY_CROP, PREDICTORS, FaceReader, crop
from dystyle.metrics.degradations import degrade
from dystyle.metrics.labels import read_labels
from dystyle.training.dataset import FaceDataset
from dystyle.training.resume import make_folder
from dystyle.weights import save

FOLDS = 4
# (centre y, side) of the crop and the layer of the identity network, for the teacher's linear models.
TEACHER_VIEWS = ((*IDENTITY_CROP, "relu_15"), (0.5, 1.0, "relu_23"), (*IDENTITY_CROP, "relu_45"))
# Rows of W+ that the probe predicts beside its labels, as three averages: what faces have in common with
# their codes is worth knowing, too, and needs no labels.
BANDS = (slice(0, 4), slice(4, 8), slice(8, 14))


@dataclass(frozen=True)
class AttributeConfig:
    """Training of the attribute readings: the probe and the calibration.

    Attributes:
        labels: folder with `codes.npz` (w) and `faces.csv`.
        dataset: folder to render the labelled faces into.
        faces: folder of further generated faces, without labels (`python -m dystyle.train faces`).
        out: folder to write `probe.safetensors` and `calibration.safetensors` to.
        steps: of the probe, in either round.
        batch: labelled and further faces in a step of the first round, and of the second.
    """

    labels: Path = Path("data/labels")
    dataset: Path = Path("runs/labelled")
    faces: Path = Path("runs/faces")
    out: Path = Path("weights/knowledge")
    steps: int = 2000
    batch: tuple[tuple[int, int], ...] = ((24, 16), (8, 32))
    lr: float = 2e-3
    seed: int = 0


def batches(pictures: np.ndarray, size: int = 20) -> Iterator[Tensor]:
    """uint8 (n, s, s, 3) -> float (b, 3, s, s) in [-1, 1], in order."""
    for start in tqdm(range(0, len(pictures), size), desc="reading faces", mininterval=10):
        yield torch.from_numpy(np.array(pictures[start : start + size])).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def describe(data: FaceDataset) -> list[np.ndarray]:
    """What the teacher looks at: the code, three views of the identity network, the readers' signals."""
    network, reader = load_network("faceres"), FaceReader(calibrated=False)
    layers = [layer for _, _, layer in TEACHER_VIEWS]
    network = Graph(network.operations, layers, dict(network.named_buffers()))
    views, signals = [[] for _ in TEACHER_VIEWS], []
    for images in batches(data.images):
        signals.append(reader.signals(images)[:, len(PREDICTORS) :])
        for index, (centre, side, _) in enumerate(TEACHER_VIEWS):
            geometry = (images.new_full((1,), value) for value in (0.5, centre, side))
            maps = network((crop(images, 160, *geometry) + 1) * 127.5)[index]
            views[index].append(F.adaptive_avg_pool2d(maps, 4).flatten(1))
    parts = [torch.cat(view).numpy() for view in (*views, signals)]
    return [data.codes[:, 2:10].mean(1), *parts]


class LabelTeacher:
    """Stacked logistic regressions, one for each kind of description."""

    def __init__(self, descriptions: list[np.ndarray], labels: np.ndarray) -> None:
        self.models, outputs = [], []
        for x in descriptions:
            folds = []
            output = np.zeros(len(x))
            for fold in range(FOLDS):
                test = np.arange(len(x)) % FOLDS == fold
                model = make_pipeline(
                    StandardScaler(),
                    PCA(min(300, x.shape[1]), random_state=0),
                    LogisticRegression(C=3 / x.shape[1], max_iter=500),
                ).fit(x[~test], labels[~test])
                output[test] = model.decision_function(x[test])
                folds.append(model)
            self.models.append(folds)
            outputs.append(output)
        self.stack = LogisticRegression(C=0.3).fit(np.stack(outputs, 1), labels)

    def __call__(self, descriptions: list[np.ndarray]) -> np.ndarray:
        """Probabilities (n,)."""
        outputs = [
            np.mean([model.decision_function(x) for model in folds], 0)
            for x, folds in zip(descriptions, self.models, strict=True)
        ]
        return self.stack.predict_proba(np.stack(outputs, 1))[:, 1]


def probe_loss(
    logits: Tensor, targets: Tensor, predicted: Tensor, codes: Tensor, mirrored: Tensor, hard: int
) -> Tensor:
    """Cross-entropy of hand labels and of soft ones, half each, and twice the distance of the codes.

    Args:
        logits, targets: (b, n), the first `hard` of hand labels. predicted, codes: (b, k).
        mirrored: (b,) bool; a mirrored face has another code, which is not known.
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = losses[:hard].mean(0).sum() / 2 + losses[hard:].mean(0).sum() / 2
    return loss + 2 * F.smooth_l1_loss(predicted[~mirrored], codes[~mirrored])


def train_probe(
    config: AttributeConfig,
    pictures: Tensor,
    targets: Tensor,
    codes: Tensor,
    labelled: int,
    batch: tuple[int, int],
) -> FaceProbe:
    """Train a probe on pictures (n, 3, 128, 128) uint8, of which the first `labelled` have hand labels.

    Args:
        targets: probabilities (n, len(PROBED)).
        codes: (n, k) what the probe learns to predict of the codes, standardised.
        batch: labelled and further pictures in a step.
    """
    torch.manual_seed(config.seed)
    probe, codes_head = FaceProbe(), nn.Linear(256, codes.shape[1])
    probe = probe.to(memory_format=torch.channels_last)
    average = copy.deepcopy(probe)
    parameters = [*probe.parameters(), *codes_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.steps, pct_start=0.15
    )
    hard, soft = batch
    for step in trange(config.steps, desc="probe", mininterval=10):
        index = torch.cat((torch.randint(labelled, (hard,)), torch.randint(labelled, len(pictures), (soft,))))
        mirrored = torch.rand(len(index)) < 0.5
        views = pictures[index] / 127.5 - 1
        # Colours change very little: black hair and dark brown hair are two labels.
        views = degrade(torch.where(mirrored[:, None, None, None], views.flip(3), views), colour=0.25)
        with autocast(views.device):
            features = probe.features(views)
            logits, predicted = probe.head(features).float(), codes_head(features).float()
        loss = probe_loss(logits, targets[index], predicted, codes[index], mirrored, hard)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimiser.step()
        schedule.step()
        decay = min(0.998, (step + 1) / (step + 10))
        for mean, value in zip(average.state_dict().values(), probe.state_dict().values(), strict=True):
            mean.copy_(torch.lerp(mean.float(), value.float(), 1 - decay))
    return average.eval().requires_grad_(False)


@torch.no_grad()
def joined(probe: FaceProbe, pictures: Tensor, targets: Tensor) -> Tensor:
    """Soft labels (n, k) of a teacher, with the probe's own opinion of the pictures as the other half."""
    logits = torch.cat([probe(chunk / 127.5 - 1) for chunk in pictures.split(50)])
    return ((torch.logit(targets, eps=1e-4) + logits) / 2).sigmoid()


def fit_calibration(signals: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logistic regressions from signals (n, 6) to what the published networks can tell of the labels.

    The few closed eyes count thrice: with their bare number 0.5 lies beyond most of them, and with equal
    weight of both classes at eyes that laugh.
    """
    eyes = signals[:, 4:6]
    inputs = {
        "smile": signals[:, :3],
        "mouth_open": signals[:, 3:4],
        "eyes_closed": np.stack((eyes.mean(1), eyes.max(1)), 1),
    }
    tensors = {}
    for name, x in inputs.items():
        mean, std = x.mean(0), x.std(0)
        weights = {False: 1, True: 3} if name == "eyes_closed" else None
        model = LogisticRegression(class_weight=weights).fit((x - mean) / std, labels[name])
        weight = model.coef_[0] / std
        tensors[f"{name}_weight"] = np.float32(weight)
        tensors[f"{name}_bias"] = np.float32(model.intercept_ - (weight * mean).sum())
    return tensors


@torch.no_grad()
def zero_pitch(generator: MobileStyleGAN) -> dict[str, np.ndarray]:
    """The pitch that counts as level: what the mesh reads on the mean face."""
    mean_face = generator(generator.mean_w[None], 1024)
    return {"pitch_zero": FaceReader(calibrated=False).signals(mean_face)[:, 1].numpy()}


def train_attributes(config: AttributeConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Train, write probe and calibration, and return accuracy and AUC on the held-out fifth.

    Raises:
        InputError: as `read_labels`, or faces are missing.
    """
    labels, held = read_labels(config.labels)
    make_folder(config.out)
    labelled, faces = FaceDataset.load(config.dataset, least=len(held)), FaceDataset.load(config.faces)
    known, more = describe(labelled), describe(faces)
    train = [x[~held] for x in known]
    soft = {name: LabelTeacher(train, labels[name][~held])(more) for name in PROBED}

    def shrink(pictures: np.ndarray) -> Tensor:
        return torch.cat([F.interpolate(x, size=(128, 128), mode="area") for x in batches(pictures)])

    def bands(codes: np.ndarray) -> Tensor:
        x = (torch.from_numpy(codes) - generator.mean_w) / generator.std_w
        return torch.cat([x[:, band].mean(1) for band in BANDS], 1)

    pictures = torch.cat((shrink(labelled.images[~held]), shrink(faces.images)))
    pictures = (pictures * 127.5 + 127.5).round().to(torch.uint8)
    # Hand labels are softened: where they err, and boundaries are a matter of taste, certainty is wrong.
    hard = np.stack([labels[name][~held] * 0.96 + 0.02 for name in PROBED], 1)
    targets = np.concatenate((hard, np.stack([soft[name] for name in PROBED], 1)))
    codes = torch.cat((bands(labelled.codes[~held]), bands(faces.codes)))
    targets = torch.from_numpy(targets).float()
    count, (first, second) = int((~held).sum()), config.batch
    probe = train_probe(config, pictures, targets, codes, count, first)
    targets[count:] = joined(probe, pictures[count:], targets[count:])
    probe = train_probe(config, pictures, targets, codes, count, second)

    reader = FaceReader(calibrated=False)
    with torch.no_grad():
        signals = torch.cat([reader.signals(x) for x in batches(labelled.images)]).numpy()
    signals = signals[:, len(PREDICTORS) :]
    calibration = fit_calibration(signals[~held], {name: y[~held] for name, y in labels.items()})
    calibration |= zero_pitch(generator)
    probe.save(config.out / "probe.safetensors")
    save(config.out / "calibration.safetensors", calibration, format="calibration")
    reader.complete(calibration, probe)
    return report(reader, labelled.images[held], {name: y[held] for name, y in labels.items()})


@torch.no_grad()
def report(reader: FaceReader, pictures: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and AUC by attribute on labelled pictures (n, s, s, 3)."""
    read = [reader(x) for x in batches(pictures)]
    result = {}
    for name, truth in labels.items():
        scores = torch.cat([part[name] for part in read]).numpy()
        result[f"{name}/accuracy"] = float(((scores > 0) == truth).mean())
        result[f"{name}/auc"] = float(roc_auc_score(truth, scores))
        result[f"{name}/positives"] = int(truth.sum())
    return result
