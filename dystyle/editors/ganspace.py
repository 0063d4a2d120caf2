"""GANSpace (Harkonen et al. 2020, arXiv 2004.02546): principal components of W, applied to some layers only.

Nobody labels anything: components are found without attributes, and named afterwards by what they do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.linear import LinearEditor
from dystyle.editors.search import Read, effect, most_selective
from dystyle.weights import load

BANDS = ((0, 4), (4, 8), (8, 16), (0, 16))  # rows that a component may be applied to
ROWS = 16  # that reach the picture
STEP = 2.0  # deviations that a component is moved by to see what it does
CANDIDATES = 2  # components tried for each attribute


@dataclass(frozen=True)
class Components:
    """Principal components of W: unit `basis` (k, 512), `deviations` (k,) along them, `mean` (512,)."""

    mean: np.ndarray
    basis: np.ndarray
    deviations: np.ndarray
    share: np.ndarray  # of all variance, (k,)

    @classmethod
    def of(cls, w: np.ndarray, count: int) -> "Components":
        """Of samples w (n, d)."""
        pca = PCA(count, svd_solver="covariance_eigh").fit(w)
        arrays = (pca.mean_, pca.components_, pca.explained_variance_**0.5, pca.explained_variance_ratio_)
        return cls(*map(np.float32, arrays))

    @classmethod
    def of_features(cls, w: np.ndarray, features: np.ndarray, count: int) -> "Components":
        """Of the generator's features (n, f) at codes w (n, 512), carried over to W (section 2.2 there).

        The features' coordinates x give the codes by least squares, w = mean + x U; the rows of U are the
        directions, of unit length here. `share` is of the features' variance.
        """
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
) -> dict[str, list[tuple[int, float]]]:
    """Components that go with each attribute's readings, the most correlated first: (index, sign)."""
    x = (w - components.mean) @ components.basis.T / components.deviations
    result = {}
    for name, value in values.items():
        levels = ATTRIBUTES[name].value_to_level(value)
        r = (x - x.mean(0)).T @ (levels - levels.mean()) / (len(x) * x.std(0) * levels.std() + 1e-12)
        result[name] = [(int(i), float(np.sign(r[i]))) for i in np.argsort(-np.abs(r))[:CANDIDATES]]
    return result


def name_components(
    found: Mapping[str, list[tuple[int, float]]],
    components: Components,
    codes: list[np.ndarray],
    read: Read,
    std_w: np.ndarray,
) -> tuple[LinearEditor, dict[str, dict]]:
    """For each attribute the component and band of rows that change it most for what else they change.

    Returns:
        The editor that follows them, and by attribute "component", "sign", "rows" and "effect", the changes
        of all levels for `STEP` deviations.
    """
    before = [read(code) for code in codes]
    directions, slopes, chosen = [], [], {}
    for name, options in found.items():
        tried, effects = [], []
        for index, sign in options:
            for rows in BANDS:

                def move(code: np.ndarray, side: float, i=index, s=sign, r=rows) -> np.ndarray:
                    return components.apply(code, i, side * s * STEP, r)

                tried.append((index, sign, rows))
                effects.append(effect(name, move, codes, before, read))
        best = most_selective(name, effects)
        (index, sign, rows), changes = tried[best], effects[best]
        chosen[name] = {"component": index, "sign": sign, "rows": rows, "effect": changes}
        direction = np.zeros((ROWS, len(std_w)), np.float32)
        direction[slice(*rows)] = sign * components.basis[index] / std_w
        length = np.linalg.norm(direction)
        directions.append(direction.ravel() / length)
        # `STEP` deviations are `length` times that in the direction's own unit.
        slopes.append(max(changes[name], 1e-3) / (STEP * components.deviations[index] * length))
    arrays = (np.float32(directions), np.float32(slopes), np.float32(std_w))
    return LinearEditor(tuple(found), *arrays, conditional=False), chosen


def save_ganspace(path: Path, editor: LinearEditor, w: Components, features: Components) -> None:
    """Write the editor with the components of both kinds."""
    editor.save(path, **w.tensors("w"), **features.tensors("features"))
