"""The generator's spaces: how disentangled Z, W, W+ and S are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_selection import f_classif
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from tqdm import tqdm, trange

from dystyle.editors.ganspace import ROWS
from dystyle.editors.interfacegan import Latents
from dystyle.editors.stylespace import styles
from dystyle.engines.graphs import Synthesis, generator
from dystyle.metrics.comparison import mean_and_interval
from dystyle.metrics.efficientnet import EfficientNetLite0
from dystyle.metrics.people import SMALL, People
from dystyle.pipeline import FaceEditor

CANDIDATES = 512  # coordinates of a space that trees choose from, as many as Z and W have
TREES, DEPTH = 100, 3
PLANE = 1e-3  # C of the linear classifiers of the separability
PREVIEW = 256  # px of pictures that are compared
HEADING = """\
# Spaces

Made by `python -m dystyle.evaluate spaces --count {count} --paths {paths} --json
docs/benchmarks/spaces.json`: {count} random people, and as many of W+ with mixed rows, read at {read} px.
Means with half of their 95 % confidence intervals, over {folds} parts of the people that are held out in
turn, or over the paths.

- disentanglement, completeness: does a coordinate tell of one attribute only, and does one coordinate tell
  all of it? (Eastwood & Williams 2018; 1 is best.) As in StyleSpace: importances in gradient boosted trees
  that tell the {share:.0%} of people with the highest reading of an attribute from those with the lowest
  ({trees} trees of depth {depth}, which choose from the {candidates} coordinates whose means differ most)
- informativeness: balanced accuracy of these trees, 0.5 is chance
- separability: of StyleGAN, section 4.2, over all attributes, of the half of {separated} people whose
  readings are farther from the median; on people held out; 1 is best, two to their number is chance
- path_length: of StyleGAN, section 4.1, over {paths} pairs at steps of {epsilon:g}, with the distance of
  EfficientNet-Lite0's features, which nothing here was trained on; full paths. Papers use VGG: figures
  compare Z with W, not with theirs
"""


@dataclass(frozen=True)
class SpacesConfig:
    """Measures of the spaces on random people.

    Attributes:
        count: people, of seed `first_seed`, rendered and read.
        extremes: share of them at either end of an attribute that trees learn to tell apart.
        folds: parts that are held out in turn.
        separated: people for the separability.
        paths: pairs of people for the path length; epsilon: step along the path.
        people: folder of their readings, see `dystyle.metrics.people`.
    """

    count: int = 8000
    first_seed: int = 60_000
    extremes: float = 0.02
    folds: int = 5
    separated: int = 4000
    paths: int = 1000
    epsilon: float = 1e-4
    people: Path = Path("runs/people")
    backend: str = "onnx"


def dci(x: np.ndarray, values: np.ndarray, extremes: float = 0.02, folds: int = 5) -> list[dict[str, float]]:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018) of codes x (n, d), by fold.

    Importances are those of gradient boosted trees, one model for each column of `values` (n, k), that tell
    the share `extremes` of codes with the highest values from those with the lowest; they may choose from the
    `CANDIDATES` coordinates whose means differ most. Informativeness is the balanced accuracy on the fold.
    """
    count = max(round(extremes * len(x)), folds)
    importance = np.zeros((folds, x.shape[1], values.shape[1]))
    accuracy = np.zeros((folds, values.shape[1]))
    for column, value in enumerate(tqdm(values.T, desc="trees", mininterval=10)):
        order = np.argsort(value, kind="stable")
        ends, labels = x[np.r_[order[:count], order[-count:]]], np.repeat((0, 1), count)
        parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(ends, labels)
        for fold, (train, held) in enumerate(parts):
            differ = f_classif(ends[train], labels[train])[0]
            chosen = np.argsort(-np.nan_to_num(differ), kind="stable")[:CANDIDATES]
            model = GradientBoostingClassifier(n_estimators=TREES, max_depth=DEPTH, random_state=0)
            model.fit(ends[train][:, chosen], labels[train])
            importance[fold, chosen, column] = model.feature_importances_
            told = model.predict(ends[held][:, chosen])
            accuracy[fold, column] = balanced_accuracy_score(labels[held], told)
    return [
        _scores(weights) | {"informativeness": float(right.mean())}
        for weights, right in zip(importance, accuracy, strict=True)
    ]


def _scores(importance: np.ndarray) -> dict[str, float]:
    """Disentanglement and completeness of importances (coordinates, attributes)."""
    used = importance[importance.sum(1) > 0]
    columns = used[:, used.sum(0) > 0].T
    alone, whole = (1 - _evenness(x / x.sum(1, keepdims=True)) for x in (used, columns))
    return {
        "disentanglement": float(np.average(alone, weights=used.sum(1))),
        "completeness": float(whole.mean()),
    }


def _evenness(share: np.ndarray) -> np.ndarray:
    """Entropy of each row, which sums to 1, with the number of its entries as base."""
    logs = np.log(np.where(share > 0, share, 1)) / np.log(share.shape[1])
    return -(share * logs).sum(1)


def separability(x: np.ndarray, values: np.ndarray, folds: int = 5) -> list[float]:
    """Linear separability (StyleGAN, section 4.2) of codes x (n, d), by fold: exp of the summed entropies
    H(label | side of a hyperplane), in nats; 1 is perfect.

    Labels say whether values (n, k) are above their median. As there, the half of the codes that is less
    certain, nearer to it, does not count; unlike there, hyperplanes are judged on codes held out.
    """
    total = np.zeros(folds)
    for value in tqdm(values.T, desc="hyperplanes", mininterval=10):
        distance = value - np.median(value)
        certain = np.argsort(-np.abs(distance), kind="stable")[: len(x) // 2]
        codes, labels = StandardScaler().fit_transform(x[certain]), distance[certain] > 0
        parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(codes, labels)
        for fold, (train, held) in enumerate(parts):
            model = LinearSVC(C=PLANE, class_weight="balanced").fit(codes[train], labels[train])
            total[fold] += _conditional_entropy(labels[held], model.predict(codes[held]))
    return [float(x) for x in np.exp(total)]


def _conditional_entropy(label: np.ndarray, given: np.ndarray) -> float:
    """H(label | given) of two columns of truth values, in nats."""
    joint = np.array([[np.mean((given == g) & (label == y)) for y in (0, 1)] for g in (0, 1)])
    share = joint / np.maximum(joint.sum(1, keepdims=True), 1e-12)
    return float(-(joint * np.log(np.where(share > 0, share, 1))).sum())


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical interpolation of z (512,) codes, on the sphere."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b, -1, 1))
    mixed = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.float32(mixed * len(a) ** 0.5)


def path_lengths(
    map_z: Callable[[np.ndarray], np.ndarray],
    distance: Callable[[np.ndarray, np.ndarray], float],
    space: str,
    pairs: int,
    epsilon: float,
    seed: int = 0,
) -> list[float]:
    """Perceptual path lengths in "z" or "w" (StyleGAN, section 4.1), one a pair: d(t, t + eps) / eps^2 at a
    random place t of the path.

    Args:
        map_z: z (n, 512) -> W (n, 512). distance: squared, of what two W codes (512,) show.
    """
    rng, lengths = np.random.default_rng(seed), []
    for _ in trange(pairs, desc=f"paths in {space}", mininterval=10):
        a, b = rng.standard_normal((2, 512), dtype=np.float32)
        t = rng.uniform(0, 1)
        if space == "z":
            first, second = map_z(np.stack([slerp(a, b, t), slerp(a, b, t + epsilon)]))
        else:
            start, end = np.float64(map_z(np.stack([a, b])))
            first, second = (start + s * (end - start) for s in (t, t + epsilon))
        lengths.append(distance(np.float32(first), np.float32(second)) / epsilon**2)
    return lengths


def perceptual_distance() -> Callable[[np.ndarray, np.ndarray], float]:
    """Of the pictures of two W codes (512,), before any rounding: steps of 1e-4 change less than a level."""
    network, judge = Synthesis(PREVIEW), EfficientNetLite0()

    @torch.no_grad()
    def distance(first: np.ndarray, second: np.ndarray) -> float:
        codes = torch.from_numpy(np.stack((first, second)))[:, None].repeat(1, 18, 1)
        pictures = network.images(codes).clamp(-1, 1).permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
        return judge.distance(*pictures)

    return distance


def evaluate_spaces(config: SpacesConfig) -> dict:
    """DCI and linear separability of each space, and the path length in Z and W."""
    editor, latents = FaceEditor.from_pretrained(backend=config.backend), Latents()
    mean_w = generator().mean_w.numpy()
    people = People.read(editor.backend, latents.map, mean_w, config.count, config.first_seed, config.people)
    codes = np.repeat(people.w[:, None], 18, 1)
    # The rows of a W code are the same 18 times: only mixed codes show what W+ holds apart.
    mixed = people.mixed[:, :ROWS].reshape(config.count, -1)
    result = {
        "count": config.count,
        "paths": config.paths,
        "epsilon": config.epsilon,
        "folds": config.folds,
        "share": config.extremes,
        "separated": min(config.separated, config.count),
        "read": SMALL,
        "trees": TREES,
        "depth": DEPTH,
        "candidates": CANDIDATES,
        "spaces": {},
    }
    for name, x, y in (
        ("Z", people.z, people.values),
        ("W", people.w, people.values),
        ("W+", mixed, people.mixed_values),
        ("S", styles(generator(), codes), people.values),
    ):
        folds = dci(x, y, config.extremes, config.folds)
        some = slice(config.separated)
        lists = {key: [fold[key] for fold in folds] for key in folds[0]}
        lists["separability"] = separability(x[some], y[some], config.folds)
        result["spaces"][name] = {key: mean_and_interval(figures) for key, figures in lists.items()}
    distance = perceptual_distance()
    for name in ("z", "w"):
        lengths = path_lengths(latents.map, distance, name, config.paths, config.epsilon)
        result["spaces"][name.upper()]["path_length"] = mean_and_interval(lengths)
    return result


def table(result: dict) -> str:
    """The result as Markdown."""
    columns = ("disentanglement", "completeness", "informativeness", "separability", "path_length")
    lines = [
        HEADING.format(**result),
        f"| space | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, f in result["spaces"].items():
        cells = [_cell(f[column]) if column in f else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: dict[str, float]) -> str:
    digits = 3 if figure["mean"] < 2 else 0
    return f"{figure['mean']:.{digits}f} ± {figure['ci']:.{digits}f}"
