"""The command line as a user meets it: pictures out, one sentence for bad input."""

import sys

import numpy as np
import pytest
from PIL import Image

from dystyle import edit


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `python -m dystyle.edit` with arguments: (exit status, standard error's last line)."""

    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dystyle.edit", *map(str, arguments)])
        status = 0
        try:
            edit.main()
        except SystemExit as stop:
            status = stop.code
        errors = capsys.readouterr().err.strip().splitlines()
        return status, errors[-1] if errors else ""

    return call


@pytest.fixture
def photo(tmp_path, astronaut):
    path = tmp_path / "photo.png"
    Image.fromarray(astronaut).save(path)
    return path


def test_photo_in_portrait_out(run, photo, tmp_path):
    out = tmp_path / "new" / "older.png"
    assert run(photo, "--set", "age=65", "yaw=10", "--refine", "fast", "--out", out)[0] == 0
    assert Image.open(out).size == (1024, 1024)


def test_paste_gives_the_whole_photo(run, photo, tmp_path, astronaut):
    out = tmp_path / "whole.png"
    assert run(photo, "--set", "smile=0", "--refine", "fast", "--paste", "--out", out)[0] == 0
    whole = np.asarray(Image.open(out))
    assert whole.shape == astronaut.shape
    # The picture's far corner is not the face's business.
    assert np.array_equal(whole[-40:, -40:], astronaut[-40:, -40:])
    assert not np.array_equal(whole, astronaut)


def test_sample_gives_a_person(run, tmp_path):
    out = tmp_path / "person.jpg"
    assert run("--sample", 7, "--set", "smile=1", "--out", out)[0] == 0
    assert Image.open(out).size == (1024, 1024)


def test_folder_in_folder_out_survives_a_bad_picture(run, photo, tmp_path):
    (tmp_path / "broken.jpg").write_text("not a picture")
    out = tmp_path / "edited"
    status, error = run(tmp_path, "--set", "age=30", "--refine", "fast", "--out", out)
    assert status == 2 and "broken.jpg" in error
    assert [p.name for p in out.iterdir()] == ["photo.png"]


def test_bad_input_is_one_sentence_and_status_2(run, photo, tmp_path):
    empty, text, blank, huge = (
        tmp_path / name for name in ("empty.png", "text.jpg", "blank.png", "huge.png")
    )
    empty.touch()
    text.write_text("hello")
    Image.new("RGB", (256, 256), "white").save(blank)
    Image.new("1", (20_000, 20_000)).save(huge)
    out = ("--out", tmp_path / "never.png")
    cases = {
        "no such file": (tmp_path / "missing.jpg",),
        "empty file": (empty,),
        "text named .jpg": (text,),
        "no face": (blank,),
        "20,000 px": (huge,),
        "unknown attribute": (photo, "--set", "beauty=1"),
        "not a number": (photo, "--set", "age=abc"),
        "out of range": (photo, "--set", "age=500"),
        "no equals sign": (photo, "--set", "age"),
        "nothing to edit": (),
        "unknown refinement": (photo, "--refine", "slow"),
        "no such face": (photo, "--face", "9", "--refine", "fast"),
    }
    for name, arguments in cases.items():
        status, error = run(*arguments, *out)
        assert status == 2, name
        assert error.endswith(".") and "Traceback" not in error, (name, error)
    status, _ = run(photo, "--refine", "fast", "--out", tmp_path / "picture.nonsense")
    assert status == 2
    assert not (tmp_path / "never.png").exists()
