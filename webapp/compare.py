"""The "Compare" tab: one edit of one face by several methods, beside each other."""

import html
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import gradio as gr
import numpy as np

from dystyle.editors import METHODS
from dystyle.editors.search import REACHED_PROBABILITY, REACHED_WITHIN, shortfall
from dystyle.errors import InputError
from webapp.callbacks import PROGRESS, Callbacks, duration, known
from webapp.fair_queue import Cancelled
from webapp.layout import PRESETS
from webapp.readings import changed_aside, reading, said
from webapp.stage import data_url
from webapp.visit import Visit

if TYPE_CHECKING:
    from dystyle import FaceEditor

PIXELS = 512  # of a picture's side on the tab
OPEN = 3  # methods that stay open
WAITING = 4  # visitors who may wait for another's comparison


@dataclass(frozen=True)
class Result:
    """What one method made of the edit.

    Attributes:
        title: of the method.
        picture: uint8 (512, 512, 3); without one, `refusal` says why.
        readings: the picture's attributes.
        identity: cosine of the embeddings of the edited and the unedited picture.
        seconds: that the edit and its picture took.
    """

    title: str
    picture: np.ndarray | None = field(default=None, repr=False)
    readings: Mapping[str, float] = field(default_factory=dict)
    identity: float = 1.0
    seconds: float = 0.0
    refusal: str = ""


class Comparer:
    """Edits by any method, one edit of one visitor at a time, for as many visitors as may wait."""

    def __init__(self, editor: "FaceEditor") -> None:
        self._editor = editor
        self._opened: OrderedDict[str, FaceEditor] = OrderedDict()
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING + 1)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue.

        Raises:
            InputError: all are taken.
        """
        if not self._places.acquire(blocking=False):
            raise InputError("Several visitors are comparing just now; please try again in a minute.")
        try:
            yield
        finally:
            self._places.release()

    def edit(
        self,
        name: str,
        visit: Visit,
        configuration: Mapping[str, float],
        progress: Callable[[float, str], None],
    ) -> Result:
        """The edit by one method, a key of `METHODS`; `progress` is called while waiting, too."""
        title = METHODS[name].title
        while not self._turn.acquire(timeout=0.2):
            progress(0.0, "Waiting for another visitor's comparison")
        try:
            progress(0.0, "Looking for the strength")
            editor = self._method(name)
            began = time.perf_counter()
            code = editor.edit(visit.code, configuration, progress, visit.face)
            picture = editor.synthesize(code, face=visit.face)
            seconds = time.perf_counter() - began
            same = float(editor.embed(picture) @ editor.embed(visit.unedited))
            return Result(title, _shrunk(picture), editor.measure(picture), same, seconds)
        except InputError as error:  # a package is missing, or the method has not learnt an attribute
            return Result(title, refusal=str(error))
        finally:
            self._turn.release()

    def _method(self, name: str) -> "FaceEditor":
        if name not in self._opened:
            self._opened[name] = self._editor.with_method(name)
            while len(self._opened) > OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(name)
        return self._opened[name]


class CompareCallbacks:
    """The tab's callbacks; inputs are those of `Callbacks`."""

    def __init__(self, page: Callbacks, comparer: Comparer) -> None:
        self.page, self.comparer = page, comparer
        self.layout, self.text = page.layout, page.text
        self._running: dict[str, threading.Event] = {}  # comparisons by session; set: to be stopped

    def prepare(self, visit: Visit | None, chosen: str, *inputs) -> dict:
        """Say who is going to be edited and how; where nothing is edited yet, choose the first edit."""
        with self.page.politely("prepare"):
            visit = known(visit)
            if not self._edit(visit, chosen, inputs):
                chosen = "0"
            configuration = self._edit(visit, chosen, inputs)
            return {
                self.layout.compared_edit: chosen,
                self.layout.compared: f"<p>{self.page.summary(visit, configuration)}</p>",
            }
        return gr.skip()

    def compare(
        self,
        visit: Visit | None,
        chosen: str,
        names: Sequence[str],
        request: gr.Request,
        progress=PROGRESS,
        *inputs,
    ) -> Iterator[str]:
        """Edit by one method after the other; every yield holds all pictures so far."""
        stop = self._running[request.session_hash] = threading.Event()
        with self.page.politely("compare"), self.comparer.place():
            visit = known(visit)
            if not (configuration := self._edit(visit, chosen, inputs)):
                raise InputError("Nothing is edited yet; move a slider, or choose an edit.")
            if len(names) < 2:
                raise InputError("Choose two methods or more.")
            ordered = [name for name in METHODS if name in names]
            results: list[Result] = []
            yield self._cards(visit, configuration, results, ordered)
            for i, name in enumerate(ordered):

                def report(fraction: float, message: str, i: int = i, name: str = name) -> None:
                    if stop.is_set():
                        raise Cancelled
                    said = f"{self.text(METHODS[name].title)}: {self.text.sentence(message)}"
                    progress((i + fraction) / len(ordered), desc=said)

                results.append(self.comparer.edit(name, visit, configuration, report))
                yield self._cards(visit, configuration, results, ordered[i + 1 :])

    def cancel(self, request: gr.Request) -> None:
        """Stop this visitor's comparison, and say so; what is finished stays."""
        self.stop(request)
        self.page.tell(str(Cancelled()))

    def stop(self, request: gr.Request) -> None:
        """Stop this visitor's comparison."""
        if running := self._running.pop(request.session_hash, None):
            running.set()

    def _edit(self, visit: Visit, chosen: str, inputs: Sequence) -> dict[str, float]:
        """The configuration of a preset by its number, or of the edit on the page."""
        if not chosen:
            return self.page.configuration(visit, inputs)
        return visit.moved(PRESETS[int(chosen)].applied(visit.start, self.page.editor.attributes))

    def _cards(
        self, visit: Visit, configuration: Mapping[str, float], results: Sequence[Result], left: Sequence[str]
    ) -> str:
        text = self.text
        cards = [_card(text("Unedited"), _image(_shrunk(visit.unedited), text("Unedited")))]
        cards += [self._card(visit, configuration, result) for result in results]
        cards += [_card(text(METHODS[name].title), '<div class="to-come"></div>') for name in left]
        near = text(
            "within {near:.0%} of the attribute's range, or a probability of {side:.0%}.",
            near=REACHED_WITHIN,
            side=REACHED_PROBABILITY,
        )
        scale = text("1 is the same picture; strangers have about 0.4, pictures of one person above 0.6.")
        return (
            f'<ul class="compared">{"".join(cards)}</ul>'
            f"<p>✓: {near}</p><p>{text('Identity kept')}: {scale}</p>"
        )

    def _card(self, visit: Visit, configuration: Mapping[str, float], result: Result) -> str:
        text, title = self.text, self.text(result.title)
        if result.picture is None:
            return _card(title, f'<div class="to-come">{html.escape(text.sentence(result.refusal))}</div>')
        rows = self.page.editor.attributes
        lines = []
        for name, target in configuration.items():
            value = result.readings[name]
            met = shortfall(name, target, value) == 0
            label, word = text(rows[name].label), text("reached" if met else "not reached")
            mark = f'<span role="img" aria-label="{word}">{"✓" if met else "✗"}</span>'
            lines.append(
                f"<dt>{html.escape(label)} → {said(target, rows[name])}</dt>"
                f'<dd class="{"met" if met else "missed"}">'
                f"{reading(value, rows[name])} {mark}</dd>"
            )
        aside = changed_aside(result.readings, visit.start, configuration, rows, text)
        for label, value in (
            ("Identity kept", f"{result.identity:.2f}"),
            ("Also changed", aside or "–"),
            ("Time", duration(result.seconds)),
        ):
            lines.append(f"<dt>{text(label)}</dt><dd>{value}</dd>")
        return _card(title, _image(result.picture, title), f"<dl>{''.join(lines)}</dl>")


def _card(title: str, picture: str, figures: str = "") -> str:
    return f"<li><h3>{html.escape(title)}</h3>{picture}{figures}</li>"


def _image(picture: np.ndarray, said: str) -> str:
    return f'<img src="{data_url(picture)}" alt="{html.escape(said)}" width="{PIXELS}" height="{PIXELS}">'


def _shrunk(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)
