"""What the page remembers about one visitor: the person being edited and the values the sliders start at."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dystyle.attributes import Attribute

if TYPE_CHECKING:
    from dystyle import FaceEditor

SCREEN = 1280  # pixels of a whole photo's longer side on the page; the download keeps the photo's own size
PREVIEW, FULL = 256, 1024  # sides of the portrait while a slider moves and after its release


def step(attribute: Attribute) -> float:
    """The slider's step, in the attribute's unit: a whole degree or year, a hundredth of a probability."""
    return 1 if attribute.high - attribute.low > 10 else 0.01


@dataclass
class Visit:
    """One person on the page. Photos stay in memory and go with the visit.

    Attributes:
        code: (18, 512) float32, unedited.
        before: uint8 (1024, 1024, 3), what edits are compared with: the photo's portrait, or the
            unedited picture of a random person.
        unedited: uint8 (1024, 1024, 3), the picture of `code`.
        start: the measured values of `unedited`, on the sliders' steps.
        face, photo, path, index: what `FaceEditor.invert` returned, the photo as uint8 (H, W, 3), the
            file it came from and which of its faces this is; unset for a random person.
        seed: the random person's seed; unset for a photo.
        drawn: the slider values and view of the full-size picture on the page, if it is one.
    """

    code: np.ndarray
    before: np.ndarray
    unedited: np.ndarray
    start: dict[str, float]
    face: Any = None
    photo: np.ndarray | None = None
    path: str | None = None
    index: int = 0
    seed: int | None = None
    drawn: tuple | None = field(default=None, repr=False)

    @classmethod
    def of_photo(
        cls,
        editor: "FaceEditor",
        photo: np.ndarray,
        path: str,
        refine: str,
        index: int = 0,
        progress: Callable[[float, str], None] | None = None,
    ) -> "Visit":
        """Find the code of face number `index` in a photo, uint8 (H, W, 3), that was read from `path`.

        Raises:
            InputError: the photo shows no such face.
        """
        face = editor.invert(photo, refine=refine, index=index, progress=progress)
        unedited = editor.synthesize(face.code, size=FULL, face=face)
        start = _starting_values(editor, unedited)
        return cls(face.code, face.portrait, unedited, start, face, photo, path, index)

    @classmethod
    def of_seed(cls, editor: "FaceEditor", seed: int) -> "Visit":
        """Meet the random person number `seed`."""
        code = editor.sample(seed)
        portrait = editor.synthesize(code, size=FULL)
        return cls(code, portrait, portrait, _starting_values(editor, portrait), seed=seed)

    def configuration(self, editor: "FaceEditor", values: Sequence[float | None]) -> dict[str, float]:
        """The attributes whose sliders were moved, with their target values.

        Args:
            values: one value per row of `editor.attributes`. A half-typed number can be missing, then the
                attribute counts as not moved, or out of range, then the nearest allowed one is taken.
        """
        targets = {
            name: min(max(value, row.low), row.high)
            for (name, row), value in zip(editor.attributes.items(), values, strict=True)
            if value is not None
        }
        return {name: value for name, value in targets.items() if abs(value - self.start[name]) > 1e-6}

    def portrait(
        self, editor: "FaceEditor", configuration: Mapping[str, float], size: int = FULL
    ) -> np.ndarray:
        """The edited portrait, uint8 (size, size, 3)."""
        if not configuration and size == FULL:
            return self.unedited
        return editor.synthesize(editor.edit(self.code, configuration), size=size, face=self.face)

    def whole(self, editor: "FaceEditor", portrait: np.ndarray) -> np.ndarray:
        """The photo with `portrait` in its place, in the photo's own size."""
        return editor.paste(portrait, self.face, self.photo)

    def on_screen(self, editor: "FaceEditor", portrait: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The photo and `whole`, both at the page's size: fast enough to follow a moving slider."""
        scale = min(1.0, SCREEN / max(self.photo.shape[:2]))
        photo = cv2.resize(self.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return photo, editor.paste(portrait, replace(self.face, quad=self.face.quad * scale), photo)


def _starting_values(editor: "FaceEditor", portrait: np.ndarray) -> dict[str, float]:
    measured = editor.measure(portrait)
    return {name: _on_slider(measured[name], row) for name, row in editor.attributes.items()}


def _on_slider(value: float, attribute: Attribute) -> float:
    """The nearest value a slider can show; the middle where nothing could be measured."""
    if not math.isfinite(value):
        value = attribute.denormalise(0.0)
    value = min(max(value, attribute.low), attribute.high)
    return round(round(value / step(attribute)) * step(attribute), 2)
