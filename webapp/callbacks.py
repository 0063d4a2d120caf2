"""What happens on the page. Every callback leaves the page as it is when it has to refuse something."""

import base64
import functools
import html
import logging
import random
import re
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import gradio as gr
import numpy as np

from dystyle import provenance
from dystyle.alignment import crop
from dystyle.errors import InputError
from dystyle.faces import ENDING, InvertedFace, is_face_file
from dystyle.originals import Original
from dystyle.provenance import Credit
from webapp import brush
from webapp.animation import film
from webapp.explain import HOW, attention_picture, experts
from webapp.fair_queue import Cancelled
from webapp.files import SCRATCH
from webapp.keeping import Kept, KeptPerson, noted_values
from webapp.layout import EXAMPLES, PORTRAIT, Layout, Preset
from webapp.readings import likeness, marks, said, summary
from webapp.stage import data_url, new_turn
from webapp.visit import PREVIEW, Photo, Recipe, Visit, at_work, saved_face

if TYPE_CHECKING:
    from dystyle import FaceEditor

FIRST_SEED = 12  # the person whom a new visitor meets
PEOPLE = 100_000  # "Random person" picks one of so many: short numbers are easier to pass on
THUMBNAIL = 128
FRAMES = 17  # of an animation, one way
LOST = "lost"  # for `keep.js`: the visit has expired
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


@dataclass
class Work:
    """Something long that runs for a visitor; `stopped`: nobody waits for it any more."""

    stopped: bool = False


class Callbacks:
    """The page's callbacks for one editor and language; they return updates keyed by component.

    What they take as `inputs` are the sliders' values and then the locks, both in the attributes' order.
    """

    def __init__(self, editor: "FaceEditor", layout: Layout) -> None:
        self.editor, self.layout, self.text = editor, layout, layout.text
        self._running: dict[str, Work] = {}  # by session

    def say(self, sentence: str) -> None:
        """Show what is to be minded, translated if its translation is known."""
        gr.Warning(html.escape(self.text.sentence(sentence), quote=False))

    def tell(self, sentence: str) -> None:
        """Show what has happened as it was meant to."""
        gr.Info(html.escape(self.text.sentence(sentence), quote=False), duration=5)

    @contextmanager
    def politely(self, what: str) -> Iterator[None]:
        """Turn what goes wrong in here into a message; `what` is for the log."""
        try:
            yield
        except Cancelled:
            pass  # whoever cancelled it has said so
        except InputError as error:
            self.say(str(error))
        except Exception:  # one visitor's failure must not break the page
            logger.exception("%s failed", what)
            self.say(BROKEN)

    @contextmanager
    def at_work(self, request: gr.Request, progress: gr.Progress) -> Iterator[Callable[[float, str], None]]:
        """Do something long, in place of what has been running for this visitor, with reports that stop it
        when it is cancelled."""
        self.stop(request)
        work = self._running[request.session_hash] = Work()

        def report(fraction: float, message: str) -> None:
            if work.stopped:
                raise Cancelled
            progress(fraction, desc=self.text.sentence(message))

        try:
            yield report
        finally:
            if self._running.get(request.session_hash) is work:
                del self._running[request.session_hash]

    def stop(self, request: gr.Request) -> None:
        """Stop what runs for this visitor."""
        if running := self._running.pop(request.session_hash, None):
            running.stopped = True

    def cancel(self, visit: Visit | None, request: gr.Request) -> dict:
        """Stop what runs for this visitor, or waits to, and say so."""
        self.stop(request)
        self.tell(str(Cancelled()))
        if visit is None:
            return gr.skip()
        visit.wanted = visit.quality
        return {self.layout.quality: visit.wanted, self.layout.photo: shown_photo(visit)}

    # ------------------------------------------------------------------------------- choosing a face

    def no_camera(self) -> None:
        """Say why no picture can be taken."""
        self.say("There is no camera that this page may use; choose a picture file instead.")

    def meet(
        self,
        link: str,
        kept: str,
        photo: dict | None,
        noted: str,
        request: gr.Request,
        progress=PROGRESS,
    ) -> dict:
        """Greet a visitor: with what the browser kept of an earlier visit, or with a random person, or with
        the edit of the link that was followed."""
        waiting = None
        with self.politely("meet"):
            if link:
                recipe = Recipe.from_json(link)
                if recipe.photo is None:
                    return self._restore(recipe, Visit.of_seed(self.editor, recipe.seed))
                waiting = recipe
                self.say("This link holds an edit of a photo; choose that photo, and the edit is applied.")
        with self.politely("bring back"):
            if kept:
                earlier, path = Kept.from_json(kept), photo.get("path") if photo else None
                recipe = earlier.shown.recipe
                if path or recipe.photo is None:
                    return self._bring_back(earlier, path, noted, waiting, request, progress)
                waiting = waiting or recipe
                self.say("Your photo could not be brought back; choose it again, and the edit is applied.")
        with self.politely("meet"):
            return self._meet(FIRST_SEED, waiting)
        return gr.skip()

    def _bring_back(
        self,
        kept: Kept,
        path: str | None,
        noted: str,
        waiting: Recipe | None,
        request: gr.Request,
        progress: gr.Progress,
    ) -> dict:
        """A visit as it was before the page went away."""
        recipe, shown = kept.shown.recipe, {}
        if path is None or recipe.photo is None:
            visit = Visit.of_seed(self.editor, recipe.seed)
            kept.shown.put_on(visit, self.editor.attributes)
            shown = {self.layout.seed: recipe.seed}
        elif is_face_file(path):
            visit = self._open_face(path)
            visit.protect(self.editor, brush.from_text(kept.shown.protected))
            kept.shown.put_on(visit, self.editor.attributes)
            shown = {self.layout.seed: None}
        else:
            with self.at_work(request, progress) as report, self._photo(path, report) as (opened, pixels):
                left: dict[int, Visit] = {}
                for person in kept.people:
                    visit = Visit.of_photo(
                        self.editor, opened, pixels, path, "fast", person.recipe.face, report
                    )
                    visit.join(left)
                    visit.wanted = person.recipe.quality
                    visit.protect(self.editor, brush.from_text(person.protected))
                    person.put_on(visit, self.editor.attributes)
                    if person is not kept.shown:
                        left = visit.leave(self.editor)
                shown = self._faces(opened, pixels, visit) | {self.layout.seed: None}
        visit.waiting = waiting or kept.waiting
        moved = noted_values(noted, kept, visit, self.editor.attributes)
        shown |= self._begin(visit, visit.values | moved)
        if kept.edited:
            self.tell("Welcome back: everything is as you left it.")
        return shown | {self.layout.photo: shown_photo(visit), self.layout.quality: visit.wanted}

    @polite
    def meet_someone(self, request: gr.Request) -> dict:
        """Show a new random person."""
        self.stop(request)
        return self._meet(random.randrange(PEOPLE))

    @polite
    def meet_number(self, seed: int | None, request: gr.Request) -> dict:
        """Show random person number `seed` again."""
        if seed is None:
            raise InputError("Give a person's number, or press 'Random person'.")
        self.stop(request)
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
        return self._open(visit, quality, photo, request, progress)

    @polite
    def open_example(
        self, visit: Visit | None, quality: str, photo: dict | None, request: gr.Request, progress=PROGRESS
    ):
        """Open an example with its edit."""
        preset = EXAMPLES.get(Path((photo or {}).get("path") or "").stem)
        return self._open(visit, quality, photo, request, progress, preset)

    def _open(
        self,
        visit: Visit | None,
        quality: str,
        photo: dict | None,
        request: gr.Request,
        progress: gr.Progress,
        preset: Preset | None = None,
    ):
        if photo is None:
            return gr.skip()
        if not photo.get("path"):
            raise InputError("This is not a photo; choose a picture file.")
        waiting, path = (visit.waiting if visit else None), photo["path"]
        try:
            with self.at_work(request, progress) as report, self._photo(path, report) as (opened, pixels):
                recipe = waiting if waiting and waiting.photo == opened.id else None
                index = recipe.face if recipe else 0
                new = Visit.of_photo(self.editor, opened, pixels, path, "fast", index, report)
                shown = self._faces(opened, pixels, new)
            self._remark(new.face)
            new.wanted = quality
            if recipe:
                shown |= self._restore(recipe, new)
            else:
                new.waiting = waiting
                rows = self.editor.attributes
                fits = preset is not None and preset.suits(rows)
                shown |= self._begin(new, preset.applied(new.start, rows) if fits else None)
        except (InputError, Cancelled) as error:
            if isinstance(error, InputError):
                self.say(str(error))
            return {self.layout.photo: shown_photo(visit)}
        return shown | {self.layout.seed: None, self.layout.quality: new.wanted}

    @polite
    def open_face(self, visit: Visit | None, saved: dict | None, request: gr.Request):
        """Put a face on the page that was saved as a file, with the edit that waits for its photo."""
        if saved is None:
            return gr.skip()
        new = self._open_face(saved.get("path") or "")
        self.stop(request)
        self._remark(new.face)
        waiting = visit and visit.waiting
        shown = self._restore(waiting, new) if waiting and new.fits(waiting) else self._begin(new)
        return shown | {
            self.layout.photo: None,
            self.layout.faces: gr.update(value=None, visible=False),
            self.layout.seed: None,
            self.layout.quality: new.quality,
            self.layout.saved_face: None,
        }

    def _open_face(self, path: str) -> Visit:
        """A visit of a face that was saved as a file."""
        face, photo = saved_face(path), None
        if face.photo is not None:
            with at_work(face.photo) as pixels:
                photo = Photo.of(face.photo, pixels)
        return Visit.of_face(self.editor, face, photo, path)

    @polite
    def choose_face(
        self, visit: Visit | None, view: str, event: gr.EventData, request: gr.Request, progress=PROGRESS
    ):
        """Show the face that was clicked, as it was left."""
        visit = known(visit)
        if visit.face is None or visit.face.index == event.index:
            return gr.skip()
        new = self._other(visit, event.index, request, progress)
        return self._begin(new, view=view) | {self.layout.faces: gr.update(selected_index=event.index)}

    def _other(self, visit: Visit, index: int, request: gr.Request, progress: gr.Progress) -> Visit:
        """Another face of a visit's photo; the edits of the one before stay with it."""
        new = visit.left.get(index)
        if new is None:
            if visit.photo is None:
                raise InputError("There is no photo on the page; choose one.")
            with self.at_work(request, progress) as report, at_work(visit.photo.file) as pixels:
                new = Visit.of_photo(self.editor, visit.photo, pixels, visit.path, "fast", index, report)
            new.wanted, new.waiting = visit.wanted, visit.waiting
            self._remark(new.face)
        self.stop(request)
        left = visit.leave(self.editor)
        new.join({i: other for i, other in left.items() if i != index})
        return new

    @polite
    def change_quality(self, visit: Visit | None, quality: str, request: gr.Request):
        """Note which quality is asked for; `refine` brings it, and what runs meanwhile is of no use."""
        if visit is None or visit.photo is None:
            return gr.skip()
        self.stop(request)
        visit.wanted = quality
        return time.monotonic()

    @polite
    def refine(self, visit: Visit | None, request: gr.Request, progress=PROGRESS):
        """Find the face on the page again in the quality that is asked for, while it can be edited on."""
        if visit is None or visit.photo is None or visit.wanted == visit.quality:
            return gr.skip()
        wanted = visit.wanted
        try:
            with self.at_work(request, progress) as report, at_work(visit.photo.file) as pixels:
                finer = Visit.of_photo(
                    self.editor, visit.photo, pixels, visit.path, wanted, visit.face.index, report
                )
            finer.protect(self.editor, visit.face.protected)
            visit.take_over(finer)
        except InputError as error:
            visit.wanted = visit.quality
            self.say(str(error))
        return {self.layout.quality: visit.wanted}

    @polite
    def apply(self, visit: Visit | None, given: str, request: gr.Request, progress=PROGRESS) -> dict:
        """Restore an edit from its text or link: of a random person, or of the photo it was made on."""
        visit = known(visit)
        _, fragment, hidden = given.partition("#edit=")
        recipe = Recipe.from_json(urllib.parse.unquote(hidden) if fragment else given)
        if recipe.photo is None:
            self.stop(request)
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
        if recipe.face != visit.face.index:
            visit = self._other(visit, recipe.face, request, progress)
        return self._restore(recipe, visit) | {self.layout.quality: visit.wanted}

    # --------------------------------------------------------------------------------------- editing

    @polite
    def preview(self, visit: Visit | None, view: str, *inputs):
        """Follow a moving slider at a quarter of the size."""
        if visit is None or visit.drawn == (view, inputs):  # the slider was released in the meantime
            return gr.skip()
        visit.drawn = None
        values, locked = self._split(inputs)
        configuration = visit.configuration(visit.targets(self.editor, values), locked)
        portrait = visit.portrait(self.editor, configuration, PREVIEW)
        after = portrait if view == PORTRAIT else visit.on_screen(self.editor, portrait)[1]
        return gr.update(after=data_url(after), turn=new_turn())

    @polite
    def edit(self, visit: Visit | None, view: str, *inputs):
        """Draw the edited face in full, unless that is on the page."""
        if visit is None:  # it has expired: the page comes back by what the browser kept
            return {self.layout.kept: LOST}
        if visit.drawn == (view, inputs):
            return gr.skip()
        values, locked = self._split(inputs)
        targets = visit.targets(self.editor, values)
        return self._draw(visit, view, targets, locked) | self._corrected(visit, values, targets)

    @polite
    def settle(self, visit: Visit | None, view: str, *inputs):
        """Put the picture in the place of a sketch that it has not followed."""
        if visit is not None and visit.drawn == (view, inputs):
            return {self.layout.stage: self._staged(visit, view)}
        return self.edit(visit, view, *inputs)

    def _corrected(self, visit: Visit, values: Sequence[float | None], targets: Mapping[str, float]) -> dict:
        """The sliders whose typed values are none, or none of theirs; and once more those that were corrected
        last, as that can have come after what has moved them since."""
        typed = dict(zip(targets, values, strict=True))
        rows = self.editor.attributes
        beyond = [n for n, v in typed.items() if v is not None and not rows[n].low <= v <= rows[n].high]
        if beyond:
            ranges = (
                f"{self.text(rows[n].label)} {said(rows[n].low, rows[n])} – {said(rows[n].high, rows[n])}"
                for n in beyond
            )
            self.say(f"This is as far as it goes: {', '.join(ranges)}.")
        before, visit.corrected = visit.corrected, {n for n, v in typed.items() if v != targets[n]}
        return {self.layout.sliders[n]: targets[n] for n in before | visit.corrected}

    @polite
    def lock(self, visit: Visit | None, view: str, *inputs):
        """Hold the locked attributes where they are."""
        visit = known(visit)
        values, locked = self._split(inputs)
        held = {slider: gr.update(interactive=n not in locked) for n, slider in self.layout.sliders.items()}
        return held | self._draw(visit, view, visit.targets(self.editor, values), locked)

    @polite
    def protect(self, visit: Visit | None, painted: str | None, view: str, *inputs):
        """Let what has been painted stay as the photo has it."""
        if visit is None:
            return {self.layout.kept: LOST}
        name, _, text = str(painted or "").partition(" ")
        if name != visit.name or visit.face is None:  # somebody else is on the page by now
            return gr.skip()
        visit.protect(self.editor, brush.from_text(text))
        values, locked = self._split(inputs)
        return self._draw(visit, view, visit.targets(self.editor, values), locked)

    @polite
    def reset(self, names: Sequence[str], visit: Visit | None, *locks) -> dict:
        """Where the sliders of `names` started; several of them only where not locked."""
        if visit is None:
            return gr.skip()
        locked = dict(zip(self.editor.attributes, locks, strict=True))
        names = names if len(names) == 1 else [name for name in names if not locked[name]]
        return {self.layout.sliders[name]: visit.start[name] for name in names}

    @polite
    def go_back(self, steps: int, visit: Visit | None):
        """The sliders before (1) or after (-1) the edit on the page."""
        return self._go(visit, visit.position - steps) if visit else gr.skip()

    @polite
    def go_to(self, visit: Visit | None, event: gr.EventData):
        """The sliders of the edit in the history that was clicked."""
        return self._go(visit, event.index) if visit else gr.skip()

    @polite
    def draw_history(self, visit: Visit | None):
        """Draw the small pictures that a history lacks."""
        if visit is None or all(step.picture is not None for step in visit.history):
            return gr.skip()
        for step in list(visit.history):
            if step.picture is None:
                visit.draw(self.editor, step)
        return self._history(visit)

    @polite
    def read(self, visit: Visit | None):
        """What the picture on the page reads: a mark on each slider, and a line below the picture, which
        says of a photo how much like it the picture is, too."""
        if visit is None or visit.picture is None:
            return gr.skip()
        rows, asked = self.editor.attributes, visit.moved(visit.values)
        if not asked:
            return gr.update(said="", marks={})
        picture = visit.picture
        values = self.editor.measure(picture)
        like = ""
        if visit.face is not None:
            like = likeness(self.editor.distance(picture, visit.before), self.text)
        said = summary(values, visit.start, asked, rows, self.text, like)
        return gr.update(said=said, marks=marks(values, rows))

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
            others = () if view == PORTRAIT else tuple(seen.left.values())
            said = credit(self.editor, seen, configuration, others)
            picture = seen.portrait(self.editor, configuration)
            if view == PORTRAIT:
                encoded = provenance.encode(picture, kind, said, mark)
            else:
                with at_work(seen.photo.file, Original.open) as photo:
                    picture = seen.pasted(self.editor, picture, photo.rgb)
                    encoded = provenance.encode(picture, kind, said, mark, photo)
                    if note := photo.note(kind):
                        self.say(note)
            name = self.file_name(seen, configuration)
            if others:
                name = f"photo_{len(others) + bool(configuration)}-people"
            return f"{name}.{'jpg' if kind == 'jpeg' else kind}", encoded

        yield from self.hand_over(make)

    def edit_another(
        self, kept: str, photo: dict | None, mark: bool, request: gr.Request, progress=PROGRESS
    ) -> Iterator[dict]:
        """Give the largest face of one of several photos the edit of the page, as the browser keeps it: the
        photo's file, for as long as it takes to send it, or a sentence that says why there is none."""
        layout = self.layout
        if photo is None:  # it did not arrive
            yield {layout.another: None, layout.another_said: ""}
            return

        def report(fraction: float, message: str) -> None:
            progress(fraction, desc=message)  # stops when the visitor has gone

        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            file, said = None, BROKEN
            try:
                name, contents = self._another(Kept.from_json(kept).shown, photo, bool(mark), report)
                file, said = Path(folder, name), ""
                file.write_bytes(contents)
            except (InputError, Cancelled) as error:
                said = str(error)
            except Exception:
                logger.exception("One of several photos failed")
            yield {layout.another: file and str(file), layout.another_said: self.text.sentence(said)}

    def _another(
        self, edit: KeptPerson, photo: dict, mark: bool, report: Callable[[float, str], None]
    ) -> tuple[str, bytes]:
        """A photo's new name and contents, in its own format or as JPEG."""
        path, given = photo["path"], Path(photo["orig_name"])
        with at_work(path, Original.open) as original:
            opened = Photo.of(Path(path).read_bytes(), original.rgb, self.editor.detect(original.rgb))
            seen = Visit.of_photo(self.editor, opened, original.rgb, path, "fast", 0, report)
            edit.put_on(seen, self.editor.attributes)
            configuration = seen.configuration(seen.values, seen.locked)
            picture = seen.pasted(self.editor, seen.portrait(self.editor, configuration), original.rgb)
            kind = {".png": "png", ".webp": "webp"}.get(given.suffix.lower(), "jpeg")
            said = credit(self.editor, seen, configuration)
            encoded = provenance.encode(picture, kind, said, mark, original)
        stem = re.sub(r"[^\w .()-]", "_", given.stem)[:60].strip(" .") or "photo"
        return f"{self.file_name(seen, configuration, stem)}.{'jpg' if kind == 'jpeg' else kind}", encoded

    def animate(
        self,
        visit: Visit | None,
        sweep: str,
        kind: str,
        mark: bool,
        request: gr.Request,
        progress=PROGRESS,
        *inputs,
    ):
        """Show a film of the whole edit, or of one attribute through its range; `page.js` saves it."""
        with self.politely("animate"), self.at_work(request, progress) as report:
            visit = known(visit)
            configuration = self.configuration(visit, inputs)
            if not sweep and not configuration:
                raise InputError("Nothing is edited yet; move a slider, or choose an attribute to animate.")
            frames = []
            for i in range(FRAMES):
                share = (1 - np.cos(np.pi * i / (FRAMES - 1))) / 2  # slow at both ends
                if sweep:
                    row = self.editor.attributes[sweep]
                    asked = configuration | {sweep: float(row.low + share * row.width)}
                else:
                    asked = {n: float(_mix(visit.start[n], v, share)) for n, v in configuration.items()}
                frame = visit.portrait(self.editor, asked)
                frames.append(provenance.marked(frame) if mark else frame)
                report((i + 1) / FRAMES, "Drawing")
            name = f"{self.file_name(visit, configuration)}{'_' + sweep if sweep else ''}.{kind}"
            contents = film(frames, kind, credit(self.editor, visit, asked))
            return {
                self.layout.film: _shown_film(contents, kind, name),
                self.layout.save_film: gr.update(visible=True),
            }
        return gr.skip()

    def download_face(self, visit: Visit | None, with_photo: bool) -> Iterator[str | None]:
        """Write the photo's face as a file, which `open_face` opens."""

        def make() -> tuple[str, bytes]:
            seen = known(visit)
            if seen.face is None:
                raise InputError("There is no photo on the page; choose one.")
            photo = seen.photo.file if with_photo and seen.photo else None
            return f"face{ENDING}", replace(seen.face, photo=photo).encode()

        yield from self.hand_over(make)

    @polite
    def explain(self, visit: Visit | None, *inputs):
        """Which experts the edit on the page runs, and what they take from one another."""
        text = self.text
        visit = known(visit)
        configuration = self.configuration(visit, inputs)
        times = [f"{text(what)} {duration(seconds)}" for what, seconds in visit.seconds.items()]
        words = f"<h2>{text('Inside this edit')}</h2><p>{html.escape(text(HOW))}</p>"
        words += f"<p>{' · '.join(times)}</p>" + experts(self.editor.attributes, list(configuration), text)
        if not configuration:
            return words + f"<p>{text('Nothing is edited yet, so no expert runs. Move a slider first.')}</p>"
        if len(configuration) == 1:
            return (
                words + f"<p>{text('One expert runs alone; with two there is something to attend to.')}</p>"
            )
        weights = self.editor.attention(visit.code, configuration)
        return words + attention_picture(self.editor.attributes, list(configuration), weights, text)

    # --------------------------------------------------------------------------------------- helpers

    def file_name(self, visit: Visit, configuration: Mapping[str, float], who: str = "") -> str:
        """A file's name that says who is edited, and how: photo_age-65_smile."""
        parts = [who or ("photo" if visit.face is not None else f"person-{visit.seed}")]
        for name, value in visit.moved({**visit.start, **configuration}).items():
            row = self.editor.attributes[name]
            number = f"{value:+g}" if row.low < 0 else f"-{value:g}"
            parts.append(name if row.kind == "binary" and value == row.high else name + number)
        return "_".join(parts)

    def _split(self, inputs: Sequence) -> tuple[Sequence[float | None], list[str]]:
        """Slider values, and the names of the locked attributes."""
        names = list(self.editor.attributes)
        values, locks = inputs[: len(names)], inputs[len(names) :]
        return values, [name for name, lock in zip(names, locks, strict=True) if lock]

    def configuration(self, visit: Visit, inputs: Sequence) -> dict[str, float]:
        """What the edit on the page asks of the editor."""
        values, locked = self._split(inputs)
        return visit.configuration(visit.targets(self.editor, values), locked)

    @contextmanager
    def _photo(self, path: str, report: Callable[[float, str], None]) -> Iterator[tuple[Photo, np.ndarray]]:
        """A photo's file, as long as its pixels are needed, with the faces in it."""
        report(0.0, "Finding the face")
        with at_work(path) as pixels:
            yield Photo.of(Path(path).read_bytes(), pixels, self.editor.detect(pixels)), pixels

    def _faces(self, photo: Photo, pixels: np.ndarray, visit: Visit) -> dict:
        """The photo's faces, to choose from."""
        small = [crop(pixels, face.quad, THUMBNAIL) for face in photo.faces]
        index = visit.face.index
        return {self.layout.faces: gr.update(value=small, selected_index=index, visible=len(small) > 1)}

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
        if visit.photo is not None:
            visit.wanted = recipe.quality
        return self._begin(visit, visit.start | recipe.edits) | {self.layout.seed: recipe.seed}

    def _begin(self, visit: Visit, targets: Mapping[str, float] | None = None, view: str = PORTRAIT) -> dict:
        """Put a visit on the page: as it was left, or with the sliders at `targets`."""
        if not visit.history:
            visit.remember(visit.start, visit.unedited)
        targets, locked = targets or visit.values, visit.locked
        return {
            self.layout.view: gr.update(value=view, visible=visit.photo is not None),
            self.layout.quality: visit.wanted,
            **(
                {self.layout.asked: time.monotonic()} if visit.photo and visit.wanted != visit.quality else {}
            ),
            **{lock: name in locked for name, lock in self.layout.locks.items()},
            **self._draw(visit, view, targets, locked),
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
        visit.drawn = (view, (*targets.values(), *(name in locked for name in targets)))
        visit.locked, visit.picture = tuple(locked), portrait
        visit.remember(targets, portrait)
        return {
            layout.visit: visit,
            layout.stage: self._staged(visit, view),
            layout.kept: Kept.of(visit).to_json(visit.path),
            layout.caption: self._caption(visit, moved),
            layout.history: self._history(visit),
            layout.recipe: visit.recipe(targets).to_json(),
            layout.undo: gr.update(interactive=visit.position > 0),
            layout.redo: gr.update(interactive=visit.position < len(visit.history) - 1),
            layout.pin: self.text("Pin this edit" if visit.pinned is None else "Unpin"),
            layout.reset_all: gr.update(interactive=bool(moved)),
            **{
                button: gr.update(
                    value=f"↺ {said(visit.start[name], self.editor.attributes[name])}",
                    interactive=name in moved,
                )
                for name, button in layout.resets.items()
            },
        }

    def _staged(self, visit: Visit, view: str) -> dict:
        """The stage with a visit's last picture."""
        before, after = visit.before, visit.picture
        if view != PORTRAIT:
            before, after = visit.on_screen(self.editor, after)
        if visit.pinned is not None:
            before = visit.pinned if view == PORTRAIT else visit.on_screen(self.editor, visit.pinned)[1]
        protected = {}
        if visit.face is not None and view == PORTRAIT:
            protected = {"visit": visit.name, "mask": brush.to_text(visit.face.protected)}
        boxes = visit.photo.boxes() if view != PORTRAIT else []
        edited = [*visit.left, *([visit.face.index] if visit.moved(visit.values) and boxes else [])]
        return gr.update(
            before=data_url(before),
            after=data_url(after),
            tag=self.text("Before" if visit.pinned is None else "Pinned edit"),
            turn=new_turn(),
            protected=protected,
            faces={"boxes": boxes, "shown": visit.face.index, "edited": edited} if len(boxes) > 1 else {},
        )

    def _caption(self, visit: Visit, moved: Mapping[str, float]) -> str:
        return self.summary(visit, moved)

    def summary(self, visit: Visit, moved: Mapping[str, float]) -> str:
        """Who is edited and how."""
        edits = [self._change(visit, name, value) for name, value in moved.items()]
        return f"<b>{self.who(visit)}</b> {' · '.join(edits) or self.text('Move a slider to begin.')}"

    def who(self, visit: Visit) -> str:
        """Whom the visit edits."""
        if visit.face is not None:
            return self.text("Your photo" if visit.photo is not None else "A saved face")
        return self.text("Random person {n}", n=visit.seed)

    def _change(self, visit: Visit, name: str, value: float) -> str:
        row = self.editor.attributes[name]
        return f"{html.escape(self.text(row.label))} {said(visit.start[name], row)} → {said(value, row)}"

    def _history(self, visit: Visit) -> str:
        """The history as a row of small pictures."""
        if len(visit.history) < 2:
            return ""
        steps = []
        for i, step in enumerate(visit.history):
            moved = visit.moved(step.values)
            said = ", ".join(self._change(visit, n, v) for n, v in moved.items()) or self.text("Unedited")
            on = ' aria-current="step"' if i == visit.position else ""
            picture = said
            if step.picture is not None:
                picture = f'<img src="{thumbnail(step.picture)}" alt="{said}">'
            steps.append(f'<button type="button" data-index="{i}"{on} title="{said}">{picture}</button>')
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
        raise InputError("This visit has ended; reload the page, and it comes back as you left it.")
    return visit


def shown_photo(visit: Visit | None) -> str | None:
    """The file of the photo that was uploaded, if there still is one."""
    path = visit.path if visit else None
    return path if path and Path(path).exists() and not path.endswith(ENDING) else None


def credit(
    editor: "FaceEditor", visit: Visit, configuration: Mapping[str, float], others: Sequence[Visit] = ()
) -> Credit:
    """How a visit's edited picture was made, and what was done to the other people in it."""
    steps = (
        f"person {other.face.index + 1} of the photo: {name} = {value:g}"
        for other in others
        for name, value in other.moved(other.values).items()
    )
    return Credit(configuration, visit.face is not None, tuple(steps), editor.model)


def _shown_film(contents: bytes, kind: str, name: str) -> str:
    """A film as HTML that plays it; it travels inside the page's message, as pictures do."""
    encoded = base64.b64encode(contents).decode()
    if kind == "gif":
        return f'<img data-name="{name}" src="data:image/gif;base64,{encoded}" alt="{name}">'
    return (
        f'<video data-name="{name}" src="data:video/mp4;base64,{encoded}" aria-label="{name}" '
        "autoplay loop muted playsinline controls></video>"
    )


def _mix(start: float, end: float, share: float) -> float:
    return start + share * (end - start)


def duration(seconds: float) -> str:
    """Seconds or milliseconds, for people."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def thumbnail(picture: np.ndarray) -> str:
    """A small picture, uint8 (s, s, 3), as a data URL."""
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
