"""Attribute dependency along edits, on faces whose readings are the code's first numbers."""

import numpy as np
import pytest

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.base import Editor, StrengthEditor
from dystyle.evaluation.dependency import dependency, path, summary

AGE = ATTRIBUTES["age"]


def read(code: np.ndarray) -> dict[str, float]:
    return {"age": AGE.low + (code[0, 0] + 1) / 2 * AGE.width, "smile": 0.5}


class Along(StrengthEditor):
    """Raises age by a tenth of a level for every unit of strength."""

    names, slopes, farthest = ("smile", "age"), np.array([1.0, 0.1]), 100.0

    @classmethod
    def open(cls, weights, backend):
        return cls()

    def mover(self, code, names, read):
        direction = np.zeros_like(code)
        direction[0, 0] = 0.1
        return lambda strengths: code + strengths[0] * direction


class Straight(Editor):
    """Does what it is told."""

    names = ("age", "smile")

    @classmethod
    def open(cls, weights, backend):
        return cls()

    def edit(self, code, configuration, read):
        moved = np.array(code)
        moved[0, 0] = AGE.value_to_level(configuration["age"])
        return moved


@pytest.mark.parametrize("start", [-0.5, 0.25])
def test_edits_go_to_the_end_that_is_farther_away(start, monkeypatch):
    code = np.zeros((18, 512))
    code[0, 0] = start
    side = 1 if start < 0 else -1
    told = [c[0, 0] for c in path(Straight(), code, "age", read(code), 4, read)]
    assert told == pytest.approx([start + k / 4 * (side - start) for k in (1, 2, 3, 4)])
    strong = [c[0, 0] - start for c in path(Along(), code, "age", read(code), 4, read)]
    assert strong == pytest.approx([side * k for k in (1, 2, 3, 4)])  # twice the range of two levels
    monkeypatch.setattr(Along, "farthest", 10.0)
    near = [c[0, 0] - start for c in path(Along(), code, "age", read(code), 2, read)]
    assert near == pytest.approx([side * 0.5, side * 1.0])


def test_dependency_is_that_of_the_place_where_the_change_is_reached_first():
    assert dependency([1, 3, 2, 5], [0.2, 0.4, 9, 9], 2) == pytest.approx(0.3)
    assert dependency([1, 3], [0.2, 0.4], 0.5) == pytest.approx(0.1)
    assert dependency([-1, 0.9], [0, 0], 1) is None


def test_who_does_nothing_does_not_win():
    edits = {
        "dystyle": [{"dependency": [0.2]}, {"dependency": [0.4]}],
        "logistic": [{"dependency": [0.4]}, {"dependency": [None]}],
        "ganspace": [{"dependency": [None]}, {"dependency": [None]}],
    }
    figures = summary({"methods": list(edits), "changes": [1.0], "edits": edits})
    (first,), (second,), (nothing,) = figures.values()
    assert first["dependency"]["mean"] == pytest.approx(0.3) and first["beside"] == 1
    assert second["reached"] == 0.5 and second["beside"] == pytest.approx(2)  # .4 beside .2, where both reach
    assert nothing == {"reached": 0.0, "dependency": None, "beside": None}
