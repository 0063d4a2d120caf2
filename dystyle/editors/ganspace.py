"""GANSpace (Harkonen et al. 2020, arXiv 2004.02546): principal components of W, applied to some layers only.

Nobody labels anything: components are found without attributes, and named afterwards by what they do.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.editors.base import StrengthEditor
from dystyle.editors.search import Read, effect, most_selective
from dystyle.errors import InputError
from dystyle.weights import load, save

BANDS = ((0, 4), (4, 8), (8, 16), (0, 16))  # rows that a component may be applied to
ROWS = 16  # that reach the picture
STEP = 2.0  # deviations that a component is moved by to see what it does
CANDIDATES = 2  # components tried for each attribute
FARTHEST = 5.0  # deviations that a code may be moved, along all components together


@dataclass(frozen=True)
class Components:
    """Principal components of W: unit `basis` (k, 512), `deviations` (k,) along them, `mean` (512,)."""

    mean: np.ndarray
    basis: np.ndarray
    deviations: np.ndarray
    share: np.ndarray  # of all variance, (k,)

    @classmethod
    def of(cls, samples: Iterable[np.ndarray], count: int) -> "Components":
        """The first `count` of samples that come in parts (n, d), of which none is kept."""
        number, total, products = 0, np.zeros(()), np.zeros(())
        for part in samples:
            if not number:
                origin = np.float32(part.mean(0))  # near the mean, so that little is lost by rounding
            centred = part - origin
            number += len(part)
            total = total + centred.sum(0, dtype=np.float64)
            products = products + np.float64(centred.T @ centred)
        offset = total / number
        covariance = (products - number * np.outer(offset, offset)) / (number - 1)
        variances, vectors = np.linalg.eigh(covariance)
        basis = vectors.T[::-1][:count]
        # Signs mean nothing: the largest number of each is positive, whatever the library says.
        basis = basis * np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(1)])[:, None]
        first = variances[::-1][:count].clip(0)
        return cls(*map(np.float32, (origin + offset, basis, first**0.5, first / variances.sum())))

    @classmethod
    def of_features(cls, w: np.ndarray, features: np.ndarray, count: int) -> "Components":
        """Of the generator's features (n, f) at codes w (n, 512), carried over to W (section 2.2 there).

        The features' coordinates x give the codes by least squares, w = mean + x U; the rows of U are the
        directions, of unit length here. `share` is of the features' variance.
        """
        from sklearn.decomposition import PCA  # edits need no scikit-learn, which is not in requirements.txt

        pca = PCA(count, svd_solver="randomized", random_state=0).fit(features)
        x = pca.transform(features) / pca.explained_variance_**0.5
        directions = np.linalg.lstsq(x, w - w.mean(0), rcond=None)[0]
        lengths = np.linalg.norm(directions, axis=1)
        shares = pca.explained_variance_ratio_
        return cls(*map(np.float32, (w.mean(0), directions / lengths[:, None], lengths, shares)))

    @classmethod
    def load(cls, name_or_path: str = "methods/ganspace", prefix: str = "w") -> "Components":
        """Of W ("w") or of early features ("features"), as `tensors` named them."""
        tensors, _ = load(name_or_path)
        fields = ("mean", "basis", "deviations", "share")
        return cls(*(np.float32(tensors[f"{prefix}_{field}"]) for field in fields))

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """What to save."""
        named = {name: getattr(self, name) for name in ("mean", "basis", "deviations", "share")}
        return {f"{prefix}_{name}": value.astype(np.float16) for name, value in named.items()}

    def apply(self, code: np.ndarray, index: int, amount: float, rows: tuple[int, int] = (0, ROWS)):
        """Move rows `rows` of a code (18, 512) along component `index`, `amount` in its deviations."""
        moved = np.array(code, np.float32)
        moved[slice(*rows)] += np.float32(amount * self.deviations[index]) * self.basis[index]
        return moved


def explained(
    w: np.ndarray, values: Mapping[str, np.ndarray], components: Components, counts: tuple[int, ...]
) -> dict[str, dict[int, float]]:
    """Share of the linearly predictable variance of each attribute's level that the first components hold.

    Ridge regressions from codes (n, 512) and from their coordinates, both read on the held-out last fifth.
    """
    from sklearn.linear_model import Ridge

    train = len(w) * 4 // 5
    x = (w - components.mean) @ components.basis.T / components.deviations
    full = (w - w.mean(0)) / w.std(0)

    def score(inputs: np.ndarray, levels: np.ndarray) -> float:
        model = Ridge(alpha=300.0).fit(inputs[:train], levels[:train])
        return max(0.0, model.score(inputs[train:], levels[train:]))

    result = {}
    for name, value in values.items():
        levels = ATTRIBUTES[name].value_to_level(value)
        everything = max(score(full, levels), 1e-6)
        result[name] = {count: score(x[:, :count], levels) / everything for count in counts}
    return result


def candidates(
    w: np.ndarray, values: Mapping[str, np.ndarray], components: Components
) -> dict[str, list[tuple[int, int]]]:
    """Components that go with each attribute's readings, the most correlated first: (index, sign)."""
    x = (w - components.mean) @ components.basis.T / components.deviations
    result = {}
    for name, value in values.items():
        levels = ATTRIBUTES[name].value_to_level(value)
        r = (x - x.mean(0)).T @ (levels - levels.mean()) / (len(x) * x.std(0) * levels.std() + 1e-12)
        result[name] = [(int(i), int(np.sign(r[i]))) for i in np.argsort(-np.abs(r))[:CANDIDATES]]
    return result


class GanSpaceEditor(StrengthEditor):
    """One component on some rows for each attribute; strengths are in the components' deviations.

    Args:
        chosen: by attribute the component, its sign, the first row that it moves, and the row after the last.
        slopes: change of the attribute's level per deviation, (n,).
    """

    farthest = FARTHEST

    def __init__(
        self, components: Components, chosen: Mapping[str, tuple[int, int, int, int]], slopes: np.ndarray
    ) -> None:
        self.names, self.chosen = tuple(chosen), dict(chosen)
        self.components, self.slopes = components, slopes

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        def move(strengths: np.ndarray) -> np.ndarray:
            bounded = strengths * min(1, FARTHEST / max(np.linalg.norm(strengths), 1e-9))
            moved = np.array(code, np.float32)
            for name, strength in zip(names, bounded, strict=True):
                index, sign, *rows = self.chosen[name]
                moved = self.components.apply(moved, index, sign * strength, (rows[0], rows[1]))
            return moved

        return move

    def save(self, path: Path, features: Components) -> None:
        """Write safetensors, with the components of early features, too."""
        tensors = {"slopes": np.float32(self.slopes), "chosen": np.int32(list(self.chosen.values()))}
        tensors |= self.components.tensors("w") | features.tensors("features")
        save(path, tensors, format="ganspace", names=" ".join(self.names))

    @classmethod
    def load(cls, name_or_path: str = "methods/ganspace") -> "GanSpaceEditor":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "ganspace":
            raise InputError(f"'{name_or_path}' does not hold components.")
        named = zip(metadata["names"].split(), map(tuple, tensors["chosen"].tolist()), strict=True)
        return cls(Components.load(name_or_path), dict(named), tensors["slopes"])

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "GanSpaceEditor":
        return cls.load(weights)


def name_components(
    found: Mapping[str, list[tuple[int, int]]],
    components: Components,
    codes: list[np.ndarray],
    read: Read,
) -> tuple[GanSpaceEditor, dict[str, dict[str, float]]]:
    """For each attribute the component and band of rows that change it most for what else they change.

    Returns:
        The editor that follows them, and by attribute the changes of all levels for `STEP` deviations.
    """
    before = [read(code) for code in codes]
    chosen, slopes, report = {}, [], {}
    for name, options in found.items():
        tried = [(index, sign, *rows) for index, sign in options for rows in BANDS]
        effects = []
        for index, sign, *rows in tried:

            def move(code: np.ndarray, side: float, i=index, s=sign, r=rows) -> np.ndarray:
                return components.apply(code, i, side * s * STEP, r)

            effects.append(effect(name, move, codes, before, read))
        best = most_selective(name, effects)
        chosen[name], report[name] = tried[best], effects[best]
        slopes.append(max(report[name][name], 1e-3) / STEP)
    return GanSpaceEditor(components, chosen, np.float32(slopes)), report
