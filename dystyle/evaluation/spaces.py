"""The generator's spaces: how disentangled Z, W, W+ and S are, and what GANSpace's components do."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.ganspace import ROWS, Components
from dystyle.editors.interfacegan import Latents
from dystyle.editors.search import level_changes
from dystyle.editors.stylespace import styles
from dystyle.engines.graphs import generator
from dystyle.evaluation.sheets import tile
from dystyle.metrics.drawing import sample_codes
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor

SPARSITY = 0.01  # C of the L1 classifiers whose coefficients are the importances
PREVIEW = 256
HEADING = """\
# Spaces

Made by `python -m dystyle.evaluate spaces --count {count} --paths {paths} --json
docs/benchmarks/spaces.json`: {count} random people, those of W+ with mixed rows. Labels say whether an
attribute's reading is above its median; classifiers learn from four fifths and are judged on the rest.

- disentanglement, completeness: does a coordinate tell of one attribute only, and does one coordinate tell
  all of it? (Eastwood & Williams 2018; 1 is best; by the coefficients of sparse classifiers.) They mean
  little where the informativeness is near chance
- informativeness: balanced accuracy of these classifiers, 0.5 is chance
- separability: of StyleGAN, section 4.2, over all attributes; 1 is best, two to their number is chance
- path_length: of StyleGAN, section 4.1, over {paths} pairs, with the identity network's distance: figures
  compare Z with W, not with papers
"""


@dataclass(frozen=True)
class SpacesConfig:
    """Measures of the spaces on random people.

    Attributes:
        count: people, of seeds `first_seed` on, rendered and read; the last fifth is held out.
        paths: pairs of people for the path length; epsilon: step along the path, as in StyleGAN.
    """

    count: int = 1500
    first_seed: int = 60_000
    paths: int = 200
    epsilon: float = 1e-2
    backend: str = "onnx"


@dataclass(frozen=True)
class ComponentsConfig:
    """GANSpace's components, shown and measured.

    Attributes:
        out: contact sheet: a component a row, from `-amount` to `amount` deviations.
        first, count: which components.
        rows: rows of W+ to move.
        features: the components of early features instead of W's.
        faces: random people whose readings tell how widely each attribute varies.
    """

    out: Path = Path("components.png")
    first: int = 0
    count: int = 10
    amount: float = 2.0
    rows: tuple[int, int] = (0, ROWS)
    seed: int = 0
    features: bool = False
    faces: int = 32


def dci(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018) of codes x (n, d).

    Importances are the absolute coefficients of sparse linear classifiers, one for each column of `labels`
    (n, k) bool. Informativeness is their mean balanced accuracy on the held-out last fifth.
    """
    train = len(x) * 4 // 5
    scaler = StandardScaler().fit(x[:train])
    x = scaler.transform(x)
    importance, accuracy = [], []
    for y in labels.T:
        model = LinearSVC(penalty="l1", dual=False, C=SPARSITY, class_weight="balanced", tol=1e-3)
        model.fit(x[:train], y[:train])
        importance.append(np.abs(model.coef_[0]))
        accuracy.append(balanced_accuracy_score(y[train:], model.predict(x[train:])))
    importance = np.stack(importance, 1)  # (d, k)
    used = importance[importance.sum(1) > 0]

    def evenness(share: np.ndarray) -> np.ndarray:
        """Entropy of each row, which sums to 1, with the number of its entries as base."""
        logs = np.log(np.where(share > 0, share, 1)) / np.log(share.shape[1])
        return -(share * logs).sum(1)

    disentangled = 1 - evenness(used / used.sum(1, keepdims=True))
    columns = importance[:, importance.sum(0) > 0].T
    complete = 1 - evenness(columns / columns.sum(1, keepdims=True))
    return {
        "disentanglement": float(np.average(disentangled, weights=used.sum(1))),
        "completeness": float(complete.mean()),
        "informativeness": float(np.mean(accuracy)),
    }


def separability(x: np.ndarray, labels: np.ndarray) -> float:
    """Linear separability (StyleGAN, section 4.2): exp of the summed H(label | side of the hyperplane).

    1 is perfect. Labels (n, k) bool; the hyperplanes learn from the first four fifths, the entropies (in
    nats) are of the rest.
    """
    train = len(x) * 4 // 5
    total = 0.0
    for y in labels.T:
        model = LogisticRegression(C=1e-3, max_iter=500, class_weight="balanced").fit(x[:train], y[:train])
        side, truth = model.predict(x[train:]), y[train:]
        joint = np.array([[np.mean((side == s) & (truth == t)) for t in (0, 1)] for s in (0, 1)])
        given = joint / np.maximum(joint.sum(1, keepdims=True), 1e-12)
        total -= (joint * np.log(np.where(given > 0, given, 1))).sum()
    return float(np.exp(total))


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical interpolation of z (512,) codes, on the sphere."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b, -1, 1))
    mixed = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.float32(mixed * len(a) ** 0.5)


def path_length(
    latents: Latents, editor: FaceEditor, space: str, pairs: int, epsilon: float, seed: int = 0
) -> float:
    """Perceptual path length in "z" or "w" (StyleGAN, section 4.1): E d(G(t), G(t + eps)) / eps^2.

    d is the squared distance of identity embeddings, not VGG's: figures compare Z with W, not with papers.
    """
    rng, lengths = np.random.default_rng(seed), []
    for _ in tqdm(range(pairs), desc=f"paths in {space}", mininterval=10):
        a, b = rng.standard_normal((2, 512), dtype=np.float32)
        t = rng.uniform(0, 1)
        if space == "z":
            ends = latents.map(np.stack([slerp(a, b, t), slerp(a, b, t + epsilon)]))
        else:
            start, end = latents.map(np.stack([a, b]))
            ends = np.stack([start + s * (end - start) for s in (t, t + epsilon)])
        codes = np.repeat(np.float32(ends)[:, None], 18, 1)
        x, y = (editor.embed(editor.synthesize(code, PREVIEW)) for code in codes)
        lengths.append(np.square(x - y).sum() / epsilon**2)
    return float(np.mean(lengths))


def evaluate_spaces(config: SpacesConfig) -> dict:
    """DCI and linear separability of each space, and the path length in Z and W."""
    editor, latents = FaceEditor.from_pretrained(backend=config.backend), Latents()
    rng = np.random.default_rng(config.first_seed)
    z = rng.standard_normal((config.count, 512), dtype=np.float32)
    w = latents.map(z)
    codes = np.repeat(w[:, None], 18, 1)
    # The rows of a W code are the same 18 times: only mixed codes show what W+ holds apart.
    mean_w = generator().mean_w.numpy()
    mixed = sample_codes(rng, config.count, latents.map, mean_w, psi=(1.0, 1.0))
    labels, mixed_labels = (_labels(editor, some) for some in (codes, mixed))
    result = {"count": config.count, "paths": config.paths, "epsilon": config.epsilon, "spaces": {}}
    for name, x, y in (
        ("Z", z, labels),
        ("W", w, labels),
        ("W+", mixed[:, :ROWS].reshape(len(mixed), -1), mixed_labels),
        ("S", styles(generator(), codes), labels),
    ):
        result["spaces"][name] = dci(x, y) | {"separability": separability(x, y)}
    for name in ("z", "w"):
        length = path_length(latents, editor, name, config.paths, config.epsilon)
        result["spaces"][name.upper()]["path_length"] = length
    return result


def _labels(editor: FaceEditor, codes: np.ndarray) -> np.ndarray:
    """Is each attribute's reading above its median? (n, k) bool."""
    pictures = (editor.synthesize(code, PREVIEW) for code in codes)
    read = [editor.measure(p) for p in tqdm(pictures, total=len(codes), desc="reading", mininterval=10)]
    values = np.array([list(r.values()) for r in read])
    return values > np.median(values, 0)


def table(result: dict) -> str:
    """The result as Markdown."""
    columns = ("disentanglement", "completeness", "informativeness", "separability", "path_length")
    lines = [
        HEADING.format(**result),
        f"| space | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, f in result["spaces"].items():
        cells = [f"{f[column]:.3g}" if column in f else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_components(config: ComponentsConfig) -> str:
    """Write the sheet; returns a table of what changes from `-amount` to `amount`, on the scale of [-1, 1].

    A component is named after the attribute that it changes most, in deviations among random people.
    """
    editor = FaceEditor.from_pretrained(backend="onnx")
    components = Components.load(prefix="features" if config.features else "w")
    code = editor.sample(config.seed)
    people = [editor.sample(seed) for seed in range(config.faces)]
    read = [editor.measure(editor.synthesize(person, PREVIEW)) for person in people]
    spread = {n: np.std([row.value_to_level(values[n]) for values in read]) for n, row in ATTRIBUTES.items()}
    amounts = (-config.amount, 0.0, config.amount)
    lines = [f"| component | name | {' | '.join(ATTRIBUTES)} |", "|---" * (len(ATTRIBUTES) + 2) + "|"]
    pictures, captions = [], []
    for index in range(config.first, min(config.first + config.count, len(components.basis))):
        row = [editor.synthesize(components.apply(code, index, a, config.rows), PREVIEW) for a in amounts]
        change = level_changes(editor.measure(row[0]), editor.measure(row[-1]))
        name = max(change, key=lambda key: abs(change[key]) / spread[key])
        lines.append(f"| {index} | {name} | {' | '.join(f'{c:+.2f}' for c in change.values())} |")
        pictures += row
        captions += [f"{index}: {amount:+g} ({name})" for amount in amounts]
    save_picture(tile(pictures, captions, len(amounts)), config.out)
    return "\n".join(lines)
