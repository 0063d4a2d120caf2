"""The page's functions for programs: endpoints for `gradio_client` and, where it is switched on, MCP tools.

Unlike the page's own callbacks, they remember nothing between two calls, but a face can be kept as a file.
What is wrong with a call is said before its work.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from dystyle import provenance
from dystyle.alignment import MAX_FACES
from dystyle.attributes import validate_configuration
from dystyle.editors.second_look import LOOKS
from dystyle.errors import InputError
from dystyle.faces import ENDING, REFINE, InvertedFace, is_face_file
from dystyle.generators.facts import MOST_NOISE
from dystyle.originals import Original
from dystyle.provenance import Credit
from webapp.callbacks import PROGRESS
from webapp.fair_queue import Cancelled
from webapp.files import SCRATCH
from webapp.visit import LARGEST_SEED, at_work, saved_face

if TYPE_CHECKING:
    from dystyle import FaceEditor


class Edits(gr.JSON):
    """JSON of attributes' values. Gradio's own schema of JSON is none that MCP clients accept."""

    is_template = True  # for the browser it is gr.JSON

    def api_info(self) -> dict:
        return {"type": "object", "additionalProperties": {"type": "number"}}


class Bounded(gr.Number):
    """A number from 0 to `maximum`, a whole one by default. Gradio's own stumbles over infinity."""

    is_template = True

    def __init__(self, label: str, value: float, maximum: float, precision: int | None = 0) -> None:
        super().__init__(value, label=label, minimum=0, maximum=maximum, precision=precision)

    def preprocess(self, payload: float | None) -> float:
        fits = type(payload) in (int, float) and 0 <= payload <= self.maximum
        if not fits or (self.precision == 0 and payload != int(payload)):
            number = "a whole number" if self.precision == 0 else "a number"
            said = f"'{self.label}' takes {number} from 0 to {self.maximum:.10g}."
            raise gr.Error(said, print_exception=False)
        return super().preprocess(payload)


class Choice(gr.Radio):
    """One of some words. For Gradio's own, nothing is one, too."""

    is_template = True

    def __init__(self, label: str, value: str, words: Iterable[str]) -> None:
        self.words = tuple(words)
        super().__init__(list(self.words), value=value, label=label)

    def preprocess(self, payload: str | None) -> str:
        if payload not in self.words:
            raise gr.Error(f"'{self.label}' takes one of {', '.join(self.words)}.", print_exception=False)
        return payload


class Switch(gr.Checkbox):
    """Yes or no. For Gradio's own, any text is yes."""

    is_template = True

    def preprocess(self, payload: bool | None) -> bool:
        if payload is not None and not isinstance(payload, bool):
            raise gr.Error(f"'{self.label}' takes true or false.", print_exception=False)
        return bool(payload)


def add_api(editor: "FaceEditor") -> None:
    """Add the endpoints to the current `gr.Blocks`; nothing of them is to be seen on the page."""

    def attributes() -> dict:
        """List the attributes that can be edited, with their kind, lowest and highest value and unit."""
        rows = editor.attributes.values()
        return {r.name: {"kind": r.kind, "low": r.low, "high": r.high, "unit": r.unit} for r in rows}

    def measure(photo: str | None, face: float) -> dict:
        """Measure the attributes of a face in a photo.

        Args:
            photo: A picture file.
            face: Which face, from the largest, 0, on.
        """
        with _frank():
            with at_work(_given(photo)) as picture:
                values = editor.measure(editor.align(picture, int(face))[1])
            return {name: round(values[name], 4) for name in editor.attributes}

    def save_face(
        photo: str | None, quality: str, face: float, keep: bool, progress=PROGRESS
    ) -> Iterator[str]:
        """Find a face in a photo and return it as a file, which `edit_photo` edits without finding it again.

        Args:
            photo: A picture file.
            quality: Of the reconstruction: "fast", "balanced" (some seconds) or "precise" (up to a minute).
            face: Which face, from the largest, 0, on.
            keep: Whether to put the photo into the file, too, so that the face can be put back there.
        """
        with _frank():
            path = _given(photo)
            with at_work(path) as picture:
                inverted = editor.invert(picture, quality, int(face), _told(progress))
            encoded = replace(inverted, photo=Path(path).read_bytes() if keep else None).encode()
        yield from _saved(encoded, f"face{ENDING}")

    def edit_photo(
        photo: str | None,
        edits: dict,
        quality: str,
        face: float,
        paste: bool,
        kind: str,
        mark: bool,
        looks: float = 0,
        progress=PROGRESS,
    ) -> Iterator[str]:
        """Edit a face in a photo and return the picture's file.

        Args:
            photo: A picture file, or a face's file from `save_face`, of which quality and face are known.
            edits: Attribute name to target value, for example {"age": 60, "smile": 1}.
            quality: Of the reconstruction: "fast", or where PyTorch is installed "balanced" (some seconds) or
                "precise" (up to a minute).
            face: Which face, from the largest, 0, on.
            paste: Whether to return the whole photo instead of the portrait.
            kind: Of the file: "png", "jpeg" or "webp".
            mark: Whether to draw a visible "AI" mark.
            looks: 1 looks at the edit and corrects it, which takes two more pictures.
        """
        with _frank():
            edits = checked(edits)
            said = Credit(edits, True, model=editor.model)
            with _opened(_given(photo), paste) as (inverted, original):
                inverted = inverted or editor.invert(original.rgb, quality, int(face), _told(progress))
                code = editor.edit(inverted.code, edits, _told(progress), inverted, looks=int(looks))
                result = editor.synthesize(code, face=inverted)
                if paste:
                    result = editor.paste(result, inverted, original.rgb)
                    if note := original.note(kind):
                        gr.Warning(note)
                encoded = provenance.encode(result, kind, said, mark, original if paste else None)
        yield from _saved(encoded, _named(kind))

    def edit_person(seed: float, edits: dict, kind: str, mark: bool, looks: float = 0) -> Iterator[str]:
        """Generate a person who does not exist, edit the face, and return the picture's file.

        Args:
            seed: The same number gives the same person.
            edits: Attribute name to target value, for example {"age": 60, "smile": 1}.
            kind: Of the file: "png", "jpeg" or "webp".
            mark: Whether to draw a visible "AI" mark.
            looks: 1 looks at the edit and corrects it, which takes two more pictures.
        """
        with _frank():
            edits = checked(edits)
            portrait = editor.synthesize(editor.edit(editor.sample(int(seed)), edits, looks=int(looks)))
            encoded = provenance.encode(portrait, kind, Credit(edits, False, model=editor.model), mark)
        yield from _saved(encoded, _named(kind))

    def mix_people(
        seed: float, other: float, row: float, truncation: float, noise: float, kind: str, mark: bool
    ) -> Iterator[str]:
        """Mix two people who do not exist, and return the picture's file.

        Args:
            seed: The same number gives the same person; the first rows of the code are this one's.
            other: The number of the person whom the other rows are from.
            row: The other person's first row, 0 to 18: early rows hold pose and shape, late ones colours.
            truncation: 1 leaves the mixed face as it is, 0 gives the mean of all faces.
            noise: Strength of chance details, 1 is usual, 0 none.
            kind: Of the file: "png", "jpeg" or "webp".
            mark: Whether to draw a visible "AI" mark.
        """
        with _frank():
            mixed = editor.mix(editor.sample(int(seed)), editor.sample(int(other)), int(row))
            code = editor.truncate(mixed, truncation)
            strengths = {} if noise == 1 else dict.fromkeys(editor.noise_layers, noise)
            steps = (f"random person {seed:g} mixed with {other:g} from row {row:g} on",)
            steps += (f"truncation = {truncation:g}", f"noise = {noise:g}")
            credit = Credit({}, False, steps, editor.model)
            encoded = provenance.encode(editor.synthesize(code, noise=strengths), kind, credit, mark)
        yield from _saved(encoded, _named(kind))

    def checked(edits: object) -> dict[str, float]:
        """Edits as a client gives them; none may be nothing."""
        return validate_configuration({} if edits is None else edits, editor.attributes)

    with gr.Column(visible=False):
        photo, edits = gr.File(label="photo"), Edits({}, label="edits")
        seed, other = Bounded("seed", 0, LARGEST_SEED), Bounded("other", 1, LARGEST_SEED)
        face, row = Bounded("face", 0, MAX_FACES - 1), Bounded("row", 8, 18)
        looks = Bounded("looks", 0, LOOKS)
        quality, kind = Choice("quality", "fast", REFINE), Choice("kind", "png", provenance.FORMATS)
        paste, mark, keep = (Switch(False, label=label) for label in ("paste", "mark", "keep"))
        values, result = gr.JSON(label="values"), gr.File(label="picture")
        saved = gr.File(label="face")
        truncation, noise = Bounded("truncation", 1, 1, None), Bounded("noise", 1, MOST_NOISE, None)
        start = gr.Button()
    photo_inputs = [photo, edits, quality, face, paste, kind, mark, looks]
    start.click(attributes, None, values, api_name="attributes")
    fitting = {"concurrency_id": "fit", "concurrency_limit": 1}
    start.click(measure, [photo, face], values, api_name="measure", **fitting)
    start.click(save_face, [photo, quality, face, keep], saved, api_name="save_face", **fitting)
    start.click(edit_photo, photo_inputs, result, api_name="edit_photo", **fitting)
    person = [seed, edits, kind, mark, looks]
    start.click(edit_person, person, result, api_name="edit_person", concurrency_id="draw")
    mixture = [seed, other, row, truncation, noise, kind, mark]
    start.click(mix_people, mixture, result, api_name="mix_people", concurrency_id="draw")


@contextmanager
def _frank() -> Iterator[None]:
    """Turn bad input into an error with one sentence for the client."""
    try:
        yield
    except (InputError, Cancelled) as error:
        raise gr.Error(str(error), print_exception=False) from error


def _given(photo: str | None) -> str:
    if photo is None:
        raise InputError("Give a photo.")
    return photo


@contextmanager
def _opened(path: str, paste: bool) -> Iterator[tuple[InvertedFace | None, Original | None]]:
    """The face in a face's file and, to paste into, its photo; or a photo alone."""
    if not is_face_file(path):
        with at_work(path, Original.open) as photo:
            yield None, photo
        return
    face = saved_face(path)
    if not paste:
        yield face, None
    elif face.photo is None:
        raise InputError("The face's file holds no photo to paste into; save the face with it.")
    else:
        with at_work(face.photo, Original.open) as photo:
            yield face, photo


def _told(progress: gr.Progress) -> Callable[[float, str], None]:
    """The progress of an editor's work, for the client; it stops the work of one that has gone."""
    return lambda share, message: progress(share, desc=message)


def _named(kind: str) -> str:
    return f"edited.{'jpg' if kind == 'jpeg' else kind}"


def _saved(encoded: bytes, name: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        path = Path(folder, name)
        path.write_bytes(encoded)
        yield str(path)  # Gradio copies the file before it asks for more
