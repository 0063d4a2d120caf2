"""How strong an edit has to be: one search for all methods that have strengths instead of target values."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dystyle.attributes import ATTRIBUTES

MOST_LOOKS = 16  # pictures looked at, at most
REACHED_WITHIN = 0.03  # share of the range within which a number counts as reached
REACHED_PROBABILITY = 0.95  # what a binary attribute's probability has to reach
FIRST, WIDEST, NARROWEST = 2.0, 6.0, 0.1  # bounds of the length of one step
DAMPING = 0.02
LEAST_CHANGE = 0.05  # changes of levels that are below what readings resolve
SLOWEST = 0.2  # share of the first guess below which no slope may be learnt

Read = Callable[[np.ndarray], Mapping[str, float]]
"""Code (18, 512) -> readings of its picture, in the table's units."""


def shortfall(name: str, target: float, value: float) -> float:
    """Signed distance to a target on the common scale; 0 where it is reached."""
    row = ATTRIBUTES[name]
    if row.kind == "binary":
        target = REACHED_PROBABILITY if target > 0.5 else 1 - REACHED_PROBABILITY
        if (value >= target) if target > 0.5 else (value <= target):
            return 0.0
    elif abs(target - value) <= REACHED_WITHIN * row.width:
        return 0.0
    return float(row.value_to_level(target) - row.value_to_level(value))


def level_changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Change of every attribute's level from one picture's values to another's."""
    rows = {name: ATTRIBUTES[name] for name in before}
    return {n: float(row.value_to_level(after[n]) - row.value_to_level(before[n])) for n, row in rows.items()}


def effect(
    name: str,
    move: Callable[[np.ndarray, float], np.ndarray],
    codes: Sequence[np.ndarray],
    before: Sequence[Mapping[str, float]],
    read: Read,
) -> dict[str, float]:
    """Mean change of every attribute's level by a step that shall raise `name`.

    Where `name` reads high already, it has no room: those faces take the step backwards, and their changes
    count with the opposite sign.

    Args:
        move: (code, 1 or -1 for the step or its opposite) -> moved code.
        before: readings of the codes' pictures.
    """
    changes = []
    for code, values in zip(codes, before, strict=True):
        sign = 1.0 if ATTRIBUTES[name].value_to_level(values[name]) < 0 else -1.0
        after = read(move(code, sign))
        changes.append([sign * change for change in level_changes(values, after).values()])
    return dict(zip(before[0], np.mean(changes, 0).tolist(), strict=True))


def most_selective(name: str, effects: Sequence[Mapping[str, float]]) -> int:
    """Which of several `effect`s changes the attribute most for what else it changes.

    Those that do less than half of what the strongest does are out: they would not reach a target.
    """
    strongest = max(changes[name] for changes in effects)

    def selectivity(changes: Mapping[str, float]) -> float:
        if changes[name] < strongest / 2:
            return -np.inf
        others = sum(abs(change) for other, change in changes.items() if other != name)
        return changes[name] / (LEAST_CHANGE + others)

    return int(np.argmax([selectivity(changes) for changes in effects]))


def search(
    move: Callable[[np.ndarray], np.ndarray],
    configuration: Mapping[str, float],
    read: Read,
    slopes: np.ndarray,
    farthest: float,
    steps: int = MOST_LOOKS,
) -> np.ndarray:
    """The code, of all that were tried, whose picture comes nearest to the targets.

    Damped least squares (Levenberg 1944) over the strengths. The Jacobian starts from `slopes` and learns
    from every picture (Broyden 1965); after a step that made things worse the next is shorter.

    Args:
        move: strengths (n,), one for each target -> edited code (18, 512).
        configuration: target values in the attributes' units, by name.
        slopes: change of the level per unit of strength, (n,), or the Jacobian (n, n), as a first guess.
        farthest: bound of every strength.
        steps: pictures to look at, at most.
    """
    jacobian = np.diag(slopes).astype(float) if np.ndim(slopes) == 1 else np.array(slopes, float)
    floor = SLOWEST * jacobian.diagonal()
    strengths, radius = np.zeros(len(configuration)), FIRST
    best, known, least = strengths, None, np.inf
    for _ in range(steps):
        code = move(strengths)
        values = read(code)
        levels = np.array([ATTRIBUTES[name].value_to_level(values[name]) for name in configuration])
        misses = np.array([shortfall(name, target, values[name]) for name, target in configuration.items()])
        if known is not None and (moved := strengths - best).any():
            surprise = levels - known - jacobian @ moved
            jacobian += np.outer(surprise, moved) / (moved @ moved)
            # Readings that do not answer yet, as saturated ones, must not stop the search.
            np.fill_diagonal(jacobian, np.maximum(jacobian.diagonal(), floor))
        missed = np.abs(misses).sum()
        if missed < least:
            result = code
        if missed <= least:
            radius = radius if known is None else min(radius * 1.5, WIDEST)
            best, known, least, left = strengths, levels, missed, misses
        else:
            radius /= 2
        if least == 0 or radius < NARROWEST:
            break
        damped = jacobian.T @ jacobian + (DAMPING * np.abs(jacobian).max()) ** 2 * np.eye(len(best))
        step = np.linalg.solve(damped, jacobian.T @ left)
        step *= min(1, radius / np.linalg.norm(step))
        strengths = np.clip(best + step, -farthest, farthest)
        if np.array_equal(strengths, best):  # at the bound
            break
    return result
