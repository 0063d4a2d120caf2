"""What edits did to the readings of faces, against what was asked for."""

from collections.abc import Mapping, Sequence

import numpy as np

from dystyle.attributes import ATTRIBUTES, Attribute

STANDARD_ERRORS = 1.96  # standard errors in a 95 % confidence interval
CLEAR_SIDES = (0.4, 0.6)  # a probability has changed sides when it was below the one and is above the other
LEAST_SHARE = 0.5  # of the asked change, which a numeric edit has to make


def compare(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], edits: Sequence[Mapping[str, float]]
) -> dict:
    """Values before and after, against what was asked for.

    Returns:
        "reached": by edited attribute "error" and "unedited_error" (numeric, mean absolute) or "success"
        (binary); "right": share of the edited ones that `is_right` says are; "error", of all of them, as a
        share of the range; "moved", the change of the others, likewise; "change": mean absolute change by
        attribute that was not edited; "sides": share of the probabilities that were not asked for (nor are
        carried along) that have changed sides, "flips" which ones, and "flipped" the share of edits after
        which any has.
    """
    errors, unedited, changes, flips = {}, {}, {}, {}
    right, flipped, sides, missed, moved = [], [], [], [], []
    for (before, after), edit in zip(pairs, edits, strict=False):
        free = set(edit).union(*(ATTRIBUTES[name].carries for name in edit if edit[name] < 0.5))
        crossings = []
        for name, value in after.items():
            row = ATTRIBUTES[name]
            if name not in edit:
                changes.setdefault(name, []).append(abs(value - before[name]))
                moved.append(changes[name][-1] / row.width)
                watched = row.scale == "probability" and name not in free
                flips.setdefault(name, []).append(watched and crossed(before[name], value))
                if watched:
                    crossings.append(flips[name][-1])
                continue
            missed.append(abs(value - edit[name]) / row.width)
            right.append(is_right(row, before[name], value, edit[name]))
            if row.kind == "binary":
                errors.setdefault(name, []).append(right[-1])
            else:
                errors.setdefault(name, []).append(abs(value - edit[name]))
                unedited.setdefault(name, []).append(abs(before[name] - edit[name]))
        flipped.append(any(crossings))
        sides += crossings
    reached = {}
    for name in ATTRIBUTES:
        if name in errors and ATTRIBUTES[name].kind == "binary":
            reached[name] = {"success": mean_and_interval(errors[name])}
        elif name in errors:
            reached[name] = {
                "error": mean_and_interval(errors[name]),
                "unedited_error": mean_and_interval(unedited[name]),
            }
    return {
        "reached": reached,
        "right": mean_and_interval(right),
        "error": mean_and_interval(missed),
        "moved": mean_and_interval(moved),
        "sides": mean_and_interval(sides),
        "change": {name: mean_and_interval(values) for name, values in changes.items()},
        "flipped": mean_and_interval(flipped),
        "flips": {name: float(np.mean(values)) for name, values in flips.items() if any(values)},
    }


def is_right(row: Attribute, before: float, after: float, target: float) -> bool:
    """Whether an edit did what it was asked to.

    A binary attribute has to be on the asked side of 0.5. A numeric one has to come within its tolerance, or
    to have made at least half of the asked change: neither a twitch the right way nor an overshoot is enough.
    """
    if row.kind == "binary":
        return (after > 0.5) == (target > 0.5)
    left = abs(after - target)
    return left < row.tolerance or left <= (1 - LEAST_SHARE) * abs(before - target)


def crossed(before: float, after: float) -> bool:
    """Whether a probability has changed sides, from one clear side of 0.5 to the other."""
    low, high = CLEAR_SIDES
    return (before < low and after > high) or (before > high and after < low)


def mean_and_interval(values: Sequence[float]) -> dict[str, float] | None:
    """Mean of a list and half of its 95 % confidence interval (normal approximation; 0 for a single one).

    None for an empty list: with all attributes edited none is left to change, and some have no judge.
    """
    if not len(values):
        return None
    values = np.asarray(values, np.float64)
    error = values.std(ddof=min(1, len(values) - 1)) / len(values) ** 0.5
    return {"mean": float(values.mean()), "ci": float(STANDARD_ERRORS * error)}


def number_text(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ± {figure['ci']:.2f}"


def percent_text(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f"{figure['mean']:.0%} ± {figure['ci']:.0%}"


def reached_text(figures: Mapping[str, dict] | None) -> str:
    """One attribute's "reached" of `compare` for a table: the share, or the error and what it had been."""
    if figures is None:
        return ""
    if "success" in figures:
        return percent_text(figures["success"])
    return f"{number_text(figures['error'])} ({figures['unedited_error']['mean']:.1f})"
