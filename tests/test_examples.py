"""The scripts in examples/ do what they say, and are no more than a page long."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, **arguments) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**arguments)


def test_a_person_and_their_edit_stand_side_by_side(tmp_path, editor):
    out = tmp_path / "person.png"
    run("sample_and_edit", seed=5, out=out)
    with Image.open(out) as picture:
        assert picture.size == (2048, 1024)
        before, after = np.hsplit(np.asarray(picture), 2)
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
    assert editor.measure(after)["age"] > editor.measure(before)["age"] + 10


def test_a_photo_is_edited_in_its_place(tmp_path, astronaut, capsys):
    photo, out = tmp_path / "photo.png", tmp_path / "older.png"
    Image.fromarray(astronaut).save(photo)
    run("edit_photo", photo=photo, out=out)
    whole = np.asarray(Image.open(out))
    assert whole.shape == astronaut.shape and np.array_equal(whole[-40:, -40:], astronaut[-40:, -40:])
    age = capsys.readouterr().out.splitlines()[0].replace(",", "").split()
    assert age[0] == "age:" and float(age[-2]) > float(age[1]) + 10


def test_an_attribute_is_swept_by_two_methods(capsys):
    run("sweep_attribute", attribute="yaw", steps=3, seed=5)
    title, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert title[0] == "method" and [line[0] for line in lines] == ["dystyle"] * 3 + ["interfacegan"] * 3
    for method in (lines[:3], lines[3:]):
        reached = [float(line[2]) for line in method]
        assert reached == sorted(reached) and reached[-1] - reached[0] > 20
        assert all(0 < float(line[3]) <= 1.01 for line in method)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 45
