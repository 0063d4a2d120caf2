"""Whole sets of pictures: every kind of source, ended in the middle, bad pictures, labels that are right."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from dystyle import batch, edit
from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.pictures import load_image
from dystyle.sources import Photo, find_photos
from tests.browser.fake_editor import FakeEditor


@pytest.fixture
def cartoon(monkeypatch):
    """An editor that finds red squares, and how often it has."""
    editor = FakeEditor()
    monkeypatch.setattr(edit.FaceEditor, "from_pretrained", lambda *_: editor)
    return editor


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `python -m dystyle.batch` in this process: (exit status, what it said last)."""

    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dystyle.batch", *map(str, arguments), "--processes", "1"])
        status = 0
        try:
            batch.main()
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return status, (said.out or said.err).strip().splitlines()[-1]

    return call


def face_file(shade: int = 90, kind: str = "PNG") -> bytes:
    """A picture with a red square, in which the cartoon finds a face."""
    pixels = np.full((96, 96, 3), shade, np.uint8)
    pixels[20:80, 20:80] = (230, 20, 20)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=100, subsampling=0)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three photos with a face, one without, and a file that is no picture."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("anna.png", "ben.png", "sub/anna.png"):
        (folder / name).write_bytes(face_file())
    Image.new("RGB", (96, 96)).save(folder / "nobody.png")
    (folder / "broken.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("notes")
    return folder


def lines(file) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_a_folder_comes_back_with_a_manifest_and_a_report(run, cartoon, photos, tmp_path):
    out = tmp_path / "out"
    status, said = run(photos, "--set", "age=60", "--out", out)
    assert status == 0 and said.startswith("3 edited, see manifest.jsonl; 2 could not be, see failed.jsonl")
    rows = lines(out / "manifest.jsonl")
    assert [row["photo"] for row in rows] == ["anna.png", "ben.png", "sub/anna.png"]
    face = cartoon.invert(face_file())
    expected = cartoon.synthesize(cartoon.edit(face.code, {"age": 60}))
    for row in rows:
        assert row["set"] == {"age": 60.0} and row["picture"] == row["photo"]
        for when, picture in (("before", face.portrait), ("after", expected)):
            assert row[when] == pytest.approx(cartoon.measure(picture), abs=1e-4)
        assert np.array_equal(load_image(out / row["picture"]), expected)
        assert b"Edited by AI (age = 60)" in Image.open(out / row["picture"]).info["xmp"]
    assert {row["photo"]: row["error"].split()[0] for row in lines(out / "failed.jsonl")} == {
        "broken.jpg": "The",
        "nobody.png": "No",
    }


def test_formats_pasting_and_names_are_those_of_single_edits(run, cartoon, photos, tmp_path):
    (photos / "anna.bmp").write_bytes(face_file(kind="BMP"))
    assert run(photos, "--set", "smile=1", "--paste", "--out", tmp_path / "whole")[0] == 0
    assert run(photos, "--set", "smile=1", "--format", "webp", "--out", tmp_path / "webp")[0] == 0
    names = {row["photo"]: row["picture"] for row in lines(tmp_path / "whole" / "manifest.jsonl")}
    assert names["anna.png"] == "anna.png.png" and names["anna.bmp"] == "anna.bmp.png"
    assert load_image(tmp_path / "whole" / names["ben.png"]).shape == (96, 96, 3)
    names = {row["photo"]: row["picture"] for row in lines(tmp_path / "webp" / "manifest.jsonl")}
    assert names["sub/anna.png"] == "sub/anna.webp"
    assert Image.open(tmp_path / "webp" / "sub" / "anna.webp").format == "WEBP"


def shard(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def test_shards_at_an_address_are_read_and_written_there(run, cartoon):
    place = fsspec.filesystem("memory")
    for number in range(2):
        members = {
            "000.png": face_file(),
            "000.json": b"{}",
            "001.jpg": b"no picture",
            "/a/002.png": face_file(),
            "../003.png": face_file(),
        }
        place.pipe_file(f"/sets/set-{number}.tar", shard(members))
    place.pipe_file("/sets/other.txt", b"no shard")
    assert run("memory://sets/set-*.tar", "--set", "yaw=10", "--out", "memory://done")[0] == 0
    rows = [json.loads(line) for line in place.cat_file("/done/manifest.jsonl").splitlines()]
    assert [row["photo"] for row in rows] == [
        f"set-{i}/{name}.png" for i in (0, 1) for name in ("000", "a/002")
    ]
    assert load_image(place.cat_file("/done/set-1/a/002.png")).shape == (1024, 1024, 3)
    assert len(place.cat_file("/done/failed.jsonl").splitlines()) == 2
    place.pipe_file("/sets/bad.tar", b"nothing of the kind")
    status, said = run("memory://sets/bad.tar", "--out", "memory://bad")
    assert status == 2 and "cannot be read" in said and not place.exists("/bad")


def test_rows_of_parquet_files(run, cartoon, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures = [face_file(), b"no picture", face_file(), None, face_file()]
    columns = {"image": [{"bytes": x, "path": None} for x in pictures], "raw": pictures, "label": [0] * 5}
    parquet.write_table(pyarrow.table(columns), tmp_path / "set.parquet", row_group_size=2)
    for column in ("image", "raw"):
        out = tmp_path / column
        assert run(tmp_path / "set.parquet", "--column", column, "--set", "age=30", "--out", out)[0] == 0
        names = [f"set/{i:07}" for i in range(5)]
        assert [row["photo"] for row in lines(out / "manifest.jsonl")] == names[::2]
        assert [row["photo"] for row in lines(out / "failed.jsonl")] == names[1::2]
        assert (out / "set" / "0000004.png").is_file()
    status, said = run(tmp_path / "set.parquet", "--column", "photo", "--out", tmp_path / "never")
    assert status == 2 and "image, raw, label" in said
    (tmp_path / "set.parquet").write_bytes(b"damaged")
    status, said = run(tmp_path / "set.parquet", "--out", tmp_path / "never")
    assert status == 2 and "damaged" in said


def test_people_are_a_labelled_data_set(run, cartoon, tmp_path):
    given = ("--vary", "yaw", "smile", "--variants", 3, "--set", "age=40", "--format", "jpeg")
    assert run("--people", 4, "--seed", 7, *given, "--out", tmp_path / "people")[0] == 0
    rows = lines(tmp_path / "people" / "manifest.jsonl")
    assert [(row["seed"], row["picture"]) for row in rows] == [
        (seed, f"{seed:07}-{i}.jpg") for seed in range(7, 11) for i in range(3)
    ]
    yaws = [row["set"]["yaw"] for row in rows]
    low, high = ATTRIBUTES["yaw"].evaluated
    assert len({*yaws}) == 12 and min(yaws) >= low and max(yaws) <= high
    assert {row["set"]["smile"] for row in rows} == {0.0, 1.0} and {row["set"]["age"] for row in rows} == {
        40.0
    }
    row, code = rows[5], cartoon.sample(8, 0.7)
    again = cartoon.synthesize(cartoon.edit(code, row["set"])).astype(int)
    assert np.abs(load_image(tmp_path / "people" / row["picture"]) - again).mean() < 2
    xmp = Image.open(tmp_path / "people" / row["picture"]).info["xmp"]
    assert b"A person generated by AI" in xmp and f"yaw = {row['set']['yaw']:g}".encode() in xmp
    # More people later are the same people and some more.
    assert run("--people", 5, "--seed", 7, *given, "--out", tmp_path / "people")[0] == 0
    assert lines(tmp_path / "people" / "manifest.jsonl")[:12] == rows


def test_what_is_done_is_not_done_again_and_nothing_is_left_out(run, cartoon, photos, tmp_path, monkeypatch):
    out, invert, turn = tmp_path / "out", cartoon.invert, []

    def stop(*arguments, **options):
        turn.append(None)
        if len(turn) == 2:
            raise KeyboardInterrupt
        return invert(*arguments, **options)

    monkeypatch.setattr(cartoon, "invert", stop)
    status, said = run(photos, "--set", "age=60", "--out", out)
    assert status == 130 and "goes on from here" in said and not (out / "manifest.jsonl").exists()
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(first) == 1
    cartoon.calls.clear()
    assert run(photos, "--set", "age=60", "--out", out)[0] == 0
    assert [name for name, _ in cartoon.calls].count("edit") == 2
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert len(lines(out / "manifest.jsonl")) == 3 and len(lines(out / "failed.jsonl")) == 2
    # What failed is tried again only if that is asked for.
    (photos / "broken.jpg").write_bytes(face_file(kind="JPEG"))
    assert run(photos, "--set", "age=60", "--out", out)[1].startswith("3 edited")
    assert run(photos, "--set", "age=60", "--out", out, "--retry")[1].startswith("4 edited")
    assert [row["photo"] for row in lines(out / "failed.jsonl")] == ["nobody.png"]


def test_what_nobody_expected_becomes_a_row_too(run, cartoon, photos, tmp_path):
    cartoon.broken = True
    status, said = run(photos, "--set", "age=60", "--out", tmp_path / "out")
    assert status == 0 and said.startswith("0 edited")
    failed = lines(tmp_path / "out" / "failed.jsonl")
    assert len(failed) == 5 and "RuntimeError: the engine is out of order" in failed[0]["error"]
    assert "Traceback" in failed[0]["traceback"]


def test_bad_options_are_one_sentence_before_the_work(run, cartoon, photos, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    assert run(photos, "--set", "age=60", "--out", tmp_path / "done")[0] == 0
    cartoon.calls.clear()
    for arguments, sentence in (
        ((), "Give either a source"),
        ((photos, "--people", 3), "Give either a source"),
        (("--people", 0), "from 1 on"),
        (("--people", 3, "--paste"), "no --paste"),
        ((photos, "--variants", 2), "--vary"),
        ((photos, "--vary", "beauty"), "There is no attribute 'beauty'"),
        ((photos, "--vary", "beard"), "has not learnt 'beard'"),
        ((photos, "--vary", "age", "--set", "age=60"), "leave it out of one"),
        ((photos, "--set", "age=600"), "out of range"),
        ((empty,), "holds no pictures"),
        ((tmp_path / "missing",), "holds no pictures"),
        (("nonsense://photos",), "cannot be opened"),
        ((photos, "--out", photos / "out"), "lies among the photos"),
        ((photos, "--out", photos), "lies among the photos"),
        ((photos, "--set", "age=50", "--out", tmp_path / "done"), "holds another batch"),
        ((photos, "--out", "/proc/out"), "could not be written"),
    ):
        given = arguments if "--out" in arguments else (*arguments, "--out", out)
        status, said = run(*given)
        assert status == 2 and sentence in said and said.endswith("."), (arguments, said)
    assert "edit" not in dict(cartoon.calls) and not out.exists()


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path):
    place, found = find_photos(str(_sparse(tmp_path / "huge.png")))
    assert found == [Photo("huge.png", str(tmp_path / "huge.png"), None, 10**9)]
    with pytest.raises(InputError, match="too large"):
        found[0].read(place)


def _sparse(file: Path) -> Path:
    with file.open("wb") as opened:
        opened.truncate(10**9)
    return file


def test_a_real_photo_and_its_readings(run, editor, astronaut, tmp_path, monkeypatch):
    monkeypatch.setattr(edit.FaceEditor, "from_pretrained", lambda *_: editor)
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    assert run(tmp_path / "astronaut.png", "--set", "age=65", "--out", tmp_path / "out")[0] == 0
    (row,) = lines(tmp_path / "out" / "manifest.jsonl")
    assert row["before"]["age"] < 40 and row["after"]["age"] == pytest.approx(65, abs=8)
    reading = editor.measure(load_image(tmp_path / "out" / "astronaut.png"))
    assert row["after"] == pytest.approx(reading, abs=1e-4)


# What a user's `python -m dystyle.batch` does, with an editor that draws; of the face in c.png it waits for
# whoever opens the pipe.
PROGRAM = """
import os

from dystyle import batch, edit
from tests.browser.fake_editor import FakeEditor


class Waiting(FakeEditor):
    def invert(self, photo, *arguments):
        if photo[0, 0, 0] == 99 and "PIPE" in os.environ:
            open(os.environ["PIPE"]).read()
        return super().invert(photo, *arguments)


edit.FaceEditor.from_pretrained = lambda *_: Waiting()
if __name__ == "__main__":
    batch.main()
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes and signals")
def test_killed_processes_leave_nothing_half_done_and_nobody_behind(tmp_path):
    photos, out, pipe, program = (tmp_path / name for name in ("photos", "out", "pipe", "program.py"))
    photos.mkdir()
    for name, shade in zip("abcdefgh", (90, 90, 99, *[90] * 5), strict=True):
        (photos / f"{name}.png").write_bytes(face_file(shade))
    os.mkfifo(pipe)
    program.write_text(PROGRAM)
    command = [sys.executable, program, photos, "--set", "age=60", "--processes", "2", "--out", out]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    begun = subprocess.Popen(command, env=environment | {"PIPE": str(pipe)}, stderr=subprocess.PIPE)
    with pipe.open("wb"):  # until a process is at c.png
        begun.kill()
        begun.wait()
        begun.stderr.read()  # until the last process that could write there is gone
    done = {path.name: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    assert done and "c.png.jsonl" not in done and not (out / "manifest.jsonl").exists()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    rows = lines(out / "manifest.jsonl")
    assert [row["photo"] for row in rows] == [f"{name}.png" for name in "abcdefgh"]
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}.items()
    assert all(load_image(out / row["picture"]).shape == (1024, 1024, 3) for row in rows)
