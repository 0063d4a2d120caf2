"""GANSpace's components: what they do, whether they are independent, and have one peak each."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import gaussian_kde, rankdata

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.ganspace import ROWS, Components
from dystyle.editors.interfacegan import Latents
from dystyle.editors.search import level_changes
from dystyle.evaluation.sheets import tile
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor

PREVIEW = 256
BINS = 16  # of each of two ranks, for their mutual information
PLACES, LOW = 400, 0.02  # where a density is looked at; peaks below this share of the highest are none


@dataclass(frozen=True)
class ComponentsConfig:
    """GANSpace's components, shown and measured.

    Attributes:
        out: contact sheet: components in rows, from `-amount` to `amount` deviations each.
        size: of one picture, in pixels; of less than 256, the captions are numbers alone.
        across: components beside each other.
        first, count: which components.
        rows: rows of W+ to move.
        features: the components of early features instead of W's.
        random: directions drawn at random instead, each as far as the component of its number: the baseline.
        faces: random people whose readings tell how widely each attribute varies.
        samples: random codes, by which components are judged to be independent and to have one peak.
    """

    out: Path = Path("components.png")
    first: int = 0
    count: int = 10
    size: int = PREVIEW
    across: int = 1
    amount: float = 2.0
    rows: tuple[int, int] = (0, ROWS)
    seed: int = 0
    features: bool = False
    random: bool = False
    faces: int = 32
    samples: int = 100_000


def peaks(x: np.ndarray) -> int:
    """How many peaks the distribution of numbers (n,) has, by a kernel density (Silverman's bandwidth)."""
    places = np.linspace(*np.quantile(x, (0.001, 0.999)), PLACES)
    density = gaussian_kde(x, "silverman")(places)
    inner = density[1:-1]
    high = (inner > density[:-2]) & (inner >= density[2:]) & (inner > LOW * density.max())
    return int(high.sum())


def dependence(x: np.ndarray) -> np.ndarray:
    """Mutual information, in nats, of every two columns of x (n, k): (k, k), 0 where they are independent.

    Of their ranks in `BINS` equal parts each, less what chance gives (Miller 1955); the diagonal is 0.
    """
    count, width = x.shape
    bins = (rankdata(x, axis=0) - 1).astype(np.int64) * BINS // count
    result = np.zeros((width, width))
    for first in range(width):
        for second in range(first):
            joint = np.bincount(bins[:, first] * BINS + bins[:, second], minlength=BINS**2) / count
            shared = (joint * np.log(np.where(joint > 0, joint, 1) * BINS**2)).sum()
            result[first, second] = result[second, first] = max(shared - (BINS - 1) ** 2 / (2 * count), 0)
    return result


def drawn_at_random(components: Components, seed: int = 0) -> Components:
    """As many directions of unit length, each with the deviation of the component of its number."""
    basis = np.random.default_rng(seed).standard_normal(components.basis.shape).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    return Components(components.mean, basis, components.deviations, components.share)


def show_components(config: ComponentsConfig) -> str:
    """Write the sheet; returns a table of what changes from `-amount` to `amount`, on the scale of [-1, 1],
    and of the components' independence and peaks.

    A component is named after the attribute that it changes most, in deviations among random people.
    """
    editor = FaceEditor.from_pretrained(backend="onnx")
    components = Components.load(prefix="features" if config.features else "w")
    if config.random:
        components = drawn_at_random(components, config.seed)
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
        pictures += [cv2.resize(picture, (config.size,) * 2, interpolation=cv2.INTER_AREA) for picture in row]
        small = config.size < PREVIEW
        captions += [str(index) if small else f"{index}: {amount:+g} ({name})" for amount in amounts]
    save_picture(tile(pictures, captions, len(amounts) * config.across), config.out)
    return "\n".join((*lines, "", _shape(components, config)))


def _shape(components: Components, config: ComponentsConfig) -> str:
    """In one sentence, whether the shown components are independent, and have one peak each."""
    z = np.random.default_rng(config.seed).standard_normal((config.samples, 512), dtype=np.float32)
    basis = components.basis[config.first : config.first + config.count]
    x = (Latents().map(z) - components.mean) @ basis.T
    shared, pairs = dependence(x), len(basis) * (len(basis) - 1)
    one = sum(peaks(column[:10_000]) == 1 for column in x.T)
    return (
        f"{one} of {len(basis)} have a single peak. Two share {shared.sum() / pairs:.4f} nats of mutual "
        f"information on average, {shared.max():.4f} at most ({config.samples} codes)."
    )
