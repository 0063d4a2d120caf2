"""The picture of the "How it works" tab: the active experts and what they take from one another."""

import html
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dystyle.attributes import Attribute

CELL, LABEL, TOP = 46, 150, 34
WIDE = 760
HOW = (
    "Every attribute has an expert network of its own. Only the experts of the edited attributes run, so "
    "the structure of the network follows the edit. For each layer of the code, every expert proposes a "
    "change; attention lets the proposals take each other into account, and together they become one edit. "
    "That is how several attributes can change at once without dragging each other along."
)


def attention_picture(
    attributes: Mapping[str, Attribute],
    active: Sequence[str],
    weights: np.ndarray,
    text: Callable[..., str],
) -> str:
    """An SVG of one edit's attention.

    Args:
        attributes: all of the editor's.
        active: the n edited ones, in the table's order.
        weights: (rows, n, n), see `FaceEditor.attention`.
        text: translates.
    """
    mean, n = weights.mean(0), len(active)
    label = {name: html.escape(text(attributes[name].label)) for name in attributes}
    parts = []

    def write(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{words}</text>')

    def cell(x: float, y: float, w: float, h: float, share: float, words: str, hint: str) -> None:
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" class="share" '
            f'fill-opacity="{0.08 + 0.92 * share:.3f}"><title>{hint}: {share:.0%}</title></rect>'
        )
        if words:
            write(x + w / 2, y + h / 2 + 4, words, "on" if share > 0.9 else "off", "middle")

    # Who takes how much from whom, averaged over the layers.
    write(0, 16, html.escape(text("What each expert takes from each, on average")), "title")
    for i, name in enumerate(active):
        y = TOP + 78 + i * CELL
        write(LABEL - 8, y + CELL / 2 + 2, label[name], "", "end")
        x = LABEL + (i + 0.5) * CELL
        parts.append(
            f'<text transform="translate({x:g},{TOP + 70}) rotate(-38)" class="head">{label[name]}</text>'
        )
        for j, other in enumerate(active):
            hint = f"{label[name]} ← {label[other]}"
            cell(LABEL + j * CELL, y, CELL - 4, CELL - 4, mean[i, j], f"{mean[i, j]:.0%}", hint)
    # How much each expert is listened to, layer by layer.
    y = TOP + 78 + n * CELL + 44
    write(0, y - 14, html.escape(text("How much each expert is listened to, by layer of the code")), "title")
    rows = len(weights)
    wide = (WIDE - LABEL) / rows
    for j, name in enumerate(active):
        write(LABEL - 8, y + j * 26 + 17, label[name], "", "end")
        for row in range(rows):
            share = weights[row, :, j].mean()
            hint = f"{label[name]}, {html.escape(text('layer'))} {row + 1}"
            cell(LABEL + row * wide, y + j * 26, wide - 3, 23, share, f"{share:.0%}", hint)
    y += n * 26 + 16
    write(LABEL, y, html.escape(text("coarse: pose, shape")), "hint")
    write(WIDE, y, html.escape(text("fine: texture, colour")), "hint", "end")
    said = html.escape(text("Attention between the active experts"))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{said}">'
        f'<svg class="attention" viewBox="0 0 {WIDE} {y + 8:g}" role="img" aria-label="{said}">'
        + "".join(parts)
        + "</svg></div>"
    )


def experts(attributes: Mapping[str, Attribute], active: Sequence[str], text: Callable[..., str]) -> str:
    """All experts as a row of tags; the active ones are lit."""
    tags = (
        f'<li class="{"lit" if name in active else ""}">{html.escape(text(row.label))}</li>'
        for name, row in attributes.items()
    )
    return f'<ul class="experts">{"".join(tags)}</ul>'
