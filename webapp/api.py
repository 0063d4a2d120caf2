"""The page's functions for programs: endpoints for `gradio_client` and, where it is switched on, MCP tools.

Unlike the page's own callbacks, they remember nothing between two calls.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from dystyle import provenance
from dystyle.errors import InputError
from dystyle.provenance import Credit
from webapp.files import SCRATCH
from webapp.visit import LARGEST_SEED, LONGEST_NAME, QUALITIES, at_work

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
        if type(payload) not in (int, float) or not 0 <= payload <= self.maximum:
            said = f"'{self.label}' takes a number from 0 to {self.maximum:g}."
            raise gr.Error(said, print_exception=False)
        return super().preprocess(payload)


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

    def edit_photo(
        photo: str | None, edits: dict, quality: str, face: float, paste: bool, kind: str, mark: bool
    ) -> Iterator[str]:
        """Edit a face in a photo and return the picture's file.

        Args:
            photo: A picture file.
            edits: Attribute name to target value, for example {"age": 60, "smile": 1}.
            quality: Of the reconstruction: "fast", "balanced" (some seconds) or "precise" (up to a minute).
            face: Which face, from the largest, 0, on.
            paste: Whether to return the whole photo instead of the portrait.
            kind: Of the file: "png", "jpeg" or "webp".
            mark: Whether to draw a visible "AI" mark.
        """
        with _frank():
            edits = _numbers(edits)
            with at_work(_given(photo)) as picture:
                inverted = editor.invert(picture, quality, int(face))
                code = editor.edit(inverted.code, edits, face=inverted)
                portrait = editor.synthesize(code, face=inverted)
                result = editor.paste(portrait, inverted, picture) if paste else portrait
            encoded = provenance.encode(result, kind, Credit(edits, True, model=editor.model), mark)
        yield from _saved(encoded, kind)

    def edit_person(seed: float, edits: dict, kind: str, mark: bool) -> Iterator[str]:
        """Generate a person who does not exist, edit the face, and return the picture's file.

        Args:
            seed: The same number gives the same person.
            edits: Attribute name to target value, for example {"age": 60, "smile": 1}.
            kind: Of the file: "png", "jpeg" or "webp".
            mark: Whether to draw a visible "AI" mark.
        """
        with _frank():
            edits = _numbers(edits)
            portrait = editor.synthesize(editor.edit(editor.sample(int(seed)), edits))
            encoded = provenance.encode(portrait, kind, Credit(edits, False, model=editor.model), mark)
        yield from _saved(encoded, kind)

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
        yield from _saved(encoded, kind)

    with gr.Column(visible=False):
        photo, edits = gr.File(label="photo"), Edits({}, label="edits")
        seed, other = Bounded("seed", 0, LARGEST_SEED), Bounded("other", 1, LARGEST_SEED)
        face, row = Bounded("face", 0, 99), Bounded("row", 8, 18)
        quality = gr.Radio(list(QUALITIES), value="fast", label="quality")
        paste, mark = gr.Checkbox(False, label="paste"), gr.Checkbox(False, label="mark")
        kind = gr.Radio(list(provenance.FORMATS), value="png", label="kind")
        values, result = gr.JSON(label="values"), gr.File(label="picture")
        truncation, noise = Bounded("truncation", 1, 10, None), Bounded("noise", 1, 10, None)
        start = gr.Button()
    photo_inputs = [photo, edits, quality, face, paste, kind, mark]
    start.click(attributes, None, values, api_name="attributes")
    fitting = {"concurrency_id": "fit", "concurrency_limit": 1}
    start.click(measure, [photo, face], values, api_name="measure", **fitting)
    start.click(edit_photo, photo_inputs, result, api_name="edit_photo", **fitting)
    person = [seed, edits, kind, mark]
    start.click(edit_person, person, result, api_name="edit_person", concurrency_id="draw")
    mixture = [seed, other, row, truncation, noise, kind, mark]
    start.click(mix_people, mixture, result, api_name="mix_people", concurrency_id="draw")


@contextmanager
def _frank() -> Iterator[None]:
    """Turn bad input into an error with one sentence for the client."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _given(photo: str | None) -> str:
    if photo is None:
        raise InputError("Give a photo.")
    return photo


def _numbers(edits: object) -> dict[str, float]:
    """Edits as a client gives them, if they are that."""
    if edits is None:
        return {}
    given = edits.items() if isinstance(edits, dict) else [("", None)]
    if not all(type(value) in (int, float) and len(name) <= LONGEST_NAME for name, value in given):
        raise InputError('Give edits as names of attributes with numbers, for example {"age": 60}.')
    return edits


def _saved(encoded: bytes, kind: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        path = Path(folder, f"edited.{'jpg' if kind == 'jpeg' else kind}")
        path.write_bytes(encoded)
        yield str(path)  # Gradio copies the file before it asks for more
