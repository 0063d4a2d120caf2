"""What happens on the page. Every callback leaves the page as it is when it has to refuse something."""

import base64
import functools
import html
import logging
import random
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import gradio as gr
import numpy as np

from dystyle import provenance
from dystyle.alignment import Face, crop
from dystyle.errors import InputError
from dystyle.faces import ENDING, InvertedFace
from dystyle.originals import Original
from dystyle.provenance import Credit
from webapp.animation import film
from webapp.explain import HOW, attention_picture, experts
from webapp.fair_queue import Cancelled
from webapp.files import SCRATCH
from webapp.layout import PORTRAIT, Layout
from webapp.stage import data_url
from webapp.visit import PREVIEW, Photo, Recipe, Visit, at_work, saved_face

if TYPE_CHECKING:
    from dystyle import FaceEditor

FIRST_SEED = 12  # the person whom a new visitor meets
PEOPLE = 100_000  # "Random person" picks one of so many: short numbers are easier to pass on
THUMBNAIL = 128
FRAMES = 17  # of an animation, one way
BROKEN = "The picture could not be computed; your edits are kept, please try again."

PROGRESS = gr.Progress()  # as a default value, Gradio puts the running event's own in its place

logger = logging.getLogger(__name__)


def polite(callback: Callable) -> Callable:
    """Turn what goes wrong in a callback into a message; the page's components stay as they are."""

    @functools.wraps(callback)
    def wrapped(self: "Callbacks", *args):
        with self.politely(callback.__name__):
            return callback(self, *args)
        return gr.skip()

    return wrapped


class Callbacks:
    """The page's callbacks for one editor and language; they return updates keyed by component.

    What they take as `inputs` are the sliders' values and then the locks, both in the attributes' order.
    """

    def __init__(self, editor: "FaceEditor", layout: Layout) -> None:
        self.editor, self.layout, self.text = editor, layout, layout.text
        self._fits: dict[str, threading.Event] = {}  # running inversions by session; set: to be stopped

    def say(self, sentence: str) -> None:
        """Show a message, translated if its translation is known."""
        gr.Warning(html.escape(self.text.sentence(sentence), quote=False), title=self.text("Please note"))

    @contextmanager
    def politely(self, what: str) -> Iterator[None]:
        """Turn what goes wrong in here into a message; `what` is for the log."""
        try:
            yield
        except (InputError, Cancelled) as error:
            self.say(str(error))
        except Exception:  # one visitor's failure must not break the page
            logger.exception("%s failed", what)
            self.say(BROKEN)

    # ------------------------------------------------------------------------------- choosing a face

    @polite
    def meet(self, link: str) -> dict:
        """Greet a new visitor with a random person, or with the edit of the link that was followed."""
        waiting = None
        if link:
            try:
                recipe = Recipe.from_json(link)
                if recipe.photo is None:
                    return self._restore(recipe, Visit.of_seed(self.editor, recipe.seed))
                waiting = recipe
                self.say("This link holds an edit of a photo; choose that photo, and the edit is applied.")
            except InputError as error:
                self.say(str(error))
        return self._meet(FIRST_SEED, waiting)

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
    def open_photo(
        self,
        visit: Visit | None,
        quality: str,
        photo: dict | None,
        request: gr.Request,
        progress=PROGRESS,
    ):
        """Open an uploaded photo and show its largest face, or that of an edit waiting for this photo."""
        if photo is None:
            return gr.skip()
        if not photo.get("path"):
            raise InputError("This is not a photo; choose a picture file.")
        recipe, index, path = (visit.waiting if visit else None), 0, photo["path"]
        try:
            with at_work(path) as pixels:
                opened = Photo.of(Path(path).read_bytes(), pixels)
                faces = self.editor.detect(pixels)
                thumbnails = [crop(pixels, face.quad, THUMBNAIL) for face in faces]
                if recipe and recipe.photo == opened.id:
                    index, quality = recipe.face, recipe.quality
                else:
                    recipe = None
                new = self._fit(opened, pixels, path, quality, index, request, progress, faces)
            shown = self._restore(recipe, new) if recipe else self._begin(new)
        except (InputError, Cancelled) as error:
            self.say(str(error))
            kept = visit and visit.path and Path(visit.path).exists()
            return {self.layout.photo: visit.path if kept else None}
        return shown | {
            self.layout.faces: gr.update(value=thumbnails, selected_index=index, visible=len(faces) > 1),
            self.layout.seed: None,
            self.layout.quality: quality,
        }

    @polite
    def open_face(self, visit: Visit | None, saved: dict | None):
        """Put a face on the page that was saved as a file, with the edit that waits for its photo."""
        if saved is None:
            return gr.skip()
        face, photo = saved_face(saved.get("path") or ""), None
        if face.photo is not None:
            with at_work(face.photo) as pixels:
                photo = Photo.of(face.photo, pixels)
        new = Visit.of_face(self.editor, face, photo)
        self._remark(face)
        waiting = visit and visit.waiting
        shown = self._restore(waiting, new) if waiting and new.fits(waiting) else self._begin(new)
        return shown | {
            self.layout.photo: None,
            self.layout.faces: gr.update(value=None, visible=False),
            self.layout.seed: None,
            self.layout.quality: new.quality,
            self.layout.saved_face: None,
        }

    @polite
    def choose_face(
        self,
        visit: Visit | None,
        quality: str,
        event: gr.SelectData,
        request: gr.Request,
        progress=PROGRESS,
    ):
        """Show the face that was clicked."""
        visit = known(visit)
        return self._begin(self._fit_again(visit, quality, event.index, request, progress))

    @polite
    def change_quality(
        self, visit: Visit | None, quality: str, request: gr.Request, progress=PROGRESS, *inputs
    ):
        """Fit the photo's face again with another quality; edits stay."""
        if visit is None or visit.photo is None:
            return gr.skip()
        try:
            new = self._fit_again(visit, quality, visit.face.index, request, progress)
        except (InputError, Cancelled) as error:
            self.say(str(error))
            return {self.layout.quality: visit.quality}
        values, locked = self._split(inputs)
        return self._begin(new, visit.moved(visit.targets(self.editor, values)), locked)

    def cancel(self, request: gr.Request) -> None:
        """Stop this visitor's running inversion."""
        if running := self._fits.get(request.session_hash):
            running.set()

    @polite
    def apply(self, visit: Visit | None, given: str, request: gr.Request, progress=PROGRESS, *inputs) -> dict:
        """Restore an edit from its text or link: of a random person, or of the photo it was made on."""
        visit = known(visit)
        _, fragment, hidden = given.partition("#edit=")
        recipe = Recipe.from_json(urllib.parse.unquote(hidden) if fragment else given)
        if recipe.photo is None:
            return self._restore(recipe, Visit.of_seed(self.editor, recipe.seed)) | {
                self.layout.photo: None,
                self.layout.faces: gr.update(value=None, visible=False),
                self.layout.seed: recipe.seed,
            }
        if visit.face is None or recipe.photo != visit.photo_id:
            visit.waiting = recipe
            raise InputError(
                "This edit belongs to another photo; choose that photo, and the edit is applied."
            )
        if not visit.fits(recipe):
            visit = self._fit_again(visit, recipe.quality, recipe.face, request, progress)
        return self._restore(recipe, visit) | {self.layout.quality: recipe.quality}

    # --------------------------------------------------------------------------------------- editing

    @polite
    def preview(self, visit: Visit | None, view: str, *inputs):
        """Follow a moving slider at a quarter of the size."""
        visit = known(visit)
        if visit.drawn == (view, inputs):  # the slider was released in the meantime
            return gr.skip()
        visit.drawn = None
        values, locked = self._split(inputs)
        configuration = visit.configuration(visit.targets(self.editor, values), locked)
        portrait = visit.portrait(self.editor, configuration, PREVIEW)
        after = portrait if view == PORTRAIT else visit.on_screen(self.editor, portrait)[1]
        return gr.update(after=data_url(after))

    @polite
    def edit(self, visit: Visit | None, view: str, *inputs):
        """Draw the edited face in full."""
        visit = known(visit)
        values, locked = self._split(inputs)
        return self._draw(visit, view, visit.targets(self.editor, values), locked)

    @polite
    def lock(self, visit: Visit | None, view: str, *inputs):
        """Hold the locked attributes where they are."""
        visit = known(visit)
        values, locked = self._split(inputs)
        held = {slider: gr.update(interactive=n not in locked) for n, slider in self.layout.sliders.items()}
        return held | self._draw(visit, view, visit.targets(self.editor, values), locked)

    @polite
    def reset(self, names: Sequence[str], visit: Visit | None, *locks) -> dict:
        """Where the sliders of `names` started; several of them only where not locked."""
        visit = known(visit)
        locked = dict(zip(self.editor.attributes, locks, strict=True))
        names = names if len(names) == 1 else [name for name in names if not locked[name]]
        return {self.layout.sliders[name]: visit.start[name] for name in names}

    @polite
    def go_back(self, steps: int, visit: Visit | None):
        """The sliders before (1) or after (-1) the edit on the page."""
        visit = known(visit)
        return self._go(visit, visit.position - steps)

    @polite
    def go_to(self, visit: Visit | None, event: gr.EventData):
        """The sliders of the edit in the history that was clicked."""
        return self._go(known(visit), event.index)

    @polite
    def pin(self, visit: Visit | None, view: str, *inputs):
        """Compare with the edit on the page from now on, or again with the unedited picture."""
        visit = known(visit)
        values, locked = self._split(inputs)
        targets = visit.targets(self.editor, values)
        if visit.pinned is None:
            visit.pinned = visit.portrait(self.editor, visit.configuration(targets, locked))
        else:
            visit.pinned = None
        return self._draw(visit, view, targets, locked)

    # -------------------------------------------------------------------------------- saving, explaining

    def download(
        self, visit: Visit | None, view: str, kind: str, mark: bool, *inputs
    ) -> Iterator[str | None]:
        """Write the picture on the page in its full size, for as long as it takes to send it."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            configuration = self.configuration(seen, inputs)
            said = credit(self.editor, seen, configuration)
            picture = seen.portrait(self.editor, configuration)
            if view == PORTRAIT:
                encoded = provenance.encode(picture, kind, said, mark)
            else:
                with at_work(seen.photo.file, Original.open) as photo:
                    picture = self.editor.paste(picture, seen.face, photo.rgb)
                    encoded = provenance.encode(picture, kind, said, mark, photo)
                    if note := photo.note(kind):
                        self.say(note)
            return f"dystyle-{view}.{'jpg' if kind == 'jpeg' else kind}", encoded

        yield from self.hand_over(make)

    def animate(
        self, visit: Visit | None, sweep: str, kind: str, mark: bool, progress=PROGRESS, *inputs
    ) -> Iterator[str | None]:
        """Write a film of the whole edit, or of one attribute through its range."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            configuration = self.configuration(seen, inputs)
            if not sweep and not configuration:
                raise InputError("Nothing is edited yet; move a slider, or choose an attribute to animate.")
            frames = []
            for i in range(FRAMES):
                share = (1 - np.cos(np.pi * i / (FRAMES - 1))) / 2  # slow at both ends
                if sweep:
                    row = self.editor.attributes[sweep]
                    asked = configuration | {sweep: float(row.low + share * row.width)}
                else:
                    asked = {n: float(_mix(seen.start[n], v, share)) for n, v in configuration.items()}
                frame = seen.portrait(self.editor, asked)
                frames.append(provenance.marked(frame) if mark else frame)
                progress((i + 1) / FRAMES, desc=self.text("Drawing"))
            return f"dystyle-{sweep or 'edit'}.{kind}", film(frames, kind, credit(self.editor, seen, asked))

        yield from self.hand_over(make)

    def download_face(self, visit: Visit | None, with_photo: bool) -> Iterator[str | None]:
        """Write the photo's face as a file, which `open_face` opens."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            if seen.face is None:
                raise InputError("There is no photo on the page; choose one.")
            photo = seen.photo.file if with_photo and seen.photo else None
            return f"dystyle-face{ENDING}", replace(seen.face, photo=photo).encode()

        yield from self.hand_over(make)

    @polite
    def explain(self, visit: Visit | None, *inputs):
        """Which experts the edit on the page runs, and what they take from one another."""
        text = self.text
        configuration = self.configuration(known(visit), inputs)
        words = f"<h2>{text('Inside this edit')}</h2><p>{html.escape(text(HOW))}</p>"
        words += experts(self.editor.attributes, list(configuration), text)
        if not configuration:
            return words + f"<p>{text('Nothing is edited yet, so no expert runs. Move a slider first.')}</p>"
        if len(configuration) == 1:
            return (
                words + f"<p>{text('One expert runs alone; with two there is something to attend to.')}</p>"
            )
        weights = self.editor.attention(visit.code, configuration)
        return words + attention_picture(self.editor.attributes, list(configuration), weights, text)

    # --------------------------------------------------------------------------------------- helpers

    def _split(self, inputs: Sequence) -> tuple[Sequence[float | None], list[str]]:
        """Slider values, and the names of the locked attributes."""
        names = list(self.editor.attributes)
        values, locks = inputs[: len(names)], inputs[len(names) :]
        return values, [name for name, lock in zip(names, locks, strict=True) if lock]

    def configuration(self, visit: Visit, inputs: Sequence) -> dict[str, float]:
        """What the edit on the page asks of the editor."""
        values, locked = self._split(inputs)
        return visit.configuration(visit.targets(self.editor, values), locked)

    def _fit_again(
        self, visit: Visit, quality: str, index: int, request: gr.Request, progress: gr.Progress
    ) -> Visit:
        """Another face of a visit's photo, or the same in another quality."""
        if visit.photo is None:
            raise InputError("There is no photo on the page; choose one.")
        with at_work(visit.photo.file) as pixels:
            return self._fit(visit.photo, pixels, visit.path, quality, index, request, progress)

    def _fit(
        self,
        photo: Photo,
        pixels: np.ndarray,
        path: str,
        quality: str,
        index: int,
        request: gr.Request,
        progress: gr.Progress,
        found: Sequence[Face] = (),
    ) -> Visit:
        stop = self._fits[request.session_hash] = threading.Event()

        def report(fraction: float, message: str) -> None:
            if stop.is_set():
                raise Cancelled
            progress(fraction, desc=self.text.sentence(message))

        try:
            visit = Visit.of_photo(self.editor, photo, pixels, path, quality, index, report, found)
        finally:
            self._fits.pop(request.session_hash, None)
        self._remark(visit.face)
        return visit

    def _remark(self, face: InvertedFace) -> None:
        for remark in face.remarks:
            self.say(remark)

    def _meet(self, seed: int, waiting: Recipe | None = None) -> dict:
        visit = Visit.of_seed(self.editor, seed)
        visit.waiting = waiting
        return self._begin(visit) | {
            self.layout.photo: None,
            self.layout.faces: gr.update(value=None, visible=False),
            self.layout.seed: seed,
        }

    def _restore(self, recipe: Recipe, visit: Visit) -> dict:
        """Put an edit that was passed on onto its person."""
        for name, value in recipe.edits.items():
            row = self.editor.attributes.get(name)
            if row is None or not row.low <= value <= row.high:
                raise InputError(f"The edit asks for {name} = {value:g}, which this editor cannot do.")
        return self._begin(visit, recipe.edits) | {self.layout.seed: recipe.seed}

    def _begin(
        self, visit: Visit, kept: Mapping[str, float] | None = None, locked: Sequence[str] = ()
    ) -> dict:
        """Put a new visit on the page, with the edits that are to be kept from the one before it."""
        visit.remember(visit.start, visit.unedited)
        targets = visit.start | dict(kept or {})
        return {
            self.layout.view: gr.update(value=PORTRAIT, visible=visit.photo is not None),
            **{slider: gr.update(interactive=n not in locked) for n, slider in self.layout.sliders.items()},
            **{lock: name in locked for name, lock in self.layout.locks.items()},
            **self._draw(visit, PORTRAIT, targets, locked),
            **{
                slider: gr.update(value=targets[name], interactive=name not in locked)
                for name, slider in self.layout.sliders.items()
            },
        }

    def _go(self, visit: Visit, position: int):
        if not 0 <= position < len(visit.history):
            return gr.skip()
        visit.position = position
        values = visit.history[position].values
        return {self.layout.sliders[name]: value for name, value in values.items()}

    def _draw(self, visit: Visit, view: str, targets: Mapping[str, float], locked: Sequence[str]) -> dict:
        """Draw a visit's face in full and mark on the page what is edited."""
        layout, moved = self.layout, visit.moved(targets)
        portrait = visit.portrait(self.editor, visit.configuration(targets, locked))
        before, after = visit.before, portrait
        if view != PORTRAIT:
            before, after = visit.on_screen(self.editor, portrait)
        if visit.pinned is not None:
            before = visit.pinned if view == PORTRAIT else visit.on_screen(self.editor, visit.pinned)[1]
        visit.drawn = (view, (*targets.values(), *(name in locked for name in targets)))
        visit.remember(targets, portrait)
        pinned = visit.pinned is not None
        return {
            layout.visit: visit,
            layout.stage: gr.update(
                before=data_url(before),
                after=data_url(after),
                tag=self.text("Pinned edit" if pinned else "Before"),
            ),
            layout.caption: self._caption(visit, moved),
            layout.history: self._history(visit),
            layout.recipe: visit.recipe(targets).to_json(),
            layout.undo: gr.update(interactive=visit.position > 0),
            layout.redo: gr.update(interactive=visit.position < len(visit.history) - 1),
            layout.pin: self.text("Unpin" if pinned else "Pin to compare"),
            layout.reset_all: gr.update(interactive=bool(moved)),
            **{
                button: gr.update(value=f"↺ {visit.start[name]:g}", interactive=name in moved)
                for name, button in layout.resets.items()
            },
        }

    def _caption(self, visit: Visit, moved: Mapping[str, float]) -> str:
        times = [f"{self.text(what)} {duration(seconds)}" for what, seconds in visit.seconds.items()]
        return f"{self.summary(visit, moved)}<small>{' · '.join(times)}</small>"

    def summary(self, visit: Visit, moved: Mapping[str, float]) -> str:
        """Who is edited and how."""
        edits = [self._change(visit, name, value) for name, value in moved.items()]
        return f"<b>{self.who(visit)}</b> {' · '.join(edits) or self.text('Move a slider to begin.')}"

    def who(self, visit: Visit) -> str:
        """Whom the visit edits."""
        if visit.face is not None:
            return self.text("Your photo")
        return self.text("Random person {n}", n=visit.seed)

    def _change(self, visit: Visit, name: str, value: float) -> str:
        label = html.escape(self.text(self.editor.attributes[name].label))
        return f"{label} {visit.start[name]:g} → {value:g}"

    def _history(self, visit: Visit) -> str:
        """The history as a row of small pictures."""
        if len(visit.history) < 2:
            return ""
        steps = []
        for i, step in enumerate(visit.history):
            moved = visit.moved(step.values)
            said = ", ".join(self._change(visit, n, v) for n, v in moved.items()) or self.text("Unedited")
            on = ' aria-current="step"' if i == visit.position else ""
            steps.append(
                f'<button type="button" data-index="{i}"{on} title="{said}">'
                f'<img src="{thumbnail(step.picture)}" alt="{said}"></button>'
            )
        return f'<div role="group" aria-label="{self.text("History")}">{"".join(steps)}</div>'

    def hand_over(self, make: Callable[[], tuple[str, bytes]]) -> Iterator[str | None]:
        """Write what `make` returns, a file's name and contents, for as long as it takes to send it."""
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            path = None
            with self.politely("Making a file"):
                name, contents = make()
                path = Path(folder, name)
                path.write_bytes(contents)
            yield path and str(path)  # Gradio copies the file before it asks for more


def known(visit: Visit | None) -> Visit:
    """The visit, if it has not expired.

    Raises:
        InputError: it has.
    """
    if visit is None:
        raise InputError("There is no face on the page any more; choose a photo or a random person.")
    return visit


def credit(editor: "FaceEditor", visit: Visit, configuration: Mapping[str, float]) -> Credit:
    """How a visit's edited picture was made."""
    return Credit(configuration, photographed=visit.face is not None, model=editor.model)


def _mix(start: float, end: float, share: float) -> float:
    return start + share * (end - start)


def duration(seconds: float) -> str:
    """Seconds or milliseconds, for people."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def thumbnail(picture: np.ndarray) -> str:
    """A small picture, uint8 (s, s, 3), as a data URL."""
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
