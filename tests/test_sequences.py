"""Edits one after the other learn to end where the joint edit does."""

import copy
import itertools

import numpy as np
import pytest
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.engines.graphs import generator
from dystyle.errors import InputError
from dystyle.metrics.drawing import sample_codes
from dystyle.training.curriculum import draw_targets
from dystyle.training.sequences import (
    SequencesConfig,
    Teacher,
    fit_lines,
    graft,
    train_sequences,
)

NAMES = ("yaw", "age", "smile", "eyes_closed")


@pytest.fixture
def editor(tmp_path) -> DyStyle:
    """An editor whose edits one after the other end elsewhere than its joint edits."""
    torch.manual_seed(0)
    model = DyStyle(NAMES, 2, 16, generator().mean_w, generator().std_w)
    for zeros in (model.scale.weight, model.shift.weight):
        torch.nn.init.normal_(zeros, std=0.05)
    model.save(tmp_path / "editor.safetensors")
    return DyStyle.load(str(tmp_path / "editor.safetensors"))


class ShortSighted:
    """Stands in for generator and readers: of a target in the code, seven tenths and 3 show."""

    def synthesize(self, code: np.ndarray) -> np.ndarray:
        return code

    def measure(self, picture: np.ndarray) -> dict[str, float]:
        return {name: 3 + 0.7 * float(picture[0, index]) for index, name in enumerate(("yaw", "age"))}


class Literal(DyStyle):
    """An editor that writes its targets into the code."""

    def forward(self, codes, configuration):
        codes = codes.clone()
        for index, name in enumerate(("yaw", "age")):
            if name in configuration:
                codes[:, 0, index] = configuration[name]
        return codes


@pytest.mark.parametrize("count", [1, 3])
def test_the_teacher_is_asked_for_what_its_edits_fall_short_of(count):
    editor, rng = Literal(NAMES, 2, 4).requires_grad_(False), np.random.default_rng(0)
    lines = fit_lines(editor, editor.names, torch.zeros(40, 18, 512), count, ShortSighted(), rng)
    assert lines.keys() == {"yaw", "age"}
    for offset, gain in lines.values():
        assert offset == pytest.approx(3, abs=1e-3) and gain == pytest.approx(0.7, abs=1e-4)
    teacher = Teacher(editor, (lines, {}) if count == 1 else ({}, lines))
    joint = {} if count == 1 else {"smile": torch.ones(2)}
    asked = torch.tensor([10.0, 40.0])
    edited = teacher(torch.zeros(2, 18, 512), {"yaw": asked} | joint)
    shown = 3 + 0.7 * edited[:, 0, 0]
    assert shown[0].item() == pytest.approx(10, abs=0.01)  # 0.7 of 10 and 3 is what was asked for
    assert edited[1, 0, 0] == ATTRIBUTES["yaw"].high  # no more than the slider goes
    assert 31 <= shown[1].item() <= 40


def test_an_editor_without_numeric_attributes_has_nothing_to_correct():
    editor, rng = Literal(("smile", "eyes_closed"), 2, 4), np.random.default_rng(0)
    assert fit_lines(editor, editor.names, torch.zeros(3, 18, 512), 1, ShortSighted(), rng) == {}


def test_an_ensemble_teacher_averages_its_joint_edit_and_a_sequence(editor):
    codes = torch.randn(3, 18, 512)
    targets = {"yaw": torch.tensor([-20.0, 5.0, 30.0]), "smile": torch.tensor([0.0, 1.0, 0.5])}
    first, second = ({name: value} for name, value in targets.items())
    orders = [editor(editor(codes, a), b) for a, b in ((first, second), (second, first))]
    assert not torch.allclose(*orders)
    teacher = Teacher(editor, ({}, {}), ensemble=0.5, reach=1.5)
    edited = teacher(codes, targets)
    means = [(editor(codes, targets) + order) / 2 for order in orders]
    assert any(torch.allclose(edited, codes + 1.5 * (mean - codes), atol=1e-4) for mean in means)
    assert torch.equal(teacher(codes, first), editor(codes, first))
    assert torch.equal(Teacher(editor, ({}, {}))(codes, targets), editor(codes, targets))


def test_edits_of_some_attributes_come_from_another_editor(editor):
    torch.manual_seed(5)
    other = copy.deepcopy(editor)
    for weights in other.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    codes, smile = torch.randn(3, 18, 512), {"smile": torch.ones(3)}
    yaw = {"yaw": torch.tensor([-20.0, 5.0, 30.0])}
    grafted = graft(editor, other, ("smile",))
    assert torch.equal(grafted(codes, yaw), editor(codes, yaw))
    assert torch.allclose(grafted(codes, smile), other(codes, smile), atol=1e-5)
    added = grafted(codes, yaw | smile) - editor(codes, yaw)
    assert torch.allclose(added, other(codes, yaw | smile) - other(codes, yaw), atol=1e-5)


def test_sequences_end_nearer_to_the_joint_edit_and_single_edits_stay(editor, tmp_path):
    out = tmp_path / "run" / "dystyle.safetensors"
    config = SequencesConfig(
        start=str(tmp_path / "editor.safetensors"), out=out, steps=300, batch=64, lr=5e-3, ema=0.9, read=0
    )
    losses = train_sequences(config, generator())
    assert losses["sequence"] < losses["untaught"]
    taught, rng = DyStyle.load(str(out)), np.random.default_rng(9)
    codes = torch.from_numpy(sample_codes(rng, 64, generator().map, generator().mean_w.numpy()))
    torch.manual_seed(1)
    targets = {name: draw_targets(name, 64) for name in ("eyes_closed", "yaw", "age")}

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(((a - b)[:, :2] / editor.std_w).square().mean())

    def missed(model: DyStyle) -> float:
        """How far sequences end from the joint edit, over all orders."""
        ends = []
        for order in itertools.permutations(targets):
            edited = codes
            for name in order:
                edited = model(edited, {name: targets[name]})
            ends.append(distance(edited, joint))
        return np.mean(ends)

    joint = editor(codes, targets)
    assert missed(taught) < 0.85 * missed(editor)
    assert distance(taught(codes, targets), joint) < 0.3 * missed(editor)
    for name, value in targets.items():
        single = editor(codes, {name: value})
        assert distance(taught(codes, {name: value}), single) < 0.2 * distance(codes, single)
    with pytest.raises(InputError, match="There is no file"):
        train_sequences(SequencesConfig(start=str(tmp_path / "nowhere.safetensors"), read=0), generator())
    with pytest.raises(InputError, match="two attributes or more"):
        train_sequences(SequencesConfig(start=config.start, most=1, read=0), generator())
    with pytest.raises(InputError, match="'beard' cannot be taken"):
        train_sequences(SequencesConfig(start=config.start, taken=("beard",), read=0), generator())
