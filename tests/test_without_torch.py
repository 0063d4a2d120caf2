"""Without PyTorch: the first start, editing and the page work; what needs it says so in a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from dystyle import weights
from tests.browser.fake_editor import FakeEditor
from webapp.language import ENGLISH
from webapp.layout import Layout

PHOTO = Path(__file__).parents[1] / "webapp" / "examples" / "astronaut.jpg"
WITHOUT_TORCH = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else find(name, *rest)
"""
PROGRAM = """
import sys
import json
import numpy as np
from dystyle import FaceEditor, InputError, edit
from dystyle.editors import METHODS
from webapp import build_page

photo, out, generator = sys.argv[1:]
editor = FaceEditor.from_pretrained(backend="onnx")
editor.warm_up((256, 128))
face = editor.invert(photo)
code = editor.edit(face.code, {"age": 60, "yaw": 10})
picture = editor.synthesize(code, 256, face=face)
whole = editor.paste(editor.synthesize(code, face=face), face, photo)
for name in METHODS:
    if name != "styleflow":
        other = editor.with_method(name)
other = editor.with_method("interfacegan_z").method.mover(code, ("yaw",), None)(np.ones(1))
page = build_page(editor)

sys.argv = ["dystyle.edit", "--sample", "3", "--set", "smile=1", "--out", out, "--backend", "onnx"]
edit.main()

said = []
for call in (
    lambda: editor.invert(photo, "precise"),
    lambda: FaceEditor.from_pretrained(backend="torch"),
    lambda: FaceEditor.from_pretrained(generator=generator),
    lambda: editor.with_method("styleflow"),
):
    try:
        call()
    except InputError as error:
        said.append(str(error))
read = editor.measure(picture)
assert editor.distance(picture, picture) == 0
print(json.dumps([said, read, list(whole.shape), str(other.dtype), list(editor.qualities)]))
"""


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """A cache with the default generator and nothing else."""
    folder, source = tmp_path / "cache", weights.resolve("mobile_stylegan")
    folder.mkdir()
    (folder / source.name).symlink_to(source)
    monkeypatch.setenv("DYSTYLE_CACHE", str(folder))
    return folder


def test_all_but_optimisation_runs_from_the_first_start_on(cache, editor, tmp_path):
    out, generator = tmp_path / "out.png", tmp_path / "generator.pt"
    generator.write_bytes(b"never read")
    arguments = [sys.executable, "-c", WITHOUT_TORCH + PROGRAM, PHOTO, out, generator]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, read, shape, dtype, qualities = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 4 and all("pip install torch" in s and s.endswith(".") for s in said), said
    assert out.stat().st_size > 100_000 and len(shape) == 3 and dtype == "float32" and qualities == ["fast"]
    face = editor.invert(PHOTO)
    code = editor.edit(face.code, {"age": 60, "yaw": 10})
    assert read == pytest.approx(editor.measure(editor.synthesize(code, 256, face=face)), abs=1e-3)
    assert {file.stem.split("-")[0] for file in (cache / "engines").glob("*.onnx")} >= {
        "reader", "identity", "encoder", "detector", "mesh", "residual", "features", "parts", "person",
        "carrier_start", "carrier_moves", "carrier",
    }  # fmt: skip


def test_the_page_offers_what_can_be_done_here():
    with gr.Blocks():
        some, all_of_it = (
            Layout(FakeEditor.attributes, ENGLISH, qualities=given).quality
            for given in (("fast",), FakeEditor.qualities)
        )
    assert [value for _, value in some.choices] == ["fast"] and not some.visible
    assert [value for _, value in all_of_it.choices] == ["fast", "balanced", "precise"] and all_of_it.visible


@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_commands_that_need_it_name_what_brings_it(module):
    program = f"{WITHOUT_TORCH}import dystyle.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'dystyle[train]'" in done.stderr
    assert done.stderr.count("\n") == 1
