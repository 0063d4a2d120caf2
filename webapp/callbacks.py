"""What happens on the page. Every callback leaves the page as it is when it has to refuse something."""

import functools
import html
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from PIL import Image

from dystyle.alignment import crop, load_image
from dystyle.errors import InputError
from webapp.layout import PORTRAIT, Layout
from webapp.stage import data_url
from webapp.visit import PREVIEW, Visit

if TYPE_CHECKING:
    from dystyle import FaceEditor

FIRST_SEED = 12  # the person whom a new visitor meets
PEOPLE = 100_000  # "Random person" picks one of so many: short numbers are easier to pass on
THUMBNAIL = 128
BROKEN = "The picture could not be computed; your edits are kept, please try again."

PROGRESS = gr.Progress()  # as a default value, Gradio puts the running event's own in its place

logger = logging.getLogger(__name__)


def polite(callback: Callable) -> Callable:
    """Turn what goes wrong in a callback into a message; the page's components stay as they are."""

    @functools.wraps(callback)
    def wrapped(*args):
        try:
            return callback(*args)
        except InputError as error:
            _say(str(error))
        except Exception:  # one visitor's failure must not break the page
            logger.exception("%s failed", callback.__name__)
            _say(BROKEN)
        return gr.skip()

    return wrapped


class Callbacks:
    """The page's callbacks for one editor; they return updates keyed by component."""

    def __init__(self, editor: "FaceEditor", layout: Layout) -> None:
        self.editor = editor
        self.layout = layout

    # ------------------------------------------------------------------------------- choosing a face

    @polite
    def meet(self) -> dict:
        """Greet a new visitor with a random person."""
        return self._meet(FIRST_SEED)

    @polite
    def meet_someone(self) -> dict:
        """Show a new random person."""
        return self._meet(random.randrange(PEOPLE))

    @polite
    def meet_number(self, seed: int | None) -> dict:
        """Show random person number `seed` again."""
        if seed is None:
            raise InputError("Give a person's number, or press 'Random person'.")
        return self._meet(seed)

    @polite
    def open_photo(self, visit: Visit | None, quality: str, photo: dict | None, progress=PROGRESS):
        """Open an uploaded photo and show its largest face."""
        if photo is None:
            return gr.skip()
        try:
            picture = load_image(photo["path"])
            faces = self.editor.detect(picture)
            new = self._fit(picture, photo["path"], quality, 0, progress)
        except InputError as error:
            # Visitors know their file by its own name, not by the one it has on the server.
            _say(str(error).replace(photo["path"], photo.get("orig_name") or "The picture"))
            return {self.layout.photo: visit.path if visit else None}
        thumbnails = [crop(picture, face.quad, THUMBNAIL) for face in faces]
        return self._begin(new) | {
            self.layout.faces: gr.update(value=thumbnails, selected_index=0, visible=len(faces) > 1),
            self.layout.seed: None,
        }

    @polite
    def choose_face(self, visit: Visit | None, quality: str, event: gr.SelectData, progress=PROGRESS):
        """Show the face that was clicked."""
        visit = _known(visit)
        return self._begin(self._fit(visit.photo, visit.path, quality, event.index, progress))

    @polite
    def change_quality(self, visit: Visit | None, quality: str, progress=PROGRESS, *values):
        """Fit the photo's face again with another quality; edits stay."""
        if visit is None or visit.photo is None:
            return gr.skip()
        new = self._fit(visit.photo, visit.path, quality, visit.index, progress)
        return self._begin(new, visit.configuration(self.editor, values))

    # --------------------------------------------------------------------------------------- editing

    @polite
    def preview(self, visit: Visit | None, view: str, *values):
        """Follow a moving slider at a quarter of the size."""
        visit = _known(visit)
        if visit.drawn == (view, values):  # the slider was released in the meantime
            return gr.skip()
        visit.drawn = None
        portrait = visit.portrait(self.editor, visit.configuration(self.editor, values), PREVIEW)
        after = portrait if view == PORTRAIT else visit.on_screen(self.editor, portrait)[1]
        return gr.update(after=data_url(after))

    @polite
    def edit(self, visit: Visit | None, view: str, *values):
        """Draw the edited face in full."""
        return self._draw(_known(visit), view, values)

    @polite
    def reset(self, names: Sequence[str], visit: Visit | None, view: str, *values):
        """Put the sliders of `names` back to where they started."""
        visit = _known(visit)
        targets = dict(zip(self.layout.sliders, values, strict=True))
        targets |= {name: visit.start[name] for name in names}
        sliders = {self.layout.sliders[name]: targets[name] for name in names}
        return sliders | self._draw(visit, view, tuple(targets.values()))

    def download(self, visit: Visit | None, view: str, *values) -> Iterator[str | None]:
        """Write the picture on the page as a PNG, in its full size, for as long as it takes to send it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "dystyle-portrait.png" if view == PORTRAIT else "dystyle-photo.png")
            try:
                visit = _known(visit)
                picture = visit.portrait(self.editor, visit.configuration(self.editor, values))
                if view != PORTRAIT:
                    picture = visit.whole(self.editor, picture)
            except InputError as error:
                _say(str(error))
                yield None
                return
            Image.fromarray(picture).save(path, compress_level=1)
            yield str(path)  # Gradio copies the file before it asks for more

    # --------------------------------------------------------------------------------------- helpers

    def _fit(self, picture: np.ndarray, path: str, quality: str, index: int, progress: gr.Progress) -> Visit:
        def report(fraction: float, message: str) -> None:
            progress(fraction, desc=message)

        return Visit.of_photo(self.editor, picture, path, quality, index, report)

    def _meet(self, seed: int) -> dict:
        return self._begin(Visit.of_seed(self.editor, seed)) | {
            self.layout.photo: None,
            self.layout.faces: gr.update(value=None, visible=False),
            self.layout.seed: seed,
        }

    def _begin(self, visit: Visit, kept: dict[str, float] | None = None) -> dict:
        """Put a new visit on the page, with the edits that are to be kept from the one before it."""
        values = visit.start | (kept or {})
        return {
            self.layout.visit: visit,
            self.layout.view: gr.update(value=PORTRAIT, visible=visit.photo is not None),
            **{slider: values[name] for name, slider in self.layout.sliders.items()},
            **self._draw(visit, PORTRAIT, tuple(values[name] for name in self.layout.sliders)),
        }

    def _draw(self, visit: Visit, view: str, values: Sequence[float]) -> dict:
        """Draw a visit's face in full and mark on the page what is edited."""
        configuration = visit.configuration(self.editor, values)
        portrait = visit.portrait(self.editor, configuration)
        before, after = (
            (visit.before, portrait) if view == PORTRAIT else visit.on_screen(self.editor, portrait)
        )
        visit.drawn = (view, tuple(values))
        return {
            self.layout.visit: visit,
            self.layout.stage: gr.update(before=data_url(before), after=data_url(after)),
            self.layout.caption: self._caption(visit, configuration),
            self.layout.reset_all: gr.update(interactive=bool(configuration)),
            **{
                button: gr.update(value=f"↺ {visit.start[name]:g}", interactive=name in configuration)
                for name, button in self.layout.resets.items()
            },
        }

    def _caption(self, visit: Visit, configuration: dict[str, float]) -> str:
        who = "Your photo" if visit.photo is not None else f"Random person {visit.seed}"
        edits = [
            f"{html.escape(self.editor.attributes[name].label)} {visit.start[name]:g} → {value:g}"
            for name, value in configuration.items()
        ]
        return f"<b>{who}</b> {' · '.join(edits) or 'Move a slider to begin.'}"


def _known(visit: Visit | None) -> Visit:
    if visit is None:
        raise InputError("There is no face on the page any more; choose a photo or a random person.")
    return visit


def _say(sentence: str) -> None:
    gr.Warning(html.escape(sentence, quote=False))
