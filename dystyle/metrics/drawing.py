"""Codes and edits drawn at random, to train on and to evaluate with."""

from collections.abc import Callable, Iterable

import numpy as np

from dystyle.attributes import ATTRIBUTES

ROWS = 18


def sample_codes(
    rng: np.random.Generator,
    count: int,
    mapping: Callable[[np.ndarray], np.ndarray],
    mean_w: np.ndarray,
    psi: tuple[float, float] = (0.5, 1.0),
) -> np.ndarray:
    """Random W+ codes (count, 18, 512) as real photos and edits need them.

    Half are W codes; a quarter mix two W codes at a random row (style mixing); a quarter drift from one
    code towards another by an amount that varies smoothly from row to row, as encoders' codes do. Every
    W code has its own truncation, uniform in `psi`.

    Args:
        mapping: Z (n, 512) -> W (n, 512).
    """
    w = mapping(rng.standard_normal((2 * count, 512)).astype(np.float32))
    w = mean_w + rng.uniform(*psi, (2 * count, 1)).astype(np.float32) * (w - mean_w)
    first, second = w[:count, None], w[count:, None]
    rows = np.arange(ROWS)
    crossover = (rows[None] >= rng.integers(2, 14, (count, 1))).astype(np.float32)
    knots = rng.uniform(0, 0.5, (count, 5))
    drift = np.stack([np.interp(rows, np.linspace(0, ROWS - 1, 5), knot) for knot in knots])
    kind = rng.choice(3, (count, 1), p=(0.5, 0.25, 0.25))
    share = np.where(kind == 0, 0, np.where(kind == 1, crossover, drift)).astype(np.float32)
    return first + share[:, :, None] * (second - first)


def draw_edit(rng: np.random.Generator, names: Iterable[str]) -> dict[str, float]:
    """One uniform target for each attribute, from the range evaluated; binary attributes to either end."""

    def target(name: str) -> float:
        row = ATTRIBUTES[name]
        return float(rng.integers(2) if row.kind == "binary" else rng.uniform(*row.evaluated))

    return {str(name): target(name) for name in names}
