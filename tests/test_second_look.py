"""A second look: what an edit's picture reads puts right what was missed and what moved along."""

import numpy as np
import pytest

from dystyle import FaceEditor
from dystyle.attributes import ATTRIBUTES
from dystyle.editors.base import edits_since
from dystyle.editors.second_look import look_again
from dystyle.errors import InputError

EDIT = {"yaw": 15.0, "age": 60.0, "eyeglasses": 1.0}


def clumsy(code: np.ndarray, configuration: dict[str, float]) -> np.ndarray:
    """Columns 0 and 1 of row 0 are yaw and age: falls short by a fifth, and of yaw a fifth goes to age; every
    edit, whatever it asks for, costs the person a unit of column 2."""
    edited = code.copy()
    for name, target in configuration.items():
        column = ("yaw", "age").index(name)
        way = 0.8 * (target - code[0, column])
        edited[0, column] += way
        if name == "yaw":
            edited[0, 1] += 0.2 * way
    edited[0, 2] += 1
    return edited


def read(code: np.ndarray) -> dict[str, float]:
    return {"yaw": float(code[0, 0]), "age": float(code[0, 1])}


def test_what_was_missed_and_what_moved_is_put_right_and_the_person_pays_once():
    code = np.zeros((18, 512), np.float32)
    code[0, :2] = 0, 40
    once, again = clumsy(code, {"yaw": 30.0}), look_again(clumsy, code, {"yaw": 30.0}, ("yaw", "age"), read)
    assert [read(once)["yaw"], read(again)["yaw"]] == pytest.approx([24, 28.8])
    # Asked for more, yaw takes age further along, from 44.8 to 45.76; half of the way back of what a clumsy
    # edit goes was trusted.
    assert [read(once)["age"], read(again)["age"]] == pytest.approx([44.8, 45.76 - 0.5 * 0.8 * 4.8])
    assert [result[0, 2] for result in (once, again)] == [1, 1]


def test_what_is_there_stays_as_it_is():
    code = np.zeros((18, 512), np.float32)
    code[0, :2] = 10, 40
    once = clumsy(code, {"yaw": 10.0})
    assert np.array_equal(look_again(clumsy, code, {"yaw": 10.0}, ("yaw", "age"), read), once)


def test_what_an_attribute_carries_along_goes_free():
    asked = []

    def edit(code: np.ndarray, configuration: dict[str, float]) -> np.ndarray:
        asked.extend(configuration)
        return code + 1

    def smiling(code: np.ndarray) -> dict[str, float]:
        return {"smile": 1.0 - code[0, 0], "mouth_open": 1.0 - code[0, 0], "eyes_closed": code[0, 0]}

    names = ("smile", "mouth_open", "eyes_closed")
    look_again(edit, np.zeros((18, 512), np.float32), {"smile": 0.0}, names, smiling)
    assert asked == ["smile", "eyes_closed", "eyes_closed", "smile"]
    asked.clear()
    bearded = {"mustache": 0.5, "beard": 0.5}
    look_again(edit, np.zeros((18, 512), np.float32), {"mustache": 1.0}, tuple(bearded), lambda _: bearded)
    assert set(asked) == {"mustache"}


def test_a_look_comes_nearer_and_moves_less(editor):
    """Five faces of the real generator, read as a user would."""
    missed, moved = np.zeros(2), np.zeros(2)
    for seed in range(5):
        code = editor.sample(seed)
        before = editor.measure(editor.synthesize(code))
        for looks in (0, 1):
            after = editor.measure(editor.synthesize(editor.edit(code, EDIT, looks=looks)))
            for name, value in after.items():
                start = EDIT.get(name, before[name])
                (missed if name in EDIT else moved)[looks] += abs(value - start) / ATTRIBUTES[name].width
    assert missed[1] < 0.8 * missed[0]
    assert moved[1] < 0.8 * moved[0]


def test_a_look_sees_the_photos_own_picture_and_its_code_knows_the_edit(editor, astronaut):
    face, said = editor.invert(astronaut), []
    code = editor.edit(face.code, {"smile": 0.0}, lambda *told: said.append(told), face, looks=1)
    assert edits_since(face.code, code).targets == {"smile": 0.0}
    assert [share for share, _ in said] == [0, 0.5]
    assert np.array_equal(editor.edit(face.code, {}, face=face, looks=1), face.code)


def test_looks_that_make_no_sense_are_refused(editor):
    code = editor.sample(0)
    for looks in (-1, 2, 0.5, True, "1", None):
        with pytest.raises(InputError, match="looks"):
            editor.edit(code, {"age": 60}, looks=looks)
    other: FaceEditor = editor.with_method("interfacegan")
    with pytest.raises(InputError, match="looks at the picture by itself"):
        other.edit(code, {"age": 60}, looks=1)
