"""What every editing method is: attribute names, and an edit of one code."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dystyle.backend import Backend
from dystyle.editors.search import Read, search
from dystyle.errors import InputError


class StyledCode(np.ndarray):
    """A code (18, 512) with offsets of the generator's styles (S), as single-channel edits make them.

    Attributes:
        styles: offsets by the name of the affine layer whose output they are added to, float32.
    """

    styles: Mapping[str, np.ndarray]

    def __new__(cls, code: np.ndarray, styles: Mapping[str, np.ndarray]) -> "StyledCode":
        """Offsets `styles` on top of those that the code has."""
        known = styles_of(code)
        styled = np.array(code, np.float32).view(cls)
        styled.styles = {**known, **{name: known.get(name, 0) + offset for name, offset in styles.items()}}
        return styled

    def __array_finalize__(self, source: np.ndarray | None) -> None:
        self.styles = getattr(source, "styles", {})


def styles_of(code: np.ndarray) -> Mapping[str, np.ndarray]:
    """The style offsets that a code carries; plain arrays carry none."""
    return getattr(code, "styles", {})


class EditedCode(np.ndarray):
    """A code (18, 512) that remembers what it was, and what it was edited to since.

    Attributes:
        origin: (18, 512), before the first edit. targets: asked for last, by attribute. steps: the edits, one
            after the other: the code (18, 512) before each, its targets, and the code after; without those of
            methods that look at pictures, which know how far to go. result: (18, 512), the values that this
            is true of: what is computed from them is another code.
    """

    origin: np.ndarray | None
    targets: Mapping[str, float]
    steps: tuple[tuple[np.ndarray, Mapping[str, float], np.ndarray], ...]
    result: np.ndarray | None

    def __new__(
        cls, code: np.ndarray, before: np.ndarray, targets: Mapping[str, float], looked: bool = False
    ) -> "EditedCode":
        """`code` is `before`, edited to `targets` by a method that has `looked` at pictures or not."""
        edited = np.array(code, np.float32).view(cls)
        followed = isinstance(before, cls) and np.array_equal(before, before.result)
        edited.origin = before.origin if followed else np.array(before)
        edited.targets = {**(before.targets if followed else {}), **targets}
        step = () if looked else ((np.array(before), targets, np.array(edited)),)
        edited.steps = (before.steps if followed else ()) + step
        edited.result = np.array(edited)
        return edited

    def __array_finalize__(self, source: np.ndarray | None) -> None:
        self.origin, self.result = getattr(source, "origin", None), getattr(source, "result", None)
        self.targets, self.steps = getattr(source, "targets", {}), getattr(source, "steps", ())


def edits_since(origin: np.ndarray, code: np.ndarray) -> EditedCode | None:
    """The code (18, 512) itself, if edits are known to have led to it from `origin`."""
    known = isinstance(code, EditedCode) and np.array_equal(code, code.result)
    return code if known and np.array_equal(origin, code.origin) else None


class Editor(ABC):
    """An editing method.

    Attributes:
        names: the attributes it can change.
        title: what to call it.
        searches: whether it looks at pictures while it edits, and so knows how far to go.
    """

    names: tuple[str, ...]
    title: str
    searches: bool = True

    @classmethod
    @abstractmethod
    def open(cls, weights: str, backend: Backend) -> "Editor":
        """The method with weights of this name; `backend` runs engines, for methods that have them.

        Raises:
            InputError: the weights are missing, damaged, or of another method.
        """

    @abstractmethod
    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        """Edit a code (18, 512).

        Args:
            configuration: target values in the attributes' units, by name; at least one.
            read: code -> readings of its picture, for methods that look at what they do.
        """

    def condition_on(self, names: Sequence[str]) -> "Editor":
        """The same method, whose edits keep these of its attributes and let all others go along.

        Shen et al. 2020 (InterFaceGAN), section 3.3.

        Raises:
            InputError: it does not project directions.
        """
        raise InputError(f"{self.title} keeps what it keeps; only InterFaceGAN conditions on attributes.")

    def attention(self, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        """What each active expert (second axis) takes from each (third): (rows, n, n); arguments as `edit`.

        Raises:
            InputError: the method has no experts.
        """
        raise InputError("Only DyStyle has experts that attend to one another; choose method='dystyle'.")


class StrengthEditor(Editor):
    """A method with a strength for each attribute; the shared search finds those that reach the targets.

    Attributes:
        slopes: change of an attribute's `level` per unit of its strength, (n,), as a first guess.
        farthest: bound of every strength.
    """

    slopes: np.ndarray
    farthest: float

    @abstractmethod
    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        """A function from strengths (len(names),) to edited codes; strengths 0 leave the code as it is."""

    def edit(self, code: np.ndarray, configuration: Mapping[str, float], read: Read) -> np.ndarray:
        names = tuple(configuration)
        slopes = self.slopes[[self.names.index(name) for name in names]]
        return search(self.mover(code, names, read), configuration, read, slopes, self.farthest)
