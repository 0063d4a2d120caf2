"""What an edited picture reads, beside what was asked: the same words wherever the page says it."""

import html
import math
from collections.abc import Collection, Mapping

from dystyle.attributes import Attribute
from webapp.language import Language

# Up to which distance of `FaceEditor.distance` a picture is how much like the photo. Below 0.6 is one person.
LIKE = {0.4: "high", 0.6: "fair", math.inf: "low"}
ASIDE = 0.1  # share of the range by which an attribute that was not asked for has changed notably


def times(row: Attribute) -> int:
    """How large one is on the page: probabilities are shown in percent."""
    return 100 if row.scale == "probability" else 1


def said(value: float, row: Attribute) -> str:
    """A target as the page says it; the sign stays beside its number."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%" if times(row) == 100 else f"{value:g}"


def reading(value: float, row: Attribute) -> str:
    """A number as finely as it means anything: tenths of a unit, whole percents."""
    return said(value, row) if times(row) == 100 else f"{value:.1f}"


def changed_aside(
    values: Mapping[str, float],
    start: Mapping[str, float],
    asked: Collection[str],
    rows: Mapping[str, Attribute],
    text: Language,
) -> str:
    """The labels of what has notably changed from the `start` without being asked for; "" for none."""
    aside = [
        text(row.label)
        for name, row in rows.items()
        if name not in asked and abs(values[name] - start[name]) > ASIDE * row.width
    ]
    return html.escape(", ".join(aside))


def marks(values: Mapping[str, float], rows: Mapping[str, Attribute]) -> dict[str, float]:
    """Where the readings lie on their sliders, from 0 to 1."""
    return {
        name: round(min(max((values[name] - row.low) / row.width, 0.0), 1.0), 4) for name, row in rows.items()
    }


def summary(
    values: Mapping[str, float],
    start: Mapping[str, float],
    asked: Collection[str],
    rows: Mapping[str, Attribute],
    text: Language,
    like: str = "",
) -> str:
    """One line: what the picture reads for each attribute that was asked for (one or more), how much it is
    `like` the photo, and what else has changed."""
    parts = [f"{html.escape(text(rows[name].label))} {reading(values[name], rows[name])}" for name in asked]
    parts[0] = f"{text('The picture reads')}: {parts[0]}"
    parts += [like] if like else []
    if aside := changed_aside(values, start, asked, rows, text):
        parts.append(f"{text('Also changed')}: {aside}")
    return " · ".join(parts)


def likeness(distance: float, text: Language) -> str:
    """How much an edited picture is like the photo, in a word; the number is behind it."""
    word = next(word for most, word in LIKE.items() if distance <= most)
    told = text(
        "{n} by dlib's face recognition, which has taught nothing here; less than 0.6 is one person.",
        n=f"{distance:.2f}",
    )
    return f'<span title="{html.escape(told)}">{text("Likeness to your photo")}: {text(word)}</span>'
