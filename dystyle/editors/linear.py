"""Directions: a code is edited by adding vectors, one for each attribute. Only the fits differ.

`normal_svm` is InterFaceGAN's (Shen et al. 2020, arXiv 1907.10786): the normal of the hyperplane that
separates an attribute's classes. Several are edited with conditional projection (section 3.3 there): from
each direction everything that points along another attribute's is taken away. `normal_mean` and
`normal_logistic` are older practice: the mean of code differences over label differences, and logistic
regression on labelled codes; in W+ it has a direction for every row, as StyleGAN-Encoder's (18, 512) do.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.editors.base import StrengthEditor
from dystyle.editors.search import Read
from dystyle.errors import InputError
from dystyle.weights import load, save

EXTREME = 0.15  # share of the faces at either end that stand for a class
SOFTNESS = 1e-3  # C of the support vector machines, by held-out accuracy; lower ones entangle the normals
CURVE_C = 1e-2  # of logistic regression on few hand labels
FARTHEST = 20.0  # a direction is followed at most so far, in units of W's deviation, in every row
PAIRS = 20_000

# Edits need no scikit-learn, which is not in requirements.txt: the fits import it.
Normal = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Codes (n, d) and one attribute's levels (n,) -> direction (d,) of any length."""


def extremes(values: np.ndarray, share: float = EXTREME) -> tuple[np.ndarray, np.ndarray]:
    """Indices of this share of the faces at either end, and which of them are at the upper end, (m,) bool."""
    order = np.argsort(values, kind="stable")
    count = max(2, int(len(order) * share))
    return np.concatenate((order[:count], order[-count:])), np.arange(2 * count) >= count


def normal_svm(x: np.ndarray, levels: np.ndarray, share: float = EXTREME) -> np.ndarray:
    """The normal of the hyperplane that separates this share of the faces at either end."""
    from sklearn.svm import LinearSVC

    ends, upper = extremes(levels, share)
    return LinearSVC(C=SOFTNESS, dual="auto").fit(x[ends], upper).coef_[0]


def boundary_accuracy(x: np.ndarray, levels: np.ndarray, share: float = EXTREME) -> tuple[float, float]:
    """How often such a hyperplane is right of faces that it has not seen: those at the ends, and all others.

    As InterFaceGAN's table 1: seven tenths of the ends are learnt from, the rest are held out; all other
    faces are above or below their median.

    Args:
        x: (n, d) codes in units of their deviation. levels: (n,) of an attribute.
    """
    from sklearn.svm import LinearSVC

    ends, upper = extremes(levels, share)
    shuffled = np.random.default_rng(0).permutation(len(ends))
    learnt, held = np.split(shuffled, [len(ends) * 7 // 10])
    model = LinearSVC(C=SOFTNESS, dual="auto").fit(x[ends[learnt]], upper[learnt])
    others = np.setdiff1d(np.arange(len(x)), ends)
    above = levels[others] > np.median(levels)
    return model.score(x[ends[held]], upper[held]), model.score(x[others], above)


def normal_mean(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Mean over random pairs of the codes' difference over the labels' difference.

    Pairs whose labels hardly differ say nothing and are left out.
    """
    first, second = np.random.default_rng(0).integers(len(x), size=(2, PAIRS))
    difference = levels[first] - levels[second]
    differ = np.abs(difference) > levels.std()
    weights = np.zeros(len(x))
    np.add.at(weights, first[differ], 1 / difference[differ])
    np.add.at(weights, second[differ], -1 / difference[differ])
    return weights @ x / differ.sum()


def normal_logistic(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Logistic regression on two classes: labels where there are but two, else the faces at either end."""
    from sklearn.linear_model import LogisticRegression

    ends, upper = extremes(levels)
    if len(np.unique(levels)) == 2:
        ends, upper = np.arange(len(x)), levels > levels.mean()
    return LogisticRegression(C=SOFTNESS, max_iter=500).fit(x[ends], upper).coef_[0]


def label_line(
    x: np.ndarray, labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray
) -> tuple[np.ndarray, dict[str, float], float]:
    """The line on which several labels lie apart best: the first discriminant (Fisher 1936).

    Args:
        x: (n, d) codes in units of their deviation. labels: (n,), of each. held, held_labels: likewise, of
            codes that are not learnt from.

    Returns:
        Its direction, (d,) of length 1; by label, where those held out lie on it, in deviations within a
        label; which share of the pairs of codes held out with different labels lie in the order of these.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=1).fit(x, labels)
    direction = model.scalings_[:, 0] / np.linalg.norm(model.scalings_[:, 0])
    places = held @ direction
    means = {str(label): places[held_labels == label].mean() for label in np.unique(held_labels)}
    own = np.array([means[str(label)] for label in held_labels])
    spread = (places - own).std()
    differ = own[:, None] < own
    ordered = (places[:, None] < places)[differ].mean()
    return direction, {label: float(mean / spread) for label, mean in means.items()}, float(ordered)


NORMALS: dict[str, Normal] = {"svm": normal_svm, "mean": normal_mean, "logistic": normal_logistic}


class LinearEditor(StrengthEditor):
    """Directions (n, d) of W, d = 512, or of the first rows of W+, d = rows * 512.

    Strengths count per row, as the root mean square, so that they mean the same in W and in W+.

    Args:
        directions: of unit length in codes divided by their deviation `std_w` (512,).
        slopes: change of the attribute's `level` per unit length along its own direction, (n,).
        conditional: are directions projected away from those of other attributes?

    Attributes:
        kept: those others, all unless `condition_on` says otherwise.
    """

    farthest = FARTHEST

    def __init__(
        self,
        names: Sequence[str],
        directions: np.ndarray,
        slopes: np.ndarray,
        std_w: np.ndarray,
        conditional: bool = True,
    ) -> None:
        self.names, self.directions, self.std_w = tuple(names), directions, std_w
        self.kept = self.names
        self.unit = (directions.shape[1] / len(std_w)) ** 0.5
        self.slopes, self.conditional = slopes * self.unit, conditional

    @classmethod
    def fit(
        cls,
        codes: np.ndarray,
        values: Mapping[str, np.ndarray],
        std_w: np.ndarray,
        normal: Normal = normal_svm,
        conditional: bool = True,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> "LinearEditor":
        """Fit to codes (n, d) and the readings (n,) of their faces, in the table's units.

        Args:
            given: directions (d,) of some attributes, in codes divided by `std_w`, that are known already.
        """
        x = (codes.reshape(len(codes), -1, len(std_w)) / std_w).reshape(len(codes), -1)
        directions, slopes = [], []
        for name, value in values.items():
            levels = ATTRIBUTES[name].value_to_level(value)
            direction = given[name] if given and name in given else normal(x, levels)
            direction = direction / np.linalg.norm(direction)
            directions.append(direction)
            slopes.append(np.polyfit(x @ direction, levels, 1)[0])
        return cls(tuple(values), np.float32(directions), np.float32(slopes), np.float32(std_w), conditional)

    def save(self, path: Path, **more: np.ndarray) -> None:
        """Write safetensors; `more` are tensors of the method's own."""
        wide = self.directions.shape[1] > len(self.std_w)
        directions = self.directions.astype(np.float16 if wide else np.float32)
        slopes = np.float32(self.slopes / self.unit)
        tensors = {"directions": directions, "slopes": slopes, "std_w": self.std_w, **more}
        conditional = "yes" if self.conditional else "no"
        save(path, tensors, format="linear", names=" ".join(self.names), conditional=conditional)

    @classmethod
    def load(cls, name_or_path: str = "methods/w") -> "LinearEditor":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "linear":
            raise InputError(f"'{name_or_path}' does not hold directions.")
        arrays = [np.float32(tensors[key]) for key in ("directions", "slopes", "std_w")]
        return cls(metadata["names"].split(), *arrays, conditional=metadata.get("conditional") != "no")

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "LinearEditor":
        return cls.load(weights)

    def only(self, names: Sequence[str]) -> "LinearEditor":
        """The editor of some of its attributes: directions are no longer projected away from the others'.

        Raises:
            InputError: it has no direction for one of them.
        """
        if unknown := set(names) - set(self.names):
            raise InputError(
                f"There is no direction for '{min(unknown)}'; run `python -m dystyle.train interfacegan`."
            )
        index = [self.names.index(name) for name in names]
        slopes = self.slopes[index] / self.unit
        return LinearEditor(names, self.directions[index], slopes, self.std_w, self.conditional)

    def condition_on(self, names: Sequence[str]) -> "LinearEditor":
        if not self.conditional:
            return super().condition_on(names)
        other = copy.copy(self)
        other.kept = tuple(names)
        return other

    def projected(self, name: str) -> np.ndarray:
        """The attribute's direction without what points along those to be kept, of length 1, (d,)."""
        index = self.names.index(name)
        others = self.directions[[self.names.index(kept) for kept in self.kept if kept != name]]
        basis = np.linalg.qr(others.T)[0]
        direction = self.directions[index] - basis @ (basis.T @ self.directions[index])
        return direction / np.linalg.norm(direction)

    def chosen(self, names: Sequence[str]) -> np.ndarray:
        """The directions to follow for these attributes, (len(names), d)."""
        if self.conditional:
            return np.stack([self.projected(name) for name in names])
        return self.directions[[self.names.index(name) for name in names]]

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        directions = self.chosen(names)

        def move(strengths: np.ndarray) -> np.ndarray:
            offset = (strengths * self.unit @ directions).reshape(-1, len(self.std_w)) * self.std_w
            moved = np.array(code, np.float32)
            rows = len(moved) if len(offset) == 1 else len(offset)
            moved[:rows] += offset.astype(np.float32)
            return moved

        return move


def accuracy_curve(
    x: np.ndarray, labels: np.ndarray, counts: Sequence[int], repeats: int = 5
) -> dict[int, tuple[float, float]]:
    """Accuracy and balanced accuracy of logistic regression over the number of labels it learnt from.

    Args:
        x: (n, d) codes in units of their deviation; labels: (n,) bool. The last fifth is held out.
        counts: numbers of labels; each mean is over `repeats` random draws.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    train = len(x) * 4 // 5
    result = {}
    for count in counts:
        scores = []
        for seed in range(repeats):
            chosen = np.random.default_rng(seed).permutation(train)[:count]
            predicted = np.full(len(x) - train, labels[chosen[0]])
            if len(np.unique(labels[chosen])) == 2:  # else there is nothing to learn from
                model = LogisticRegression(C=CURVE_C, class_weight="balanced", max_iter=500)
                predicted = model.fit(x[chosen], labels[chosen]).predict(x[train:])
            truth = labels[train:]
            scores.append((accuracy_score(truth, predicted), balanced_accuracy_score(truth, predicted)))
        result[int(count)] = tuple(np.mean(scores, 0).tolist())
    return result
