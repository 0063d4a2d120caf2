"""The "Mix" tab: the face on the page crossed with another, truncation, and the generator's noise."""

import html
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import gradio as gr
import numpy as np

from dystyle import provenance
from dystyle.errors import InputError
from dystyle.faces import ENDING, InvertedFace, fingerprint
from dystyle.provenance import Credit
from webapp.callbacks import PEOPLE, PROGRESS, Callbacks, known, thumbnail
from webapp.stage import data_url, new_turn
from webapp.visit import FULL, PREVIEW, Visit, at_work


@dataclass(frozen=True, eq=False)
class Second:
    """The face of a second photo: its code, (18, 512) float32."""

    code: np.ndarray = field(repr=False)


class MixCallbacks:
    """The tab's callbacks.

    What they take as `inputs` are the second face's number, or none where it is that of a photo, the row from
    which it takes over, the truncation, the layers whose noise is on, the face of the second photo, and then
    the inputs of `Callbacks`.
    """

    def __init__(self, page: Callbacks) -> None:
        self.page, self.editor, self.layout, self.text = page, page.editor, page.layout, page.text

    def draw(self, visit: Visit | None, *inputs):
        """Both faces, and in full what becomes of them."""
        with self.page.politely("Mixing"):
            visit = known(visit)
            first, second, mixed, _ = self._mixed(visit, inputs)
            other = self.text("Your second photo")
            if inputs[0] is not None:
                other = self.text("Random person {n}", n=int(inputs[0]))
            faces = (
                (self.editor.synthesize(first, PREVIEW, visit.face), self.page.who(visit)),
                (self.editor.synthesize(second, PREVIEW), other),
            )
            shown = "".join(
                f'<figure><img src="{thumbnail(picture)}" alt=""><figcaption>{html.escape(who)}</figcaption>'
                "</figure>"
                for picture, who in faces
            )
            before = self.editor.synthesize(first, FULL, visit.face)
            after = self._picture(visit, mixed, inputs, FULL)
            visit.mixed = inputs
            return {
                self.layout.mix_stage: gr.update(
                    before=data_url(before), after=data_url(after), turn=new_turn()
                ),
                self.layout.mixed_faces: f'<div class="parents">{shown}</div>',
            }
        return gr.skip()

    def preview(self, visit: Visit | None, *inputs):
        """Follow a moving slider at a quarter of the size."""
        with self.page.politely("Mixing"):
            visit = known(visit)
            if visit.mixed == inputs:  # the slider was released in the meantime
                return gr.skip()
            visit.mixed = None
            mixed = self._mixed(visit, inputs)[2]
            picture = self._picture(visit, mixed, inputs, PREVIEW)
            return gr.update(after=data_url(picture), turn=new_turn())
        return gr.skip()

    def another(self) -> int:
        """The number of a new second face."""
        return random.randrange(PEOPLE)

    def open_second(self, photo: dict | None, request: gr.Request, progress=PROGRESS):
        """Find the largest face of a photo: from then on it is the second one. Its button lets go of a photo
        that is refused."""
        with self.page.politely("Opening a second photo"):
            if photo is None:
                return gr.skip()
            with self.page.at_work(request, progress) as report, at_work(photo.get("path") or "") as pixels:
                report(0.0, "Finding the face")
                face = self.editor.invert(pixels, index=0, progress=report)
            layout = self.layout
            return {layout.second: Second(face.code), layout.other: None}
        return {self.layout.second_photo: None}

    def switch(self, layers: Sequence[str]) -> list[str]:
        """All noise off, or on again where some is off."""
        every = list(self.editor.noise_layers)
        return [] if len(layers) == len(every) else every

    def download(self, visit: Visit | None, kind: str, mark: bool, *inputs) -> Iterator[str | None]:
        """Write the mixed picture in full, for as long as it takes to send it."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            *_, mixed, credit = self._mixed(seen, inputs)
            encoded = provenance.encode(self._picture(seen, mixed, inputs, FULL), kind, credit, mark)
            return f"dystyle-mix.{'jpg' if kind == 'jpeg' else kind}", encoded

        yield from self.page.hand_over(make)

    def to_edit(self, visit: Visit | None, *inputs) -> Iterator[str | None]:
        """Write the mixed face as a saved one, which the browser opens on the "Edit" tab."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            code = self._mixed(seen, inputs)[2]
            picture = self._picture(seen, code, inputs, FULL)
            quad = np.array([[0, 0], [0, FULL], [FULL, FULL], [FULL, 0]], np.float32)
            face = InvertedFace(code, picture, quad, quad[[0, 2]].ravel(), photo_id=fingerprint(picture))
            if seen.face is not None:  # what the picture has of the photo beside the code
                kept = ("tuned", "residual", "tone", "refine", "generator")
                face = replace(face, **{name: getattr(seen.face, name) for name in kept})
            return f"mixture{ENDING}", face.encode()

        yield from self.page.hand_over(make)

    def _mixed(self, visit: Visit, inputs: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray, Credit]:
        """The codes of both faces and of their mixture, and how it was made."""
        seed, row, truncation, _, photo, *page = inputs
        if None in (row, truncation):
            raise InputError("Type a number, or move the slider.")
        if seed is None and photo is None:
            raise InputError("Give a person's number, or press 'Random person'.")
        configuration = self.page.configuration(visit, page)
        first = self.editor.edit(visit.code, configuration, face=visit.face)
        second = photo.code if seed is None else self.editor.sample(int(seed))
        whom = "the face of another photo" if seed is None else f"random person {seed:g}"
        mixed = self.editor.truncate(self.editor.mix(first, second, int(row)), truncation)
        steps = (f"mixed with {whom} from row {row:g} on", f"truncation = {truncation:g}")
        of_photo = visit.face is not None or seed is None
        credit = Credit(configuration, of_photo, steps, self.editor.model)
        return first, second, mixed, credit

    def _picture(self, visit: Visit, code: np.ndarray, inputs: Sequence, size: int) -> np.ndarray:
        off = [layer for layer in self.editor.noise_layers if layer not in inputs[3]]
        return self.editor.synthesize(code, size, visit.face, dict.fromkeys(off, 0.0))
