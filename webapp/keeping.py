"""What the visitor's browser keeps of a visit, so that the page can bring it back: see `keep.js`.

The photo itself comes back as an ordinary upload. What is kept beside it are numbers; they come from a
browser, and are checked like everything that does.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dystyle.attributes import Attribute
from dystyle.errors import InputError
from webapp import brush
from webapp.readings import times
from webapp.visit import LONGEST_HISTORY, MOST_PEOPLE, Recipe, Step, Visit, on_slider

LONGEST = 200_000  # characters of what is kept
DAMAGED = "What this browser kept of your last visit cannot be read."


@dataclass(frozen=True)
class KeptPerson:
    """One person's edits.

    Attributes:
        recipe: whom they are of, and the edit on the page.
        history: all edits, attribute -> target value, from the unedited face on.
        position: which of them is on the page.
        locked: names of the locked attributes.
        protected: what of the portrait stays the photo's, as `brush.to_text` writes it.
    """

    recipe: Recipe
    history: tuple[dict[str, float], ...]
    position: int
    locked: tuple[str, ...]
    protected: str = ""

    @classmethod
    def of(cls, visit: Visit) -> "KeptPerson":
        """What is to be kept of a visit's face."""
        edits = tuple(visit.moved(step.values) for step in visit.history)
        recipe = replace(visit.recipe(visit.values), quality=visit.wanted)
        protected = brush.to_text(visit.face and visit.face.protected)
        return cls(recipe, edits, visit.position, visit.locked, protected)

    def put_on(self, visit: Visit, attributes: Mapping[str, Attribute]) -> None:
        """Give a visit's face its history back; the small pictures are still to be drawn."""

        def step(edits: Mapping[str, float]) -> Step:
            known = {n: on_slider(v, attributes[n]) for n, v in edits.items() if n in attributes}
            return Step(visit.start | known)

        visit.history = [step(edits) for edits in self.history]
        visit.position = self.position
        visit.locked = tuple(name for name in self.locked if name in attributes)

    def to_object(self) -> dict:
        """For JSON."""
        more = {"history": self.history, "position": self.position, "locked": self.locked}
        if self.protected:
            more["protected"] = self.protected
        return self.recipe.to_object() | more

    @classmethod
    def from_object(cls, read: dict) -> "KeptPerson":
        """What `to_object` wrote.

        Raises:
            InputError, ValueError, TypeError, KeyError, AttributeError: it is not that.
        """
        recipe = Recipe.from_json(json.dumps({key: read.get(key) for key in WHOM if key in read}))
        history = tuple({str(n): float(v) for n, v in edits.items()} for edits in read["history"])
        position, locked = int(read["position"]), tuple(map(str, read["locked"]))
        brush.from_text(protected := str(read.get("protected", "")))
        finite = all(math.isfinite(value) for edits in history for value in edits.values())
        if not (finite and 0 <= position < len(history) <= LONGEST_HISTORY):
            raise ValueError
        return cls(recipe, history, position, locked, protected)


WHOM = ("dystyle", "seed", "photo", "face", "quality", "edits")


@dataclass(frozen=True)
class Kept:
    """A visit as its browser keeps it.

    Attributes:
        people: the edited people of the photo, or the random person; the last one is on the page.
        start: where the sliders of that one started.
        waiting: an edit that came by a link, whose photo is still to be chosen.
    """

    people: tuple[KeptPerson, ...]
    start: Mapping[str, float]
    waiting: Recipe | None = None

    @property
    def shown(self) -> KeptPerson:
        """The one on the page."""
        return self.people[-1]

    @property
    def edited(self) -> bool:
        """Whether there is more to bring back than somebody whom the page would have shown anyway."""
        return self.shown.recipe.photo is not None or any(len(p.history) > 1 for p in self.people)

    @classmethod
    def of(cls, visit: Visit) -> "Kept":
        """What is to be kept of a visit."""
        return cls(tuple(map(KeptPerson.of, (*visit.left.values(), visit))), visit.start, visit.waiting)

    def to_json(self, path: str | None) -> str:
        """A JSON object; `path` is the uploaded file of photo or saved face, which the browser keeps, too."""
        people = [person.to_object() for person in self.people]
        kept = {"people": people, "start": dict(self.start), "path": path}
        if self.waiting is not None:
            kept["waiting"] = self.waiting.to_object()
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Kept":
        """Read what `to_json` wrote.

        Raises:
            InputError: it is not such an object, or too long.
        """
        try:
            if len(text) > LONGEST:
                raise ValueError
            read = json.loads(text)
            people = tuple(map(KeptPerson.from_object, read["people"]))
            if not 1 <= len(people) <= MOST_PEOPLE + 1 or len({p.recipe.photo for p in people}) > 1:
                raise ValueError
            waiting = read.get("waiting")
            start = {str(name): float(value) for name, value in read["start"].items()}
            return cls(people, start, Recipe.from_json(json.dumps(waiting)) if waiting else None)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise InputError(DAMAGED) from None  # InputError is a ValueError


def noted_values(
    text: str, kept: Kept, visit: Visit, attributes: Mapping[str, Attribute]
) -> dict[str, float]:
    """Where the sliders were when the page went away, as the browser noted it; those that had not been moved
    are where they start now."""
    try:
        read = {name: float(value) for name, value in json.loads(text).items() if name in attributes}
        noted = {name: value / times(attributes[name]) for name, value in read.items()}
        return {
            name: visit.start[name] if value == kept.start.get(name) else on_slider(value, attributes[name])
            for name, value in noted.items()
        }
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
