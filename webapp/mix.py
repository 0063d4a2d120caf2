"""The "Mix" tab: the face on the page crossed with another, truncation, and the generator's noise."""

import html
import random
import time
from collections.abc import Iterator, Sequence

import gradio as gr
import numpy as np

from dystyle import provenance
from dystyle.errors import InputError
from dystyle.provenance import Credit
from webapp.callbacks import PEOPLE, Callbacks, known, thumbnail
from webapp.stage import data_url
from webapp.visit import FULL, PREVIEW, Visit


class MixCallbacks:
    """The tab's callbacks.

    What they take as `inputs` are the second face's number, the row from which it takes over, the
    truncation, the layers whose noise is on, and then the inputs of `Callbacks`.
    """

    def __init__(self, page: Callbacks) -> None:
        self.page, self.editor, self.layout, self.text = page, page.editor, page.layout, page.text

    def draw(self, visit: Visit | None, *inputs):
        """Both faces, and in full what becomes of them."""
        with self.page.politely("Mixing"):
            visit = known(visit)
            first, second, mixed, _ = self._mixed(visit, inputs)
            faces = (
                (self.editor.synthesize(first, PREVIEW, visit.face), self.page.who(visit)),
                (self.editor.synthesize(second, PREVIEW), self.text("Random person {n}", n=int(inputs[0]))),
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
                    before=data_url(before), after=data_url(after), turn=time.monotonic_ns() % 2**50
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
            return gr.update(after=data_url(self._picture(visit, mixed, inputs, PREVIEW)))
        return gr.skip()

    def another(self) -> int:
        """The number of a new second face."""
        return random.randrange(PEOPLE)

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

    def _mixed(self, visit: Visit, inputs: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray, Credit]:
        """The codes of both faces and of their mixture, and how it was made."""
        seed, row, truncation, _, *page = inputs
        if None in (row, truncation):
            raise InputError("Type a number, or move the slider.")
        if seed is None:
            raise InputError("Give a person's number, or press 'Random person'.")
        configuration = self.page.configuration(visit, page)
        first = self.editor.edit(visit.code, configuration, face=visit.face)
        second = self.editor.sample(int(seed))
        mixed = self.editor.truncate(self.editor.mix(first, second, int(row)), truncation)
        steps = (f"mixed with random person {seed:g} from row {row:g} on", f"truncation = {truncation:g}")
        credit = Credit(configuration, visit.face is not None, steps, self.editor.model)
        return first, second, mixed, credit

    def _picture(self, visit: Visit, code: np.ndarray, inputs: Sequence, size: int) -> np.ndarray:
        off = [layer for layer in self.editor.noise_layers if layer not in inputs[3]]
        return self.editor.synthesize(code, size, visit.face, dict.fromkeys(off, 0.0))
