"""A second look: what an edit's picture reads puts right what the edit missed, and what moved by itself.

An editor guesses from the code alone how far an attribute has to go, and what it moves along differs from
face to face, so that nothing learnt in W+ foretells it (docs/laboratory.md). The picture shows both.
"""

from collections.abc import Callable, Mapping

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.search import Read

LOOKS = 1  # that one edit may take: of a second one the judges see nothing more (docs/laboratory.md)
MISSED, MOVED = 0.01, 0.02  # shares of the range below which a reading is left alone
BACK = {"linear": 1.0, "probability": 0.4}  # of the way back, by scale: whole ways of probabilities overshoot

Edit = Callable[[np.ndarray, Mapping[str, float]], np.ndarray]
"""Code (18, 512) and target values by name -> edited code."""


def look_again(
    edit: Edit, code: np.ndarray, configuration: Mapping[str, float], names: tuple[str, ...], read: Read
) -> np.ndarray:
    """The edited code (18, 512), corrected after a look at its picture.

    What was asked for is asked for anew, by as much more as was missed:

        t' = t + trust (t - read)

    What was not asked for, and moved all the same, goes back by the difference of two single edits of the
    edited code, to the value before and to that which is read now. What both have in common, which is most
    of what an edit costs the person, falls out:

        w'' = E(w, t') + sum over j of b_j (E(w', before_j) - E(w', read_j)),

    b_j the attribute's `trust` times `BACK`.

    Args:
        configuration: target values in the attributes' units, at least one, in the table's order.
        names: of the editor's attributes. What an asked one carries along when it is taken away goes free,
            and so do its companions.
        read: code -> readings of its picture.
    """
    before, edited = read(code), edit(code, configuration)
    seen, asked = read(edited), dict(configuration)
    free = {carried for name, value in asked.items() if value < 0.5 for carried in ATTRIBUTES[name].carries}
    free |= {companion for name in asked for companion in ATTRIBUTES[name].companions}
    back = np.zeros(code.shape, np.float32)
    for name in names:
        if name not in asked and name not in free:
            back += _step_back(edit, edited, name, before[name], seen[name])
    for name, target in configuration.items():
        row = ATTRIBUTES[name]
        if abs(target - seen[name]) > MISSED * row.width:
            asked[name] = float(row.clamp(target + row.trust * (target - seen[name])))
    return edit(code, asked) + back


def _step_back(edit: Edit, edited: np.ndarray, name: str, before: float, now: float) -> np.ndarray:
    """What brings an attribute back to what it was, to be added to the edited code (18, 512)."""
    row = ATTRIBUTES[name]
    if abs(now - before) <= MOVED * row.width:
        return np.zeros(edited.shape, np.float32)
    there, here = (edit(edited, {name: float(row.clamp(value))}) for value in (before, now))
    return row.trust * BACK[row.scale] * (there - here)
