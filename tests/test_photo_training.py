"""The trainings for photos and previews: what they learn from, what their losses say, and how runs go on."""

import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from one_device import OneDevice
from torch import nn
from torch.nn import functional as F

from dystyle import train
from dystyle.encoders.carrier import Carrier, warp
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.precision import autocast
from dystyle.engines.graphs import generator, identity, open_generator, to_float
from dystyle.errors import InputError
from dystyle.metrics.overlays import cover, overlay
from dystyle.pictures import load_image, save_picture
from dystyle.training import carrier, features, previews
from dystyle.training.carrier import CarrierConfig, flow_losses, train_carrier
from dystyle.training.features import FeaturesConfig, prior, train_features
from dystyle.training.pairs import Pairs, flow, mesh
from dystyle.training.photo import FACE, Part, Stage, descend, face_losses, fill, picture_losses
from dystyle.training.portraits import Portraits
from dystyle.training.previews import PreviewConfig, train_previews
from dystyle.weights import load


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory, editor, astronaut) -> Path:
    """Portraits of one photo and one generated face, and two edits, as the runs make them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    save_picture(astronaut, folder / "photos" / "a.png")
    settings = {"variants": 3, "generated": 1, "least": 2, "seed": 0}
    Portraits.prepare(
        folder / "portraits", folder / "photos", editor=editor, generator=generator(), **settings
    )
    Pairs.prepare(folder / "pairs", 2, 0, editor)
    return folder


@pytest.fixture
def features_run(data, tmp_path) -> FeaturesConfig:
    """A run on the generated face, the photo held out."""
    config = FeaturesConfig(tmp_path / "straight", steps=3, batch=1, photos=data / "photos", variants=3)
    shutil.copytree(data / "portraits", config.out / "portraits")
    config = replace(config, steps=2, second_steps=2)
    return replace(config, generated=1, held=1, width=8, inner=1, outer=1, checkpoint_every=1, backend="onnx")


@pytest.fixture
def carrier_run(data, tmp_path) -> CarrierConfig:
    """A run on one edit, the other held out."""
    config = CarrierConfig(tmp_path / "straight", steps=2, batch=1, pairs=2, held=1, checkpoint_every=1)
    shutil.copytree(data / "pairs", config.out / "pairs")
    return replace(config, backend="onnx")


@pytest.fixture
def previews_run(data, tmp_path, monkeypatch) -> PreviewConfig:
    """A run on one picture of a random person, that of a photo held out."""
    monkeypatch.setattr(previews, "PICTURES", 1)
    monkeypatch.setattr(previews, "HELD_OUT", 2)
    config = PreviewConfig(tmp_path / "straight", steps=2, batch=1, photos=data / "photos", generated=1)
    config.out.mkdir()
    return replace(config, checkpoint_every=1, backend="onnx")


RUNS = {"features_run": train_features, "carrier_run": train_carrier, "previews_run": train_previews}
# What a step calls for its loss, and how often.
LOSSES = {
    "features_run": ("picture_losses", 1),
    "carrier_run": ("flow_losses", 1),
    "previews_run": ("charbonnier", 2),
}


@pytest.mark.parametrize("run", RUNS)
def test_interrupted_run_ends_as_a_straight_one(run, request, tmp_path, monkeypatch):
    config, training = request.getfixturevalue(run), RUNS[run]
    again = replace(config, out=tmp_path / "interrupted")
    shutil.copytree(config.out, again.out)
    report = training(config, generator())
    (name, calls), module = LOSSES[run], sys.modules[training.__module__]
    left, losses = iter(range(calls)), getattr(module, name)

    def stop(*pictures):
        if next(left, None) is None:
            raise Stop
        return losses(*pictures)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module, name, stop)
        training(again, generator())
    assert (again.out / "checkpoint.pt").exists()
    assert training(again, generator()) == report and report["skipped"] == 0
    (file,) = config.out.glob("*.safetensors")
    (straight, metadata), (resumed, _) = load(str(file)), load(str(again.out / file.name))
    assert all(np.array_equal(value, resumed[name]) for name, value in straight.items())
    assert '"steps": 2' in metadata["recipe"]
    with pytest.raises(InputError, match="begun with another seed"):
        training(replace(again, seed=1), generator())


@pytest.mark.parametrize("run", RUNS)
def test_training_stays_on_its_device(run, request, monkeypatch):
    config, network = request.getfixturevalue(run), open_generator().to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    with OneDevice(elsewhere=True):
        RUNS[run](config, network)


def logged(module, monkeypatch) -> list[dict[str, float]]:
    """The terms of every step that a training will make."""
    log = []

    def noting(config, network, stages, losses):
        def noted(step: int):
            terms = losses(step)
            log.append({name: float(value.detach()) for name, value in terms.items()})
            return terms

        return descend(config, network, stages, noted)

    monkeypatch.setattr(module, "descend", noting)
    return log


def test_the_encoder_learns_one_picture(features_run, monkeypatch):
    log = logged(features, monkeypatch)
    config = replace(features_run, steps=7, second_steps=0, warm_up=2, ema=0.0, lr=3e-3)
    train_features(config, generator())
    # Every third step is on the face, and has terms of its own.
    assert [("identity" in terms) for terms in log] == [step % 3 == 0 for step in range(7)]
    assert log[6]["pixels"] < 0.9 * log[0]["pixels"]
    FeatureEncoder.load(str(config.out / "features.safetensors"))


def test_the_carrier_learns_one_edit(carrier_run, monkeypatch):
    log = logged(carrier, monkeypatch)
    train_carrier(replace(carrier_run, steps=7, warm_up=2, lr=3e-3), generator())
    assert log[6]["flow"] < 0.8 * log[0]["flow"]
    Carrier.load(str(carrier_run.out / "carrier.safetensors"))


def test_previews_learn_the_full_picture_of_one_person(previews_run, monkeypatch):
    log = logged(previews, monkeypatch)
    config = replace(previews_run, steps=25, warm_up=2, ema=0.0, lr=1e-2)
    report = train_previews(config, generator())
    assert log[24]["pixels"] < 0.6 * log[0]["pixels"]
    assert set(report) == {"photos_128", "photos_256", "skipped"}  # who is held out
    # The bundled heads know much more to begin with.
    train_previews(replace(config, out=config.out / "on", start=True, steps=1), generator())
    assert log[25]["pixels"] < 0.5 * log[0]["pixels"]


def test_every_term_says_what_it_stands_for(data):
    wanted = to_float(torch.from_numpy(load_image(data / "portraits" / "00000.jpg"))[None])
    assert all(value == 0 for value in picture_losses(wanted, wanted).values())
    torch.manual_seed(0)
    brighter = picture_losses(wanted + 0.1, wanted)
    assert brighter["pixels"] == pytest.approx(5 * 0.1, rel=1e-3) and brighter["texture"] < 1e-5
    smooth = F.avg_pool2d(wanted, 9, 1, 4, count_include_pad=False)
    grain = 0.006 * torch.randn_like(wanted)
    blurred, mended, grainy = (picture_losses(x, wanted) for x in (smooth, smooth + grain, wanted + grain))
    assert mended["texture"] < blurred["texture"]
    assert mended["pixels"] > blurred["pixels"]
    # A large fault counts on every level of the pyramid, one that averages away hardly.
    assert grainy["pixels"] < 0.5 * picture_losses(wanted + 0.0048, wanted)["pixels"]

    small, mirrored = F.avg_pool2d(wanted, 4), F.avg_pool2d(wanted, 4).flip(3)
    stranger = to_float(torch.from_numpy(load_image(data / "portraits" / "00003.jpg"))[None])
    same, turned, other = (
        face_losses(x, small, identity()) for x in (small, mirrored, F.avg_pool2d(stranger, 4))
    )
    assert abs(same["identity"]) < 1e-2 and abs(same["perceptual"]) < 1e-4
    assert same["identity"] < turned["identity"] < other["identity"]
    assert same["perceptual"] < turned["perceptual"] < other["perceptual"]

    still, moved, sheared = torch.zeros(3, 1, 2, 32, 32)
    moved += 0.1
    sheared[:, 0] += torch.linspace(-0.1, 0.1, 32)
    assert flow_losses(moved, still) == {"flow": pytest.approx(0.1), "slope": 0}
    assert flow_losses(sheared, still)["slope"] == pytest.approx(0.1 / 31, rel=1e-3)
    scale = torch.rand(512) + 0.5
    assert prior(3 * scale[:, None, None].expand(2, -1, 64, 64), scale) == pytest.approx(9)


def test_parts_are_where_the_generator_makes_them():
    codes = torch.from_numpy(generator().map(np.ones((1, 512), np.float32)))[:, None].expand(-1, 18, -1)
    with torch.no_grad():
        whole, maps = generator()(codes), generator().features(codes, 64)
        for part in (FACE, Part(0, 28, 36)):
            cut = part.cut(whole)
            assert (part.decode(generator(), maps, codes) - cut).abs().mean() < 0.02 * cut.abs().mean()
    framed, places = part.framed(part.cut(whole)), (..., slice(8, 136), slice(120, 248))
    assert torch.allclose(framed[places], F.avg_pool2d(whole, 4)[places], atol=1e-5)
    assert framed.count_nonzero() <= 3 * 128 * 128
    drawn = [Part.draw(np.random.default_rng(seed), 36) for seed in range(100)]
    assert {min(part.top for part in drawn), max(part.left for part in drawn)} == {0, 28}


def test_gradients_that_are_not_finite_are_left_out_and_counted(tmp_path):
    config = FeaturesConfig(tmp_path, steps=3, batch=1, lr=0.1, warm_up=1, ema=0.0, checkpoint_every=1)
    tracks = []
    for faults in ((), (1,)):
        network = nn.Linear(2, 1)
        nn.init.ones_(network.weight)
        track = []

        def losses(step, network=network, track=track, faults=faults):
            track.append(network.weight.detach().clone())
            return {"pixels": network.weight.sum() * (np.nan if step in faults else 1)}

        out = tmp_path / str(len(faults))
        out.mkdir()
        result = descend(replace(config, out=out), network, [Stage(3, 0.1)], losses)
        assert result == {"skipped": len(faults)} and network.weight.isfinite().all()
        tracks.append(track)
    assert not torch.equal(tracks[0][2], tracks[0][1]) and torch.equal(tracks[1][2], tracks[1][1])
    assert tracks[0][1].max() < 1  # downhill


@torch.no_grad()
def test_a_network_begins_with_its_generators_statistics():
    network = FeatureEncoder.for_generator(generator(), width=8, inner=1, outer=1)
    z = np.random.default_rng(5).standard_normal((4, 512)).astype(np.float32)
    w = torch.from_numpy(generator().map(z))
    gains = network.gain((w - network.mean_w) / network.std_w) / generator().blocks[4].up(w)
    assert torch.allclose(gains, gains.mean().expand_as(gains), rtol=1e-2)
    maps = generator().features(w[:, None].expand(-1, 18, -1), 64)
    assert (maps.std((0, 2, 3)) / network.scale).log().abs().mean() < 0.3


# ------------------------------------------------------------------------------------------ the carrier


@torch.no_grad()
def test_what_is_not_edited_keeps_its_residual():
    torch.manual_seed(0)
    network = Carrier(torch.rand(512) + 0.5)
    residual, before, after = torch.randn(3, 1, 512, 64, 64)
    assert (network(residual, before, before) - residual).abs().max() < 1e-4
    assert (network(residual, before, after) - residual).abs().mean() > 0.1


@torch.no_grad()
def test_what_an_edit_replaces_fades():
    network = Carrier()
    before, residual = torch.zeros(1, 512, 64, 64), torch.ones(1, 512, 64, 64)
    after = before.clone()
    after[..., 28:36, 28:36] = 1.0  # far more than leaves 1/e
    still = torch.zeros(1, 2, 32, 32)
    carried, touched, flow = network.carry(residual, before, after, still)
    assert torch.equal(flow, still)
    assert carried[..., 31, 31].abs().max() < 0.05 and (carried[..., 5, 5] - 1).abs().max() < 1e-4
    assert touched[0, 0, 31, 31] == 1 and touched[0, 0, 5, 5] == 0


@torch.no_grad()
def test_a_sample_of_the_channels_says_how_much_features_change(editor):
    """The mean over all of them is what the fade was chosen by; see docs/laboratory.md."""
    network, code = Carrier.load("carrier"), editor.sample(3)
    codes = np.stack(
        [code, editor.edit(code, {"smile": float(editor.measure(editor.synthesize(code))["smile"] < 0.5)})]
    )
    before, after = generator().features(torch.from_numpy(codes), 64).split(1)
    still = torch.zeros(1, 2, 32, 32)
    _, touched, _ = network.carry(before, before, after, still)
    size = F.avg_pool2d(
        ((after - before).abs() / network.scale[:, None, None]).mean(1, keepdim=True), 5, 1, 2
    )
    assert (network._fade(size).lt(0.8) == touched.gt(0.5)).float().mean() > 0.97


def test_the_flow_says_where_places_come_from(editor):
    """Turned to the right by 40 px, a place of the picture comes from its left: minus, in half pictures."""
    before = editor.synthesize(editor.sample(3))
    after, points = np.roll(before, (40, 64), (0, 1)), mesh(editor, before)
    moves = flow(points, mesh(editor, after))
    assert moves.shape == (2, 32, 32) and moves.dtype == np.float32
    face = moves[:, 14:22, 13:19].reshape(2, -1).mean(1)
    assert face == pytest.approx((-64 / 512, -40 / 512), abs=0.01)
    assert np.abs(moves[:, (0, -1)]).max() < 0.06  # the frame stays
    seen, wanted = (to_float(torch.from_numpy(x)[None]) for x in (before, after))
    chin = points + (points[:, 1:] > 0.7) * (0.05, 0)
    below, beside = (flow(points, chin)[0, row, column] for row, column in ((25, 16), (16, 25)))
    assert below == pytest.approx(-0.1, abs=0.02) and abs(beside) < 0.3 * abs(below)
    middle = (..., slice(400, 700), slice(440, 640))
    moved = warp(seen, torch.from_numpy(moves)[None])
    assert (moved - wanted)[middle].abs().mean() < 0.4 * (seen - wanted)[middle].abs().mean()


# --------------------------------------------------------------------------------------------- the data


def test_portraits_are_of_photos_and_of_generated_faces(data, editor):
    portraits = Portraits.load(data / "portraits")
    assert len(portraits.pictures) == len(portraits.codes) == 4
    assert portraits.people(variants=3).tolist() == [0, 0, 0, 1]
    aligned = editor.align(data / "photos" / "a.png")[1]
    assert np.abs(portraits.pictures[0].astype(int) - aligned).mean() < 2
    assert np.abs(portraits.pictures[1].astype(int) - aligned[:, ::-1]).mean() < 2
    code = editor.encode(portraits.pictures[3])
    assert np.abs(code - portraits.codes[3]).max() < 1e-3
    seen = editor.synthesize(code, 256) / 127.5 - 1
    assert np.abs(portraits.renders[3].transpose(1, 2, 0) - seen).mean() < 0.1


def test_rows_are_made_once_and_again_after_an_interruption(tmp_path):
    calls = []

    def make(index: int):
        calls.append(index)
        if len(calls) == 31:
            raise Stop
        return np.full(2, index), np.full((1, 3), -index)

    columns = {"a": ((2,), np.float32), "b": ((1, 3), np.float16)}
    with pytest.raises(Stop):
        fill(tmp_path, 45, columns, make)
    for _ in range(2):
        rows = fill(tmp_path, 45, columns, make)
        assert (rows["a"][:, 0] == np.arange(45)).all() and (rows["b"][:, 0, 2] == -np.arange(45)).all()
    assert calls == [*range(31), *range(20, 45)]
    with pytest.raises(InputError, match="another number of rows"):
        fill(tmp_path, 46, columns, make)
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="damaged; delete"):
        fill(tmp_path, 45, columns, make)


def test_overlays_hide_places_and_leave_the_rest(astronaut):
    picture = np.zeros((256, 256, 3), np.uint8)
    hidden = []
    for seed in range(20):
        covered, again = (cover(np.random.default_rng(seed), picture, [astronaut]) for _ in range(2))
        assert covered.dtype == np.uint8 and np.array_equal(covered, again)
        hidden.append((covered > 0).any(2).mean())
    assert 0.1 < np.mean(hidden) < 0.6 and max(hidden) < 1
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 200
    contents = [overlay(np.random.default_rng(seed), [green], 128)[0] for seed in range(60)]
    taken = [content for content in contents if not content[..., ::2].any()]
    assert 20 < len(taken) < 45 and all((content[..., 1] == 200).all() for content in taken)
    for content, mask in (overlay(np.random.default_rng(seed), [], 128) for seed in range(20)):
        assert content.min() >= 0 and content.max() <= 255 and 0 <= mask.min() < mask.max() <= 1


def test_folders_without_faces_are_one_sentence(tmp_path, data, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()

    def say(*arguments: str) -> str:
        arguments = ("--backend=onnx", f"--out={tmp_path / 'run'}", *arguments)
        monkeypatch.setattr(sys, "argv", ["train", "features", *arguments])
        with pytest.raises(SystemExit) as stop:
            train.main()
        assert stop.value.code == 2
        return capsys.readouterr().err

    for folder in ("nowhere", "photos"):
        said = say(f"--photos={tmp_path / folder}")
        assert said.startswith("There are no pictures in") and said.count("\n") == 1
    save_picture(np.full((200, 300, 3), 128, np.uint8), tmp_path / "photos" / "grey.png")
    (tmp_path / "photos" / "torn.jpg").write_bytes(b"\xff\xd8")
    said = say(f"--photos={tmp_path / 'photos'}").splitlines()
    assert said[-1].startswith("No face was found in the pictures in") and len(said) == 3
    assert "grey.png' is left out: No face" in said[0] and "torn.jpg' is left out" in said[1]
    assert say("--generated=3").startswith("3 people are too few: 21 are needed")
    assert not (tmp_path / "run" / "portraits").exists()
    with pytest.raises(InputError, match="more --pairs"):
        train_carrier(CarrierConfig(tmp_path / "run", pairs=16), generator())
    few = PreviewConfig(out=tmp_path / "previews", backend="onnx", generated=1)
    with pytest.raises(InputError, match="1 people are too few, as one is held out"):
        train_previews(few, generator())
    with pytest.raises(InputError, match="4 pictures to learn from; give a smaller --batch"):
        train_previews(replace(few, generated=2, batch=5, out=tmp_path / "batch"), generator())
    assert not list(tmp_path.glob("*/pictures"))


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_left_to_processors_that_compute_in_it(fast, monkeypatch):
    """Others would take a hundred times as long for a convolution."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast})
    with autocast(torch.device("cpu")):
        made = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1))
    assert made.dtype == (torch.bfloat16 if fast else torch.float32)
