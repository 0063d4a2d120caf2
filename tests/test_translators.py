"""Translators: their equations, their training on a toy, and pictures edited by them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dystyle import FaceEditor, InputError, edit
from dystyle.edit import EditConfig
from dystyle.evaluation.translators import TranslatorsConfig, evaluate_translators, table
from dystyle.training.translator_faces import Faces
from dystyle.training.translators import (
    AttganConfig,
    StarganConfig,
    StganConfig,
    TranslatorTrainer,
    gradient_penalty,
    paired_loss,
    train_translator,
)
from dystyle.translators import FAMILIES
from dystyle.translators.network import build, load_network
from dystyle.translators.structure import Structure, scaled
from dystyle.translators.stu import SelectiveTransferUnit

NAMES = ("age", "smile", "beard")


# -------------------------------------------------------------------------------------- the mathematics


def convolve(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """(c, h, w) by a 3 x 3 convolution with a border of zeros."""
    weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), *x.shape[1:])) + bias[:, None, None]
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            out += np.einsum("oc,chw->ohw", weight[:, :, i, j], part)
    return out


def transposed(x: np.ndarray, layer: nn.ConvTranspose2d) -> np.ndarray:
    """(c, h, w) -> (o, 2 h, 2 w): every pixel spreads over 4 x 4, two pixels from the next one's."""
    weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
    height, width = x.shape[1:]
    out = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            spread = np.einsum("c,coij->oij", x[:, row, column], weight)
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += spread
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


def test_a_selective_transfer_unit_computes_its_equations():
    torch.manual_seed(0)
    unit, rng = SelectiveTransferUnit(inner=3, channels=2, attributes=2), np.random.default_rng(0)
    f, s, difference = rng.normal(size=(2, 6, 4)), rng.normal(size=(3, 3, 2)), rng.normal(size=2)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    planes = np.broadcast_to(difference[:, None, None], (2, 3, 2))
    s_hat = transposed(np.concatenate((s, planes)), unit.up)
    both = np.concatenate((f, s_hat))
    r, z = sigmoid(convolve(both, unit.reset)), sigmoid(convolve(both, unit.update))
    s_new = r * s_hat
    f_hat = np.tanh(convolve(np.concatenate((f, s_new)), unit.fresh))
    f_t = (1 - z) * s_hat + z * f_hat
    given = (torch.from_numpy(x[None]).float() for x in (f, s, difference))
    for found, expected in zip(unit(*given), (f_t, s_new), strict=True):
        np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-5)


def test_gradient_penalty_has_its_closed_form():
    w = torch.randn(12).requires_grad_()
    linear, square = nn.Module(), nn.Module()
    linear.forward = lambda x: (x.flatten(1) @ w, None)  # its gradient is w everywhere
    square.forward = lambda x: (x.square().flatten(1).sum(1) / 2, None)  # and here x
    real, fake = torch.randn(2, 5, 3, 2, 2)
    penalty = gradient_penalty(linear, real, fake)
    torch.testing.assert_close(penalty, (w.norm() - 1) ** 2)
    (learnt,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(learnt, 2 * (w.norm() - 1) * w / w.norm())
    expected = (real.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(square, real, real).detach(), expected)


def test_what_is_to_change_counts_more():
    before, wanted = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    wanted[..., 0, 0], wanted[..., 0, 1] = 1.0, 0.1  # in full, and half
    assert paired_loss(before, wanted, before, 5.0) == pytest.approx((5 * 1.0 + 3 * 0.1) / 4)
    assert paired_loss(before + 0.1, before, before, 5.0) == pytest.approx(0.1)


def test_attributes_are_told_by_their_ranges():
    values = {"age": 42.5, "smile": 1.0, "beard": 0.25}
    np.testing.assert_allclose(scaled(values, NAMES), [0, 0.5, -0.25])
    assert scaled(values | {"age": 99.0}, ["age"]) == 0.5  # readings may lie beyond


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_is_told(family):
    """STGAN sees differences alone, so that no change is the same whatever a face has; others see targets."""
    torch.manual_seed(1)
    network = build(Structure(family, NAMES, size=16, width=4, depth=3)).eval()
    pictures, a, b = torch.randn(2, 3, 16, 16), torch.rand(2, 3) - 0.5, torch.rand(2, 3) - 0.5

    def same(x, y):
        return torch.allclose(x, y, atol=1e-6)

    told = b - a if family == "stgan" else b
    assert same(network(pictures, a, b), pictures + network.decode(pictures, told))
    unchanged = same(network(pictures, a, a), network(pictures, b, b))
    by_target = same(network(pictures, a, b), network(pictures, b, b))
    assert (unchanged, by_target) == ((True, False) if family == "stgan" else (False, True))
    plain = build(replace(network.structure, residual=False)).eval()
    plain.load_state_dict(network.state_dict())
    decoded = network(pictures, a, b) - pictures
    assert same(plain(pictures, a, b), decoded.tanh())


# ------------------------------------------------------------------------------------------------ a toy


def squares(count: int) -> Faces:
    """Squares, red or blue (the first attribute), on the left or on the right (the second)."""
    rng = np.random.default_rng(0)
    values, pictures = rng.integers(2, size=(count, 2)), np.full((count, 1, 8, 8, 3), 40, np.uint8)
    for (picture,), (blue, right) in zip(pictures, values, strict=True):
        x, y = 5 * right, rng.integers(6)
        picture[y : y + 3, x : x + 3] = (60, 80, 230) if blue else (230, 80, 60)
    return Faces(pictures, (0.8 * (values - 0.5)).astype(np.float32)[:, None])


def look(pictures: torch.Tensor) -> torch.Tensor:
    """Is the square blue, and is it on the right? (b, 2)"""
    red, _, blue = (pictures + 0.69).clamp(min=0).unbind(1)
    light = (red + blue).sum(1)
    return torch.stack(((blue - red).sum((1, 2)) > 0, light[:, 4:].sum(1) > light[:, :4].sum(1)), 1)


@torch.no_grad()
def success(trainer: TranslatorTrainer) -> float:
    """Share of held-out squares that are what they were asked to be, of the attribute that does worse."""
    pictures, source = trainer.kept.first(64)
    assert torch.equal(look(pictures), source > 0)
    shares = []
    for flipped in ((-1, 1), (1, -1)):
        target = source * torch.tensor(flipped)
        made = trainer.average(pictures, source, target)
        shares.append((look(made) == (target > 0)).all(1).float().mean())
    return float(min(shares))


def loss_at_no_change(trainer: TranslatorTrainer) -> float:
    pictures, source = trainer.kept.first(64)
    return float((trainer.average(pictures, source, source) - pictures).abs().mean())


TOY = {"attributes": ("smile", "beard"), "size": 8, "width": 16, "depth": 2, "residual": False}
TOY |= {"batch": 32, "held": 64, "lr": 1e-3, "d_steps": 3, "noise": 0.7, "ema": 0.97}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, TranslatorTrainer]:
    """All three, trained on the squares until they do as they are told."""
    found = {}
    for config in (StganConfig, AttganConfig, StarganConfig):
        trainer = TranslatorTrainer(config(out=tmp_path_factory.mktemp("run"), **TOY), squares(1024))
        while trainer.step < 800 and not (trainer.step % 20 == 0 and success(trainer) >= 0.95):
            trainer.train_step()
            trainer.step += 1
        found[config.family] = trainer
    return found


def test_all_three_learn_colour_and_place_without_pairs(trained):
    assert {family: success(trainer) >= 0.95 for family, trainer in trained.items()} == dict.fromkeys(
        FAMILIES, True
    )
    assert loss_at_no_change(trained["stgan"]) < 0.5 * loss_at_no_change(trained["stargan"])


def test_a_run_goes_on_where_it_stopped(tmp_path):
    small = TOY | {"held": 16, "width": 4, "batch": 16, "checkpoint_every": 2}
    weights = []
    for name, steps in (("straight", (4,)), ("stopped", (2, 4))):
        for end in steps:
            config = StganConfig(out=tmp_path / name, steps=end, **small)
            trainer = TranslatorTrainer(config, squares(64))
            file = trainer.run()
        weights.append(load_network(str(file)).state_dict())
    assert trainer.step == 4
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert (tmp_path / "stopped" / "samples-000004.png").exists()


# ------------------------------------------------------------------------------------------------- data


def test_a_teacher_shows_the_same_person_with_what_was_asked_for(editor, tmp_path):
    names = ("age", "smile", "eyeglasses")
    faces = Faces.teach(tmp_path, 3, 2, names, 64, 0, editor)
    assert faces.pictures.shape == (3, 3, 64, 64, 3) and faces.attributes.shape == (3, 3, 3)
    assert np.abs(faces.attributes).max() <= 0.5
    changed = np.abs(faces.attributes[:, 1:] - faces.attributes[:, :1]).max(2) > 0.02
    moved = np.abs(faces.pictures[:, 1:].astype(int) - faces.pictures[:, :1]).mean((2, 3, 4))
    assert changed.any() and (moved[changed] > 0.1).all()
    assert moved.max() < 40  # other people differ by more
    batch = faces.draw(np.random.default_rng(0), 12)
    same = (batch.source == batch.target).all(1)
    assert same.any() and not same.all()
    assert torch.equal(batch.pictures[same], batch.wanted[same])
    again = Faces.teach(tmp_path, 3, 2, names, 64, 0, editor)
    assert again.fingerprint == faces.fingerprint


def test_a_folder_of_photos_is_labelled_by_the_readings(editor, astronaut, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut).save(tmp_path / "photos" / "a.png")
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "photos" / "nobody.png")
    faces = Faces.read(tmp_path / "faces", tmp_path / "photos", NAMES, 64, editor)
    portrait = editor.align(astronaut)[1]
    np.testing.assert_allclose(faces.attributes[0, 0], scaled(editor.measure(portrait), NAMES), atol=1e-6)
    assert faces.pictures.shape == (1, 1, 64, 64, 3)
    drawn = faces.draw(np.random.default_rng(0), 4)
    assert drawn.wanted is None and torch.equal(drawn.source, drawn.target)


def test_one_command_makes_the_data_and_trains(tmp_path):
    small = {"people": 4, "edits": 1, "held": 2, "batch": 2, "size": 64, "width": 4, "depth": 3}
    config = StganConfig(teacher="dystyle", out=tmp_path, d_steps=1, alone=1, steps=2, **small)
    network = load_network(train_translator(config))
    assert network.structure == config.structure and (tmp_path / "recipe.json").exists()
    with pytest.raises(InputError, match="another edits"):
        train_translator(replace(config, edits=2))


# ------------------------------------------------------------------------------------------ the product


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A translator with random weights."""
    torch.manual_seed(2)
    network = build(Structure("stgan", NAMES, size=64, width=4, depth=3))
    network.picture.weight.data *= 8  # so that what is asked for shows
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    network.save(path, teacher="dystyle")
    return path


@pytest.fixture(scope="module")
def translator(editor, file) -> FaceEditor:
    return editor.with_method(str(file))


def test_a_picture_is_edited(translator, file, editor):
    portrait = editor.synthesize(editor.sample(3))
    assert tuple(translator.attributes) == NAMES and translator.model == "STGAN taught by DyStyle"
    values = editor.measure(portrait)
    edit = {"smile": float(values["smile"] < 0.5)}
    picture = translator.edit_picture(portrait, edit)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    small = translator.edit_picture(portrait, {})
    seen = torch.from_numpy(small)[None].permute(0, 3, 1, 2) / 127.5 - 1
    source, target = (torch.from_numpy(scaled(v, NAMES))[None] for v in (values, values | edit))
    network = load_network(str(file))
    expected, unchanged = (
        network(seen, source, x)[0].permute(1, 2, 0).clamp(-1, 1).numpy() * 127.5 + 127.5
        for x in (target, source)
    )
    assert np.abs(picture - expected).max() < 1.01 and np.abs(expected - unchanged).max() > 10
    assert np.array_equal(translator.edit_picture(portrait, {}, 1024), portrait)
    large = translator.edit_picture(portrait, edit, 1024).astype(int)
    shrunk = (large - portrait).reshape(64, 16, 64, 16, 3).mean((1, 3))
    change = picture.astype(int) - small
    assert np.corrcoef(shrunk.ravel(), change.ravel())[0, 1] > 0.9  # the same, laid over the portrait


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda editor, other, face: editor.with_method("stgan"), "python -m dystyle.train stgan"),
        (lambda editor, other, face: editor.with_method("nonsense"), "choose from dystyle"),
        (lambda editor, other, face: editor.edit_picture(face, {"smile": 1}), "edits codes"),
        (lambda editor, other, face: other.edit(editor.sample(0), {"smile": 1}), "use edit_picture"),
        (lambda editor, other, face: other.edit_picture(face, {"yaw": 1}), "has not learnt 'yaw'"),
        (lambda editor, other, face: other.edit_picture(face, {"smile": 2}), "out of range"),
        (lambda editor, other, face: other.edit_picture(face[:99], {"smile": 1}), "square"),
        (lambda editor, other, face: other.edit_picture(face, {"smile": 1}, 2), "size takes"),
        (lambda editor, other, face: editor.with_method("linear.safetensors"), "no file"),
        (lambda editor, other, face: train_translator(StganConfig()), "either --data"),
        (lambda editor, other, face: Structure("stgan", NAMES, size=100), "multiple of 32"),
    ],
)
def test_bad_input_is_one_sentence(editor, translator, call, said):
    with pytest.raises(InputError, match=said) as raised:
        call(editor, translator, editor.synthesize(editor.sample(0), 256))
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_the_command_line_edits_by_a_translator(file, tmp_path):
    out = tmp_path / "out.png"
    edit.run(EditConfig(sample=3, set=("smile=1",), out=out, method=str(file), backend="onnx"))
    with Image.open(out) as picture:
        assert picture.size == (1024, 1024)
    with pytest.raises(InputError, match="--looks"):
        edit.run(EditConfig(sample=3, set=("smile=1",), out=out, method="stgan", looks=1))


def test_translators_are_evaluated_beside_dystyle(file, tmp_path):
    config = TranslatorsConfig(methods=(str(file),), count=1)
    result = evaluate_translators(config, tmp_path)
    figures = result["methods"]["STGAN taught by DyStyle"]
    assert figures["reconstruction"]["psnr"]["mean"] > 5 and set(figures["edits"]) == {*NAMES, "all"}
    assert "| STGAN taught by DyStyle | smile | " in table(result)
    assert (tmp_path / "translators-own.png").exists()
