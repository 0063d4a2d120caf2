"""What is searched is what is shown: wherever a face is edited and drawn, both are given the same face."""

from dataclasses import replace
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest

from dystyle import FaceEditor
from dystyle.attributes import ATTRIBUTES
from dystyle.edit import EditConfig, run
from dystyle.editors.base import Editor
from dystyle.evaluation import inversion_quality, sheets
from tests.browser.fake_editor import FakeEditor
from webapp.api import add_api
from webapp.compare import Comparer
from webapp.visit import Photo, Visit

EDIT = {"age": 60.0}


class Watched(FakeEditor):
    """Remembers for which face a code was edited, and lets it be drawn for no other."""

    def __init__(self) -> None:
        super().__init__()
        self.edited: list[tuple[np.ndarray, object]] = []
        self.drawn: list[object] = []  # faces of the edited codes that were drawn

    def edit(self, code, configuration, progress=None, face=None, looks=0) -> np.ndarray:
        edited = super().edit(code, configuration, progress, face)
        self.edited.append((edited, face))
        return edited

    def synthesize(self, code, size=1024, face=None, noise=None) -> np.ndarray:
        for edited, whose in self.edited:
            if edited is code:
                assert whose is face
                self.drawn.append(face)
        return super().synthesize(code, size, face, noise)


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture in which the stand-in finds a face."""
    path, picture = tmp_path / "photo.png", np.zeros((300, 300, 3), np.uint8)
    picture[100:200, 100:200, 2] = 255
    cv2.imwrite(str(path), picture)
    return path


def command_line(editor: Watched, photo: Path) -> None:
    run(EditConfig(photo=photo, set=("age=60",), out=photo.with_name("out.png")))


def opened(editor: Watched, photo: Path) -> Visit:
    pixels = cv2.imread(str(photo))[..., ::-1]
    return Visit.of_photo(editor, Photo.of(photo.read_bytes(), pixels), pixels, str(photo), "fast")


def page(editor: Watched, photo: Path) -> None:
    opened(editor, photo).portrait(editor, EDIT)


def comparison(editor: Watched, photo: Path) -> None:
    Comparer(editor).edit("interfacegan", opened(editor, photo), EDIT, lambda *_: None)


def api(editor: Watched, photo: Path) -> None:
    with gr.Blocks() as blocks:
        add_api(editor)
    edit_photo = next(f.fn for f in blocks.fns.values() if f.api_name == "edit_photo")
    next(edit_photo(str(photo), EDIT, "fast", 0, False, "png", False))


def sheet(editor: Watched, photo: Path) -> None:
    out = photo.with_name("sheet.jpg")
    sheets.make_sheet(sheets.SheetConfig(photos=(photo,), seeds=(), edits=("age=60",), out=out))


def report(editor: Watched, photo: Path) -> None:
    face = editor.invert(photo)
    inversion_quality._edit_is_right(editor, face.code, EDIT, face)


@pytest.mark.parametrize("door", [command_line, page, comparison, api, sheet, report])
def test_every_door_draws_the_face_it_has_edited(monkeypatch, photo, door):
    editor = Watched()
    monkeypatch.setattr(FaceEditor, "from_pretrained", lambda *_, **__: editor)
    door(editor, photo)
    assert any(face is not None for face in editor.drawn)


def test_methods_look_at_what_is_shown(editor, astronaut):
    """A face's tuned weights are in the pictures that a method searches by."""
    face = editor.invert(astronaut)
    own = {"conv1.bias": np.full(512, 0.5, np.float32)}
    face, seen = replace(face, tuned=own), {}

    class Looking(Editor):
        names = tuple(ATTRIBUTES)

        @classmethod
        def open(cls, weights, backend):
            raise NotImplementedError

        def edit(self, code, configuration, read):
            seen.update(read(code))
            return code

    other = editor.with_method("interfacegan")
    other.method = Looking()
    other.edit(face.code, EDIT, face=face)
    assert seen == editor.measure(editor.synthesize(face.code, face=face))
    assert seen != editor.measure(editor.synthesize(face.code))
