"""What the page remembers about one visitor: whom they edit, where the sliders start, the history."""

import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from dystyle.attributes import Attribute
from dystyle.errors import InputError
from dystyle.faces import REFINE, InvertedFace, fingerprint
from dystyle.memory import return_freed_memory
from dystyle.pictures import load_image, open_picture

if TYPE_CHECKING:
    from dystyle import FaceEditor
    from dystyle.alignment import Face

SCREEN = 1280  # pixels of a whole photo's longer side on the page; the download keeps the photo's own size
PREVIEW, FULL = 256, 1024  # sides of the portrait while a slider moves and after its release
THUMBNAIL = 96
LARGE = 16_000_000  # pixels of a photo: of larger ones, one at a time is worked on
LONGEST_HISTORY = 30
LONGEST_EDIT = 10_000  # characters of an edit as text
LARGEST_SEED = 2**31 - 1
LONGEST_NAME = 40  # of an attribute
SHORT = 16  # digits of a photo's fingerprint that tell it from others
MOST_PEOPLE = 16  # of one photo, who are edited at the same time: each takes ten megabytes


Read = TypeVar("Read")
_DECODING, _LARGE = threading.Lock(), threading.Lock()


@dataclass
class Step:
    """An entry of the history: the sliders' values, and a small picture, uint8 (96, 96, 3), once drawn."""

    values: dict[str, float]
    picture: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Recipe:
    """An edit as people pass it on: whom it edits and the attributes' target values.

    Attributes:
        edits: attribute -> target value.
        seed: of a random person.
        photo: the first 16 hexadecimal digits of the photo's `fingerprint`.
        face, quality: which face of the photo, and how it was inverted.
    """

    edits: dict[str, float]
    seed: int | None = None
    photo: str | None = None
    face: int = 0
    quality: str = "fast"

    def to_object(self) -> dict:
        """What `to_json` writes; what does not apply is left out."""
        whom: dict = {"seed": self.seed}
        if self.photo is not None:
            whom = {"photo": self.photo, "face": self.face, "quality": self.quality}
        return {"dystyle": 1, **whom, "edits": self.edits}

    def to_json(self) -> str:
        """A small JSON object."""
        return json.dumps(self.to_object(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote.

        Raises:
            InputError: it is not such an object, or too long. Attributes and values are not checked.
        """
        try:
            if len(text) > LONGEST_EDIT:
                raise ValueError
            read = json.loads(text)
            seed, photo = read.get("seed"), read.get("photo")
            edits = {str(name): float(value) for name, value in read["edits"].items()}
            if photo is None:
                recipe = cls(edits, seed=int(seed))
            else:
                recipe = cls(edits, None, str(photo), int(read["face"]), str(read["quality"]))
            named = all(len(name) <= LONGEST_NAME for name in edits)
            finite = all(map(math.isfinite, edits.values()))
            whose = (seed is None) != (photo is None) and 0 <= (recipe.seed or 0) <= LARGEST_SEED
            how = recipe.face >= 0 and recipe.quality in REFINE
            if not (read["dystyle"] == 1 and named and finite and whose and how):
                raise ValueError
            return recipe
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise InputError(
                "This is not an edit of this page; copy it again as a link or as JSON."
            ) from None


@dataclass(frozen=True)
class Photo:
    """A visitor's photo, held as the bytes of its file: decoded, it would be many times as large.

    Attributes:
        file: the picture file's contents.
        screen: the photo at the page's size, uint8 (h, w, 3), both sides at most `SCREEN`.
        scale: of `screen`, in the photo's size.
        id: the first 16 digits of its `fingerprint`.
        faces: that were found in it, the largest first.
    """

    file: bytes = field(repr=False)
    screen: np.ndarray = field(repr=False)
    scale: float
    id: str
    faces: "tuple[Face, ...]" = field(default=(), repr=False)

    @classmethod
    def of(cls, file: bytes, pixels: np.ndarray, faces: "Sequence[Face]" = ()) -> "Photo":
        """The photo in a file whose pixels are uint8 (H, W, 3)."""
        scale = min(1.0, SCREEN / max(pixels.shape[:2]))
        screen = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return cls(file, screen, scale, fingerprint(pixels)[:SHORT], tuple(faces))

    def boxes(self) -> list[list[float]]:
        """Left, top, width and height of all faces, in percent of the photo."""
        height, width = self.screen.shape[:2]
        share = 100 * self.scale / np.array([width, height, width, height])
        return [
            [round(float(v), 2) for v in np.array([x0, y0, x1 - x0, y1 - y0]) * share]
            for x0, y0, x1, y1 in (face.box for face in self.faces)
        ]


@dataclass
class Visit:
    """One person on the page. Photos stay in memory and go with the visit.

    Attributes:
        code: (18, 512) float32, unedited.
        before: uint8 (1024, 1024, 3), what edits are compared with: the photo's portrait, or the
            unedited picture of a random person.
        unedited: uint8 (1024, 1024, 3), what is shown without an edit: the picture of `code`, or of a face
            that keeps the photo's own pixels its portrait.
        start: the measured values of the picture of `code`, on the sliders' steps.
        face, photo, path: what `FaceEditor.invert` returned, the photo, and the file of photo or saved face
            that was uploaded; unset for a random person, and the photo for a face that was saved without.
        wanted: the quality that the visitor has asked for, which may still be in work.
        seed: the random person's seed; unset for a photo.
        drawn: the inputs of the full-size picture on the page, if it is one; mixed: that of the "Mix" tab.
        history, position: the edits so far, and which of them is on the page.
        locked: the attributes that are held where they are.
        corrected: those whose sliders the last answer has put right.
        picture: of the edit, uint8 (1024, 1024, 3), once it has been drawn in full.
        left: the photo's other people who are edited, by their number, as they were left with their picture.
        pinned: a portrait, uint8 (1024, 1024, 3), to compare others with instead of `before`.
        waiting: an edit of a photo that came by a link before the photo.
        seconds: what the last inversion, edit and rendering took, by name.
        name: tells this visit from others.
    """

    code: np.ndarray
    before: np.ndarray
    unedited: np.ndarray
    start: dict[str, float]
    face: InvertedFace | None = None
    photo: Photo | None = None
    path: str | None = None
    wanted: str = "fast"
    seed: int | None = None
    drawn: tuple | None = field(default=None, repr=False)
    mixed: tuple | None = field(default=None, repr=False)
    history: list[Step] = field(default_factory=list, repr=False)
    position: int = -1
    locked: tuple[str, ...] = ()
    corrected: set[str] = field(default_factory=set)
    left: "dict[int, Visit]" = field(default_factory=dict, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)
    _others: np.ndarray | None = field(default=None, repr=False)  # the photo at the page's size with them
    pinned: np.ndarray | None = field(default=None, repr=False)
    waiting: Recipe | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of_photo(
        cls,
        editor: "FaceEditor",
        photo: Photo,
        pixels: np.ndarray,
        path: str,
        refine: str,
        index: int = 0,
        progress: Callable[[float, str], None] | None = None,
    ) -> "Visit":
        """Find the code of face number `index` in a photo, whose `pixels` are uint8 (H, W, 3).

        Raises:
            InputError: the photo shows no such face.
        """
        began = time.perf_counter()
        which = photo.faces[index] if index < len(photo.faces) else index
        face = editor.invert(pixels, refine=refine, index=which, progress=progress)
        seconds = {"inversion": time.perf_counter() - began}
        visit = cls.of_face(editor, face, photo, path)
        visit.seconds = seconds
        return visit

    @classmethod
    def of_face(
        cls, editor: "FaceEditor", face: InvertedFace, photo: Photo | None, path: str | None = None
    ) -> "Visit":
        """Meet a face that has been found.

        Raises:
            InputError: it was tuned for another generator.
        """
        unedited = editor.synthesize(face.code, size=FULL, face=face)
        start = _starting_values(editor, unedited)
        if face.residual is not None:  # then edited pictures have the photo's own pixels, too
            unedited = face.portrait
        return cls(face.code, face.portrait, unedited, start, face, photo, path, face.refine)

    @classmethod
    def of_seed(cls, editor: "FaceEditor", seed: int) -> "Visit":
        """Meet the random person number `seed`."""
        code = editor.sample(seed)
        portrait = editor.synthesize(code, size=FULL)
        return cls(code, portrait, portrait, _starting_values(editor, portrait), seed=seed)

    def take_over(self, finer: "Visit") -> None:
        """Go on with the same face found in another quality. Where the sliders stand stays, and so where they
        started: what was edited meanwhile holds for the new face, too."""
        self.code, self.before, self.unedited = finer.code, finer.before, finer.unedited
        self.face, self.seconds = finer.face, finer.seconds
        self.drawn = self.mixed = self.picture = None

    def protect(self, editor: "FaceEditor", mask: np.ndarray | None) -> None:
        """Let a part of the portrait stay the photo's own in every edit, see `InvertedFace.protect`."""
        if mask is None and self.face.protected is None:
            return
        self.face = self.face.protect(mask)
        if self.face.residual is None:  # then the unedited picture is a drawn one
            self.unedited = editor.synthesize(self.code, size=FULL, face=self.face)
        self.drawn = self.mixed = self.picture = None

    def leave(self, editor: "FaceEditor") -> "dict[int, Visit]":
        """All people of the photo who are edited, for whoever is looked at next.

        Raises:
            InputError: they are too many.
        """
        left = self.left
        if len(self.history) < 2:  # nothing to keep
            return left
        if len(left) >= MOST_PEOPLE:
            raise InputError(
                f"{MOST_PEOPLE} people of a photo can be edited at the same time; download it with them, and "
                "edit that."
            )
        if self.picture is None:
            self.picture = self.portrait(editor, self.configuration(self.values, self.locked))
        self.face = replace(self.face)  # without what it keeps for the next picture
        self.drawn = self.mixed = self.pinned = None
        self.join({})
        return left | {self.face.index: self}

    @property
    def values(self) -> dict[str, float]:
        """Where the sliders stand."""
        return self.history[self.position].values if self.history else self.start

    @property
    def quality(self) -> str:
        """How the photo's face was inverted."""
        return self.face.refine if self.face else "fast"

    @property
    def photo_id(self) -> str | None:
        """What a `Recipe` calls the photo, whether it is here or not."""
        return self.face and self.face.photo_id[:SHORT]

    def fits(self, recipe: Recipe) -> bool:
        """Whether a recipe of a photo is of this face, found in the same way."""
        own = self.face and (self.photo_id, self.face.index, self.face.refine)
        return own == (recipe.photo, recipe.face, recipe.quality)

    def targets(self, editor: "FaceEditor", values: Sequence[float | None]) -> dict[str, float]:
        """The sliders' values by name; one value per row of `editor.attributes`.

        A half-typed number can be missing, then the attribute stays where it was, or out of range or between
        the slider's steps, then the nearest one is taken.
        """
        before = self.values
        return {
            name: before[name] if value is None else on_slider(value, row)
            for (name, row), value in zip(editor.attributes.items(), values, strict=True)
        }

    def moved(self, targets: Mapping[str, float]) -> dict[str, float]:
        """Those targets that are not where their sliders started."""
        return {name: value for name, value in targets.items() if abs(value - self.start[name]) > 1e-6}

    def configuration(self, targets: Mapping[str, float], locked: Sequence[str] = ()) -> dict[str, float]:
        """What the editor is asked for: the moved attributes, and the locked ones held where they are."""
        moved = self.moved(targets)
        return {n: v for n, v in targets.items() if n in moved or (moved and n in locked)}

    def portrait(
        self, editor: "FaceEditor", configuration: Mapping[str, float], size: int = FULL
    ) -> np.ndarray:
        """The edited portrait, uint8 (size, size, 3)."""
        if not configuration:
            return cv2.resize(self.unedited, (size, size), interpolation=cv2.INTER_AREA)
        began = time.perf_counter()
        code = editor.edit(self.code, configuration, face=self.face)
        edited = time.perf_counter()
        portrait = editor.synthesize(code, size=size, face=self.face)
        self.seconds |= {"edit": edited - began, "picture": time.perf_counter() - edited}
        return portrait

    def remember(self, targets: Mapping[str, float], portrait: np.ndarray) -> None:
        """Add an edit to the history; what had been undone is forgotten."""
        if self.history and self.values == dict(targets):
            self.history[self.position].picture = _small(portrait)
            return
        self.history = [*self.history[: self.position + 1], Step(dict(targets), _small(portrait))]
        if len(self.history) > LONGEST_HISTORY:
            del self.history[1]  # the first one, the start, stays
        self.position = len(self.history) - 1

    def draw(self, editor: "FaceEditor", step: Step) -> None:
        """Draw the small picture of a step of the history."""
        step.picture = _small(self.portrait(editor, self.moved(step.values), PREVIEW))

    def recipe(self, targets: Mapping[str, float]) -> Recipe:
        """The edit as it can be passed on."""
        if self.face is None:
            return Recipe(self.moved(targets), seed=self.seed)
        return Recipe(self.moved(targets), None, self.photo_id, self.face.index, self.face.refine)

    def join(self, left: "dict[int, Visit]") -> None:
        """Be looked at beside the photo's other edited people."""
        self.left, self._others = left, None

    def on_screen(self, editor: "FaceEditor", portrait: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The photo, and what `portrait` and the other edited people make of it, at the page's size: fast
        enough for a moving slider."""
        photo = self.photo
        if self._others is None:
            self._others = self._with_others(editor, photo.screen, photo.scale)
        return photo.screen, _pasted(editor, portrait, self.face, self._others, photo.scale)

    def pasted(self, editor: "FaceEditor", portrait: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The photo, whose `pixels` are uint8 (H, W, 3), with all edited people; this one as `portrait`."""
        return _pasted(editor, portrait, self.face, self._with_others(editor, pixels))

    def _with_others(self, editor: "FaceEditor", pixels: np.ndarray, scale: float = 1.0) -> np.ndarray:
        for other in self.left.values():
            pixels = _pasted(editor, other.picture, other.face, pixels, scale)
        return pixels


def _pasted(
    editor: "FaceEditor", portrait: np.ndarray, face: InvertedFace, pixels: np.ndarray, scale: float = 1.0
) -> np.ndarray:
    """A photo at `scale` of its size with a face's portrait in it."""
    return editor.paste(portrait, replace(face, quad=face.quad * scale, others=face.others * scale), pixels)


@contextmanager
def at_work(photo: str | bytes, read: Callable[[str | bytes], Read] = load_image) -> Iterator[Read]:
    """A photo from its path or its file's contents, as long as it is needed.

    Photos are decoded one by one, and one large photo at a time is worked on: each can take a gigabyte.

    Args:
        read: what gives the photo; by default its pixels, uint8 (H, W, 3).

    Raises:
        InputError: see `load_image`.
    """
    with _by_its_name(photo), open_picture(photo) as picture:
        large = picture.width * picture.height > LARGE
    with _LARGE if large else nullcontext():
        with _DECODING, _by_its_name(photo):
            found = read(photo)
        yield found
        if large:
            del found
            return_freed_memory()


def saved_face(path: str) -> InvertedFace:
    """A face from its file.

    Raises:
        InputError: see `InvertedFace.load`.
    """
    with _by_its_name(path):
        return InvertedFace.load(path)


@contextmanager
def _by_its_name(file: str | bytes) -> Iterator[None]:
    """Let errors call a visitor's file by its own name, without the folder that it has here."""
    try:
        yield
    except InputError as error:
        if isinstance(file, bytes):
            raise
        raise InputError(str(error).replace(file, os.path.basename(file))) from None


def _small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def _starting_values(editor: "FaceEditor", portrait: np.ndarray) -> dict[str, float]:
    measured = editor.measure(portrait)
    return {name: on_slider(measured[name], row) for name, row in editor.attributes.items()}


def on_slider(value: float, attribute: Attribute) -> float:
    """The nearest value a slider can show; the middle where nothing could be measured."""
    if not math.isfinite(value):
        value = attribute.denormalise(0.0)
    return round(round(float(attribute.clamp(value)) / attribute.step) * attribute.step, 2)
