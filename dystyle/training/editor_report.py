"""What a run of training shows of its editor: a grid of edits, figures on held-out faces, and a card."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.metrics.comparison import compare, reached_text
from dystyle.metrics.drawing import draw_edit

JOINT = (2, 3, 5)  # attributes at once in the report
GRID_SIZE = 128


@torch.no_grad()
def edits_grid(
    editor: DyStyle, codes: Tensor, scores: Mapping[str, Tensor], render: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Faces in rows, unedited and with each attribute at the far end of its range: (3, h, w), 0..1.

    Args:
        codes: (b, 18, 512); scores: theirs, (b,) by attribute.
        render: codes and a size -> pictures (b, 3, size, size) about [-1, 1].
    """
    columns = [codes]
    for name in editor.names:
        row = ATTRIBUTES[name]
        low, high = row.trained
        beyond = scores[name] > row.value_to_score((low + high) / 2)
        columns.append(editor(codes, {name: torch.where(beyond, float(low), float(high))}))
    images = torch.cat([render(column, GRID_SIZE) for column in columns], 3)
    return (torch.cat(list(images), 1) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def held_out_figures(
    editor: DyStyle, codes: Tensor, read: Callable[[Tensor], Mapping[str, Tensor]], most: int, seed: int
) -> dict[str, dict]:
    """Edits of faces that were not learnt from.

    Args:
        codes: (n, 18, 512). read: codes -> scores (n,) by attribute. most: attributes at once, at most.

    Returns:
        By attribute edited alone, and by "N at once", what `compare` says.
    """
    rng, names = np.random.default_rng(seed), editor.names
    plans = {name: [draw_edit(rng, [name]) for _ in codes] for name in names}
    for size in JOINT:
        if size <= min(len(names), most):
            plans[f"{size} at once"] = [draw_edit(rng, rng.choice(names, size, replace=False)) for _ in codes]
    before, figures = _values(read(codes)), {}
    for label, edits in tqdm(plans.items(), desc="report"):
        targets = [{name: torch.tensor([value]) for name, value in edit.items()} for edit in edits]
        edited = torch.cat([editor(c[None], t) for c, t in zip(codes, targets, strict=True)])
        figures[label] = compare(list(zip(before, _values(read(edited)), strict=True)), edits)
    return figures


def _values(scores: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Values face by face."""
    columns = {name: ATTRIBUTES[name].score_to_value(score).tolist() for name, score in scores.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def card(editor: DyStyle, made: str, read: str, figures: Mapping[str, dict]) -> str:
    """The card of an editor's weights, as Markdown.

    Args:
        made: how it was trained, in sentences. read: on what the figures were read.
    """
    lines = [
        "# dystyle",
        "",
        f"A DyStyle editor of {', '.join(editor.names)} on W+ rows 0 to {editor.rows - 1}, width "
        f"{editor.hidden}. {made}",
        "",
        f"{read} Errors in the attributes' units, in brackets had nothing been done; binary attributes: "
        "share reached; flipped: edits after which an attribute that was not asked for has changed sides. "
        "`python -m dystyle.evaluate editing` judges the full pictures, with independent networks.",
        "",
        "| edit | reached | right | flipped |",
        "|---|---|---|---|",
    ]
    for label, figure in figures.items():
        reached = reached_text(figure["reached"].get(label))
        shares = (f"{figure[key]['mean']:.0%}" for key in ("right", "flipped"))
        lines.append(f"| {label} | {reached} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"
