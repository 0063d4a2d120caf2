"""The independent judges: against what the published networks answered, and on generated faces."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.knowledge.networks import AGE_GENDER_MEAN, load_network
from dystyle.metrics.independent_judges import PROBES, Judges
from dystyle.weights import resolve

NAMES = (
    "face_landmark_68",
    "face_expression",
    "face_recognition",
    "facemesh_attention",
    "dlib_age",
    "dlib_gender",
)
REFERENCE = np.load(Path(__file__).parent / "data" / "judges_reference.npz")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges()


@pytest.fixture(scope="module")
def face(editor) -> np.ndarray:
    """A woman who smiles, turned to the image's left: (256, 256, 3) uint8."""
    return editor.synthesize(editor.sample(seed=3, truncation=0.7), size=256)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_published_network(name):
    low, high = REFERENCE[f"{name}.range"]
    x = low + REFERENCE[f"{name}.pictures"] / np.float32(255) * (high - low)
    if high == 255:
        x = (x - np.float32(AGE_GENDER_MEAN)) / (256 if name.startswith("dlib") else 255)
    output = load_network(name, "judges")(torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2))
    if name == "face_recognition":  # the other outputs are feature maps
        output = output[0]
    if name.startswith("dlib"):  # the originals end in a softmax
        output = output.softmax(1)
    actual, expected = output.flatten(1).numpy(), REFERENCE[f"{name}.0"]
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 2e-6 * np.abs(expected).max()


def test_cards_are_current():
    for name in NAMES:
        file = resolve(f"judges/{name}")
        assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text()


def test_mirrored_face_has_the_mirrored_yaw(judges, face):
    plain, mirrored = _rows(judges.read(np.stack([face, face[:, ::-1]])))
    assert abs(plain["yaw"]) > 5
    assert mirrored["yaw"] == pytest.approx(-plain["yaw"], abs=3)
    assert mirrored["pitch"] == pytest.approx(plain["pitch"], abs=3)
    assert mirrored["age"] == pytest.approx(plain["age"], abs=5)


def test_values_are_in_range(judges, face):
    values = judges.read(face[None])
    assert values.keys() == ATTRIBUTES.keys() & {"yaw", "pitch", "age", "gender", "smile", *PROBES}
    for name, value in values.items():
        assert value.shape == (1,) and ATTRIBUTES[name].low <= value[0] <= ATTRIBUTES[name].high


def test_larger_picture_and_other_batch_read_the_same(judges, face):
    large = face.repeat(2, axis=0).repeat(2, axis=1)
    alone, (first, _) = _rows(judges.read(large[None]))[0], _rows(judges.read(np.stack([face, face[::-1]])))
    assert first == pytest.approx(alone, abs=1e-3)


def test_edits_move_the_readings_the_right_way(judges, editor):
    code = editor.sample(seed=3, truncation=0.7)
    edits = [{}, {"smile": 0.0}, {"smile": 1.0}, {"yaw": -20.0}, {"yaw": 20.0}, {"age": 15.0}, {"age": 65.0}]
    pictures = np.stack([editor.synthesize(editor.edit(code, edit), size=256) for edit in edits])
    values = judges.read(pictures)
    assert values["smile"][1] < 0.5 < values["smile"][2]
    assert values["yaw"][3] < -8 and values["yaw"][4] > 8
    assert values["age"][6] - values["age"][5] > 15


def test_descriptors_tell_people_apart(judges, editor, face):
    other = editor.synthesize(editor.sample(seed=4, truncation=0.7), size=256)
    a, mirrored, b = judges.embed(np.stack([face, face[:, ::-1], other]))
    assert a.shape == (128,)
    assert np.linalg.norm(a - mirrored) < 0.6 < np.linalg.norm(a - b)
    assert editor.distance(face, other) == pytest.approx(np.linalg.norm(a - b), abs=1e-4)


@pytest.mark.parametrize(
    "shape, dtype", [((64, 64, 3), "uint8"), ((1, 64, 48, 3), "uint8"), ((1, 64, 64, 3), "f4")]
)
def test_refuses_what_is_no_batch_of_pictures(judges, shape, dtype):
    with pytest.raises(InputError, match="uint8 RGB"):
        judges.read(np.zeros(shape, dtype))


def _rows(values: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """One mapping per picture."""
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
