"""The attribute table: one number becomes another, whatever holds it."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from dystyle.attributes import ATTRIBUTES, Attribute, Group

VALUES = {name: np.linspace(row.low, row.high, 9) for name, row in ATTRIBUTES.items()}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_scores_values_and_levels_are_one_scale(name):
    row, values = ATTRIBUTES[name], VALUES[name]
    scores = row.value_to_score(values)
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(row.score_to_value(scores), values, atol=2e-5)
    np.testing.assert_allclose(row.value_to_level(values), row.score_to_level(scores))
    np.testing.assert_allclose(row.denormalise(row.normalise(values)), values, atol=1e-9)
    levels = row.value_to_level(values)
    assert (np.diff(levels) > 0).all() and levels[4] == pytest.approx(0) and abs(levels).max() <= 1
    assert row.normalise(row.low) == -1 and row.normalise(row.high) == 1


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_numbers_arrays_and_tensors_are_treated_alike(name):
    row, values = ATTRIBUTES[name], VALUES[name]
    tensor = torch.from_numpy(values)
    for convert in (row.value_to_score, row.value_to_level, row.clamp, row.normalise):
        np.testing.assert_allclose(convert(tensor).numpy(), convert(values), atol=1e-9)
        assert convert(float(values[2])) == pytest.approx(float(convert(values)[2]))
    scores = torch.linspace(-100, 100, 7, dtype=torch.float64)
    for convert in (row.score_to_value, row.score_to_level):
        np.testing.assert_allclose(convert(scores).numpy(), convert(scores.numpy()), atol=1e-9)
    read = row.score_to_value(scores)
    assert read.min() >= row.low and read.max() <= row.high


def test_the_ends_of_a_probability_are_finite():
    assert all(math.isfinite(ATTRIBUTES["gender"].value_to_score(value)) for value in (0.0, 1.0))
    near = ATTRIBUTES["gender"].value_to_score(torch.ones(1), margin=0.02)
    assert near.sigmoid().item() == pytest.approx(0.98)


def test_rows_say_what_can_be_true():
    for row in ATTRIBUTES.values():
        for low, high in (row.trained, row.evaluated):
            assert row.low <= low < high <= row.high
        assert row.carries == () or all(ATTRIBUTES[name].kind == "binary" for name in row.carries)
        assert row.group in get_args(Group) and 0 < row.tolerance < row.width
    with pytest.raises(ValueError, match="a probability runs from 0 to 1"):
        Attribute("roll", "numeric", -30, 30, "degrees", "Head roll")
    with pytest.raises(ValueError, match="read as a probability"):
        Attribute("hat", "binary", 0, 1, "", "Hat", scale="linear")
