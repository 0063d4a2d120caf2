"""A row of the attribute table and a predictor are all that an attribute takes.

A numeric and a binary one, which nothing else in the project knows, go through readings, drawing, losses,
training, reports, ONNX graph and page.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import onnxruntime
import pytest
import torch
from test_training import small
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES, Attribute, validate_configuration
from dystyle.editors.dystyle import DyStyle
from dystyle.engines.editor_graph import EditorWeights, build_editor_graph, shared_weights
from dystyle.engines.graphs import Measuring, generator
from dystyle.evaluation import bench, editing
from dystyle.evaluation.editing import EditingConfig, benchmarked, evaluate_editing
from dystyle.evaluation.editing_table import table
from dystyle.knowledge.readings import PREDICTORS, SeenFaces
from dystyle.metrics.drawing import draw_edit, sample_codes
from dystyle.training.curriculum import draw_targets, sample_configuration
from dystyle.training.dataset import FaceDataset
from dystyle.training.editor import EditorTrainer
from dystyle.training.losses import attribute_loss, identity_tolerance, preservation_loss
from dystyle.weights import load
from tests.browser.fake_editor import FakeEditor
from webapp import build_page
from webapp.language import ENGLISH
from webapp.layout import Layout
from webapp.visit import Visit

ROLL = Attribute(
    "roll",
    "numeric",
    -30,
    30,
    "degrees",
    "Head roll",
    scale="linear",
    trained=(-25, 25),
    evaluated=(-20, 20),
    tolerance=4,
    error_bounds=(3, 5),
    identity_cost=0.1,
    mirror_sign=-1,
    group="Pose",
)
WIDE_MOUTH = Attribute("wide_mouth", "binary", 0, 1, "", "Wide mouth")


def roll(faces: SeenFaces) -> torch.Tensor:
    """Degrees, clockwise: the line through the outer corners of the eyes."""
    line = faces.mesh[:, 263] - faces.mesh[:, 33]
    return torch.atan2(line[:, 1], line[:, 0]) * 180 / math.pi


def wide_mouth(faces: SeenFaces) -> torch.Tensor:
    """A logit: the mouth's share of the face's width."""
    mouth, face = (faces.mesh[:, a, :2] - faces.mesh[:, b, :2] for a, b in ((61, 291), (234, 454)))
    return 40 * (mouth.norm(dim=1) / face.norm(dim=1) - 0.4)


@pytest.fixture(scope="module", autouse=True)
def rows():
    """The table with both rows."""
    with pytest.MonkeyPatch.context() as patch:
        for row, predict in ((ROLL, roll), (WIDE_MOUTH, wide_mouth)):
            patch.setitem(ATTRIBUTES, row.name, row)
            patch.setitem(PREDICTORS, row.name, predict)
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A folder of five rendered faces."""
    codes = sample_codes(np.random.default_rng(0), 5, generator().map, generator().mean_w.numpy())
    folder = tmp_path_factory.mktemp("faces")
    FaceDataset.render(folder, codes, lambda codes: generator()(codes, 256))
    return folder


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory) -> Path:
    """The folder of a run of two steps that learns both."""
    out = tmp_path_factory.mktemp("run")
    names = ("roll", "wide_mouth", "smile")
    config = small(out, faces, attributes=names, starts=3, fine_starts=3, inverted=0, steps=2)
    config = replace(config, stages=((128, 1.0, 2),))
    EditorTrainer(config, generator()).run()
    return out


def test_it_is_read(faces):
    pictures = torch.from_numpy(FaceDataset.load(faces).images.copy()).permute(0, 3, 1, 2).float()
    angle = math.radians(10)
    turn = torch.tensor([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]])
    grid = F.affine_grid(turn.expand(len(pictures), -1, -1), list(pictures.shape), align_corners=False)
    turned = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    with torch.no_grad():
        straight, rolled, mirrored = (
            Measuring()(x.permute(0, 2, 3, 1).round().to(torch.uint8))
            for x in (pictures, turned, pictures.flip(3))
        )
    column, mouth = (list(ATTRIBUTES).index(name) for name in ("roll", "wide_mouth"))
    assert straight.shape == (len(pictures), len(ATTRIBUTES))
    assert (rolled - straight)[:, column].mean().item() == pytest.approx(10, abs=3)
    assert (mirrored + straight)[:, column].abs().mean() < 4
    assert ((straight[:, mouth] > 0) & (straight[:, mouth] < 1)).all()
    # The others are read as before.
    assert list(ATTRIBUTES)[-2:] == ["roll", "wide_mouth"] and (straight[:, 2] > 5).all()


def test_edits_of_it_are_drawn_and_checked():
    rng = np.random.default_rng(0)
    evaluated = [draw_edit(rng, ["roll", "wide_mouth"]) for _ in range(100)]
    assert -20 <= min(e["roll"] for e in evaluated) < -15 < 15 < max(e["roll"] for e in evaluated) <= 20
    assert {e["wide_mouth"] for e in evaluated} == {0.0, 1.0}
    trained = draw_targets("roll", 200)
    assert -25 <= trained.min() < -20 and 20 < trained.max() <= 25
    current = {"roll": torch.full((50,), 29.0), "wide_mouth": torch.zeros(50)}
    drawn = sample_configuration(("roll", "wide_mouth"), 2, current)
    assert 0 < (drawn["roll"] == 29).sum() < 25  # some stay where they are
    assert drawn["wide_mouth"].min() >= 0 and drawn["wide_mouth"].max() <= 1
    assert validate_configuration({"wide_mouth": 1, "roll": -30}) == {"roll": -30, "wide_mouth": 1}
    assert {"roll", "wide_mouth"} < set(benchmarked())


def test_losses_know_it():
    before = {"roll": torch.tensor([0.0]), "wide_mouth": torch.tensor([-3.0]), "age": torch.tensor([30.0])}
    targets = {"roll": torch.tensor([20.0]), "wide_mouth": torch.tensor([1.0])}
    far, near = (
        attribute_loss(before | {"roll": torch.tensor([r]), "wide_mouth": torch.tensor([m])}, targets)
        for r, m in ((5.0, -2.0), (19.0, 9.0))
    )
    assert all(0 < near[name] < 0.5 * far[name] for name in targets)
    rolled = before | {"roll": torch.tensor([10.0])}
    assert preservation_loss(rolled, before, {"age": torch.tensor([30.0])}) > 0.1
    assert identity_tolerance({"roll": torch.tensor([15.0])}, before) == pytest.approx(0.1 * 0.5)


def test_it_is_learnt_and_reported(run):
    report = json.loads((run / "report.json").read_text())
    assert list(report) == ["smile", "roll", "wide_mouth", "2 at once"]
    assert report["roll"]["reached"]["roll"].keys() == {"error", "unedited_error"}
    assert report["wide_mouth"]["reached"]["wide_mouth"].keys() == {"success"}
    card = (run / "dystyle.md").read_text()
    assert "| roll |" in card and "| wide_mouth |" in card


def test_its_expert_is_assembled_as_it_was_learnt(run, tmp_path):
    file, weights = run / "dystyle.safetensors", tmp_path / "editor.weights"
    editor, codes = DyStyle.load(str(file)), torch.randn(2, 18, 512)
    assert editor.names == ("smile", "roll", "wide_mouth")
    content, index = shared_weights(*load(str(file)))
    weights.write_bytes(content)
    graph = build_editor_graph(EditorWeights.map(weights, index), ("roll", "wide_mouth"))
    (tmp_path / "graph.onnx").write_bytes(graph.SerializeToString())
    targets = np.float32([[-12.0, 1.0], [25.0, 0.0]])
    feed = {"codes": codes.numpy(), "targets": targets}
    found = onnxruntime.InferenceSession(tmp_path / "graph.onnx").run(None, feed)[0]
    asked = {"roll": torch.from_numpy(targets[:, 0]), "wide_mouth": torch.from_numpy(targets[:, 1])}
    np.testing.assert_allclose(found, editor(codes, asked).detach().numpy(), atol=1e-5)


class LinearWorld:
    """An editor and its pictures, as far as an evaluation asks: codes hold the values, pictures the codes."""

    names = ("yaw", "roll", "wide_mouth")
    attributes = {name: None for name in names}

    def sample(self, seed, truncation):
        code = np.zeros((18, 512), np.float32)
        code[0, :3] = np.random.default_rng(seed).uniform((-9, -9, 0), (9, 9, 1))
        return code

    def edit(self, code, configuration):
        edited = code.copy()
        for name, value in configuration.items():
            edited[0, self.names.index(name)] = value - 1.5 * (name == "roll")
        return edited

    def synthesize(self, code, size=256, face=None):
        return np.full((256, 256, 3), (code[0, :3] + (30, 30, 0)) * (4, 4, 200)).round().astype(np.uint8)

    def measure(self, picture):
        values = picture[0, 0] / (4, 4, 200) - (30, 30, 0)
        return dict(zip(self.names, values.tolist(), strict=True))

    def embed(self, picture):
        return np.eye(4)[0]


def test_it_is_evaluated(monkeypatch, tmp_path):
    world = LinearWorld()
    judges = SimpleNamespace(
        read=lambda images: {"yaw": np.array([world.measure(images[0])["yaw"]])},
        embed=lambda images: np.zeros((1, 4)),
    )
    monkeypatch.setattr(bench, "Judges", lambda: judges)
    monkeypatch.setattr(editing, "FaceEditor", SimpleNamespace(from_pretrained=lambda **_: world))
    monkeypatch.setattr(bench, "frechet", lambda a, b: 0.0)
    config = EditingConfig(attributes=world.names, count=4, joint=(2, 3), inverted=0)
    result = evaluate_editing(replace(config, methods=("sum",)), tmp_path)
    assert result["single"]["roll"]["values"]["reached"]["roll"]["error"]["mean"] == pytest.approx(
        1.5, abs=0.2
    )
    assert result["single"]["wide_mouth"]["values"]["reached"]["wide_mouth"]["success"]["mean"] == 1
    text = table(result)
    assert "yaw ±25, roll ±20" in text and "yaw 5, roll 4" in text
    assert "| roll alone | 3 | 1." in text and "| roll among three | 5 | 1." in text
    assert "| worst binary attribute alone | 92% | 100% (wide_mouth) |" in text
    assert (tmp_path / "editing.png").exists()


def test_it_stands_on_the_page():
    editor = FakeEditor()
    editor.attributes = editor.attributes | {"roll": ROLL, "wide_mouth": WIDE_MOUTH}
    with gr.Blocks():
        layout = Layout(editor.attributes, ENGLISH)
    turned, mouth = layout.sliders["roll"], layout.sliders["wide_mouth"]
    assert (turned.minimum, turned.maximum, turned.step, turned.label) == (-30, 30, 1, "Head roll (°)")
    assert (mouth.minimum, mouth.maximum, mouth.step, mouth.label) == (0, 100, 1, "Wide mouth (%)")
    assert list(layout.sliders) == list(editor.attributes)  # as callbacks take their values
    visit = Visit.of_seed(editor, 3)
    assert visit.start["roll"] == round(visit.start["roll"]) and 0 <= visit.start["wide_mouth"] <= 1
    assert build_page(editor) is not None
