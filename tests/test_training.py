"""Training: what is drawn, what the losses say, and that an interrupted run ends as a straight one."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from one_device import OneDevice
from torch.nn import functional as F

from dystyle import FaceEditor
from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.encoders.descent import describe, load_steps
from dystyle.encoders.fast import FastEncoder
from dystyle.engines.graphs import generator, open_generator
from dystyle.errors import InputError
from dystyle.knowledge.readings import IdentityNetwork
from dystyle.metrics.degradations import bend, degrade, jpeg, occlude
from dystyle.metrics.drawing import sample_codes
from dystyle.training.curriculum import WINDOW, Curriculum, choose, sample_configuration
from dystyle.training.dataset import FaceDataset
from dystyle.training.descent import DescentConfig, fit_descent
from dystyle.training.editor import EditorConfig, EditorTrainer
from dystyle.training.encoder import EncoderConfig, train_encoder
from dystyle.training.inversion import Inverter, InverterConfig, train_inversion
from dystyle.training.losses import (
    attribute_loss,
    background_loss,
    backgrounds,
    carried_loss,
    identity_loss,
    identity_tolerance,
    norm_loss,
    preservation_loss,
)
from dystyle.weights import load


def test_codes_are_w_and_w_plus_around_the_mean():
    mean_w = np.ones(512, np.float32)
    codes = sample_codes(np.random.default_rng(0), 400, lambda z: z + 1, mean_w, psi=(0.5, 1.0))
    assert codes.shape == (400, 18, 512) and codes.dtype == np.float32
    constant = (codes == codes[:, :1]).all((1, 2))
    assert 0.4 < constant.mean() < 0.6
    # Z is normal here, so W's deviation is the truncation.
    assert 0.45 < (codes[constant] - 1).std(2).min() and (codes[constant] - 1).std(2).max() < 1.1


def test_configurations_are_uniform_over_names_and_within_range():
    names, counts = tuple(ATTRIBUTES), dict.fromkeys(ATTRIBUTES, 0)
    current = {name: torch.full((8,), row.high + 1.0) for name, row in ATTRIBUTES.items()}
    for _ in range(300):
        for name, target in sample_configuration(names, 2, current).items():
            counts[name] += 1
            row = ATTRIBUTES[name]
            assert target.min() >= row.low and target.max() <= row.high
    assert min(counts.values()) > 30


def test_losses_are_least_at_the_target():
    for name, row in ATTRIBUTES.items():
        target = torch.tensor([row.low + 0.3 * (row.high - row.low)])
        probability = row.kind == "binary" or name == "gender"
        grid = torch.linspace(-20, 20, 801) if probability else torch.linspace(row.low, row.high, 801)
        losses = torch.cat([attribute_loss({name: g[None]}, {name: target})[name] for g in grid])
        best = grid[losses.argmin()]
        # Logits of binary attributes count a quarter, so that they do not saturate.
        expected = torch.logit(target) * (4 if row.kind == "binary" else 1) if probability else target
        assert best.item() == pytest.approx(expected.item(), abs=0.1)


def test_gender_is_right_where_its_probability_is():
    scores = torch.logit(torch.tensor([0.999, 0.9, 0.5]))
    near, off, far = attribute_loss({"gender": scores}, {"gender": torch.ones(3)})["gender"].tolist()
    assert near < 0.1 * off and off < far


def test_only_what_was_not_asked_for_is_preserved():
    before = {"age": torch.tensor([30.0]), "smile": torch.tensor([2.0])}
    after = {"age": torch.tensor([60.0]), "smile": torch.tensor([2.0])}
    none, full = {"smile": torch.tensor([0.0])}, {"smile": torch.tensor([1.0])}
    age = {"age": torch.tensor([60.0])}
    assert preservation_loss(after, before, age) == 0
    assert preservation_loss(after, before, full) > 0
    closed, ajar, opened = ({"mouth_open": torch.tensor([x])} for x in (-9.0, -6.0, 9.0))
    assert preservation_loss(closed, opened, none) == 0  # who stops smiling closes the mouth
    assert preservation_loss(opened, closed, full) == preservation_loss(opened, closed, age) > 0
    assert 0 < preservation_loss(ajar, closed, age) < 0.01 * preservation_loss(opened, closed, age)


def test_configurations_can_hold_one_of_what_is_new():
    names = ("yaw", "blond", "gray", "smile", "age")
    for _ in range(50):
        chosen = choose(names, 3, one_of=("blond", "gray"))
        assert chosen[0] in ("blond", "gray") and len(set(chosen)) == 3


def test_taking_a_smile_away_asks_for_a_closed_mouth():
    opened, closed = {"mouth_open": torch.tensor([9.0])}, {"mouth_open": torch.tensor([-9.0])}
    none, full = {"smile": torch.tensor([0.0])}, {"smile": torch.tensor([1.0])}
    assert carried_loss(opened, none) > 5 * carried_loss(closed, none)
    assert carried_loss(opened, full) == 0
    assert carried_loss(opened, none | {"mouth_open": torch.tensor([1.0])}) == 0


def test_identity_may_change_as_much_as_the_edit_needs():
    before = {"yaw": torch.tensor([0.0, 0.0]), "smile": torch.tensor([3.0, 3.0])}
    turned = identity_tolerance({"yaw": torch.tensor([0.0, 40.0])}, before)
    assert turned[0] == 0 and 0.2 < turned[1] < 0.5
    assert (identity_tolerance({"smile": torch.zeros(2)}, before) == 0).all()
    embedding, other = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[0.8, 0.6]] * 2)
    # The face that was not turned pays for a cosine of 0.8, the turned one does not.
    assert identity_loss(embedding, other, turned).tolist() == pytest.approx([0.2, 0])


@pytest.fixture
def encoder_run(tmp_path) -> EncoderConfig:
    """A run of four steps on noise."""
    rng, faces = np.random.default_rng(0), tmp_path / "faces"
    faces.mkdir()
    np.save(faces / "codes.npy", rng.standard_normal((132, 18, 512), np.float32))
    np.save(faces / "images.npy", rng.integers(0, 256, (132, 256, 256, 3), np.uint8))
    (faces / "done.txt").write_text("132")
    config = EncoderConfig(dataset=faces, out=tmp_path / "straight", steps=2, batch=2)
    config = replace(config, image_steps=1, image_batch=2, progressive_steps=2, checkpoint_every=1)
    return replace(config, full_steps=1, full_batch=1)


@pytest.fixture
def inversion_run(encoder_run) -> InverterConfig:
    """A run of three steps on noise."""
    run = InverterConfig(faces=encoder_run.dataset, out=encoder_run.out, steps=2, batch=2, held=10)
    return replace(run, full_steps=1, full_batch=1, checkpoint_every=1)


# By the fixture with the settings: the training, and how often it degrades pictures before its third step.
RUNS = {"encoder_run": (train_encoder, 2), "inversion_run": (train_inversion, 4)}


@pytest.mark.parametrize("run", RUNS)
def test_training_of_encoders_stays_on_its_device(run, request, monkeypatch):
    config, network = request.getfixturevalue(run), open_generator().to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    with OneDevice(elsewhere=True):
        RUNS[run][0](config, network)
    assert FastEncoder.load(str(config.out / "encoder.safetensors")).mean_w.shape == (512,)


@pytest.mark.parametrize("run", RUNS)
def test_interrupted_run_of_an_encoder_ends_as_a_straight_one(run, request, tmp_path, monkeypatch):
    config, network, (train, calls) = request.getfixturevalue(run), generator(), RUNS[run]
    train(config, network)
    left = iter(range(calls))

    def degrade_or_stop(pictures):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return degrade(pictures)

    config = replace(config, out=tmp_path / "interrupted")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sys.modules[train.__module__], "degrade", degrade_or_stop)
        train(config, network)
    assert (config.out / "checkpoint.pt").exists()
    train(config, network)
    for file in config.out.glob("*.safetensors"):
        straight, resumed = load(str(tmp_path / "straight" / file.name))[0], load(str(file))[0]
        assert all(np.array_equal(value, resumed[name]) for name, value in straight.items()), file


def test_norm_loss_counts_rows_in_units_of_deviation():
    codes, std = torch.zeros(2, 18, 512), torch.full((512,), 3.0)
    edited = codes.clone()
    edited[:, :4] = 6
    edited[1] = 3
    assert norm_loss(edited, codes, std).tolist() == pytest.approx([4 * 2**2, 18])


def test_background_is_beside_the_head():
    picture = torch.zeros(1, 3, 256, 256)
    before = backgrounds(picture)
    picture[:, :, 32:, 48:208] = 1  # head and shoulders
    assert background_loss(backgrounds(picture), before).item() == 0
    picture[:, :, :192, :32] = 0.5
    assert background_loss(backgrounds(picture), before).item() == pytest.approx(0.25)


def test_photos_are_stored_and_hidden_in_places():
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(16, 3, 8, 8) * 2 - 1, size=128, mode="bicubic").clamp(-1, 1)
    coarse, fine = ((jpeg(smooth[0], quality) - smooth[0]).abs().mean().item() for quality in (40, 95))
    assert 0 < fine < coarse < 0.05
    assert degrade(smooth).shape == smooth.shape and degrade(smooth).abs().max() <= 1
    hidden = (occlude(smooth, share=0.5) != smooth).any(1).float().mean((1, 2))
    assert 4 <= (hidden > 0).sum() <= 12 and hidden.max() < 0.3
    assert torch.equal(occlude(smooth, share=0), smooth)


def test_bent_faces_are_faces_still():
    """A chequered picture: its fields are where they were or beside it, and not straight any more."""
    torch.manual_seed(0)
    axis = torch.arange(128) // 16 % 2
    board = (axis ^ axis[:, None]).float().expand(32, 3, -1, -1) * 2 - 1
    bent = bend(board)
    assert bent.shape == board.shape and bent.abs().max() <= 1
    away = ((bent > 0) != (board > 0)).any(1).float().mean((1, 2))
    assert 0.1 < away.mean() < 0.5 and away.std() > 0.03
    turned = bend(board, strength=0)
    assert ((turned > 0) != (board > 0)).any(1).float().mean() < away.mean()


def test_encoder_learns_offsets_row_by_row():
    model, images = FastEncoder(channels=(8, 8, 8, 8, 8)).eval(), torch.rand(2, 3, 128, 128)
    codes, first = model(images), model(images, rows=4)
    assert torch.equal(first[:, :4], codes[:, :4]) and torch.equal(
        model(images, rows=1), codes[:, :1].expand(-1, 18, -1)
    )
    assert torch.equal(first[:, 4:], codes[:, :1].expand(-1, 14, -1)) and not torch.equal(
        first[:, 1], first[:, 0]
    )


def test_rendering_goes_on_where_it_stopped(tmp_path):
    codes = np.zeros((3, 18, 512), np.float32)
    rendered = []

    def synthesize(codes: torch.Tensor) -> torch.Tensor:
        if len(rendered) == 2:
            rendered.append(None)
            raise KeyboardInterrupt
        rendered.append(codes)
        return torch.full((len(codes), 3, 1024, 1024), 7 / 127.5 - 1)

    with pytest.raises(KeyboardInterrupt):
        FaceDataset.render(tmp_path, codes, synthesize)
    data = FaceDataset.render(tmp_path, codes, synthesize)
    assert data.images.shape == (3, 256, 256, 3) and (data.images == 7).all()


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A folder of eight rendered faces."""
    codes = sample_codes(np.random.default_rng(0), 8, generator().map, generator().mean_w.numpy())
    folder = tmp_path_factory.mktemp("faces")
    FaceDataset.render(folder, codes, generator(), batch=3)
    return folder


class Stop(Exception):
    pass


def small(out: Path, faces: Path, **changes) -> EditorConfig:
    """A run of seconds: two steps on pictures of 128 px, one of 256, one in full."""
    config = EditorConfig(
        out=out,
        faces=faces,
        held=2,
        starts=6,
        fine_starts=4,
        inverted=3,
        compared=2,
        stages=((128, 0.5, 2), (256, 0.25, 2), (1024, 0.25, 2)),
        rows=3,
        hidden=8,
        attributes=("yaw", "smile"),
        guide_steps=3,
        warmup_steps=2,
        steps=4,
        groups=2,
        most=2,
        checkpoint_every=2,
    )
    return replace(config, **changes)


def test_an_interrupted_run_ends_as_a_straight_one(tmp_path, faces, monkeypatch):
    config = small(tmp_path / "straight", faces)
    torch.use_deterministic_algorithms(True)
    straight = DyStyle.load(str(EditorTrainer(config, generator()).run()))

    interrupted = EditorTrainer(replace(config, out=tmp_path / "interrupted"), generator())
    step = interrupted.train_step

    def stop_at_three() -> dict[str, float]:
        if interrupted.step == 3:
            raise Stop
        return step()

    monkeypatch.setattr(interrupted, "train_step", stop_at_three)
    with pytest.raises(Stop):
        interrupted.run()
    resumed = EditorTrainer(replace(config, out=tmp_path / "interrupted"), generator())
    resumed = DyStyle.load(str(resumed.run()))
    torch.use_deterministic_algorithms(False)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_curriculum_moves_on_when_the_loss_has_settled_or_time_is_up():
    falling, flat = Curriculum(most=4, steps=1000), Curriculum(most=4, steps=1000)
    for step in range(2 * WINDOW):
        falling.update(step, 1 / (step + 1))
        flat.update(step, 1.0)
    assert (falling.level(100), flat.level(100)) == (1, 2)
    assert [falling.level(step) for step in (0, 333, 334, 667, 1000, 5000)] == [1, 1, 2, 3, 4, 4]
    assert Curriculum(most=3, steps=0).level(0) == 3


def test_joint_edits_can_be_trained_alone(tmp_path, faces, monkeypatch):
    counts = []

    def draw(names, count, current, one_of):
        counts.append(count)
        return sample_configuration(names, count, current, one_of)

    monkeypatch.setattr("dystyle.training.editor.sample_configuration", draw)
    EditorTrainer(small(tmp_path, faces, least=2, hard=0.0), generator()).train_step()
    assert counts == [2, 2]


def test_a_finished_run_reports_on_faces_it_has_not_learnt_from(tmp_path, faces):
    trainer = EditorTrainer(small(tmp_path, faces, inverted=0, start=None), generator())
    assert len(trainer.codes) == 6 and torch.equal(trainer.starts, trainer.codes)
    trainer.run()
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["yaw", "smile", "2 at once"]
    card = (tmp_path / "dystyle.md").read_text()
    assert f"| smile | {report['smile']['reached']['smile']['success']['mean']:.0%}" in card
    with pytest.raises(InputError, match="render more or give fewer"):
        EditorTrainer(small(tmp_path, faces, starts=7), generator())


def test_descent_learns_the_way_to_the_faces_own_codes(tmp_path, faces):
    out = tmp_path / "descent.safetensors"
    config = DescentConfig(faces=faces, out=out, passes=1, rank=6, ridge=1e-3, backend="onnx")
    identity = fit_descent(config)["identity"]
    assert len(identity) == 3 and 0.6 < identity[0] < 1  # before each step and after the last
    (first, _), data = load_steps(str(out)), FaceDataset.load(faces)
    editor = FaceEditor.from_pretrained(backend="onnx")
    encode = FastEncoder.load("encoder")
    torch.manual_seed(config.seed)
    codes = encode(degrade(torch.from_numpy(data.images.copy()).permute(0, 3, 1, 2) / 127.5 - 1)).numpy()
    before, after = [], []
    for code, own, picture in zip(codes, data.codes, data.images, strict=True):
        preview = editor.synthesize(code, 256)
        lacking = describe(picture, editor.embed(picture)) - describe(preview, editor.embed(preview))
        better = first(code, lacking)
        assert np.array_equal(better[16:], code[16:])
        before.append(np.abs(code - own)[:16].mean())
        after.append(np.abs(better - own)[:16].mean())
    assert np.mean(after) < 0.5 * np.mean(before)
    with pytest.raises(InputError, match="does not hold steps"):
        load_steps("encoder")


def test_training_and_inversion_take_the_same_steps(faces, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    editor, pictures = FaceEditor.from_pretrained(backend="onnx"), FaceDataset.load(faces).images[:3]
    inverter = Inverter(InverterConfig(), generator(), IdentityNetwork()).eval()
    images = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        trained = list(inverter(images, images, size=1024))
    starts, ends = (trained[number][0].numpy() for number in (0, -1))
    inverted = np.stack([editor.encode(picture) for picture in pictures])
    # Pictures are rounded to bytes here and not there.
    assert np.abs(inverted - ends).mean() < 0.03 * np.abs(inverted - starts).mean()


def test_two_processes_train_one_editor(tmp_path, faces):
    """As on several GPUs: own draws, same weights; see tests/two_processes.py."""
    script = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, script, tmp_path / "run", faces], check=True, timeout=300)
    assert DyStyle.load(str(tmp_path / "run" / "dystyle.safetensors")).names == ("yaw", "smile")
    recipe = tmp_path / "run" / "recipe.json"
    begun = json.loads(recipe.read_text())  # in what this processor is fast in; see two_processes.py
    recipe.write_text(json.dumps(begun | {"precision": "bf16"}))
    with pytest.raises(InputError, match="begun with another precision"):
        EditorTrainer(small(tmp_path / "run", faces), generator())
    recipe.write_text(json.dumps(begun | {"precision": "no"}))  # accelerate keeps to one precision a process
    with pytest.raises(InputError, match="2 process"):  # one cannot go on where two left off
        EditorTrainer(small(tmp_path / "run", faces), generator()).run()


def test_a_new_attribute_leaves_the_edits_there_were_as_they_are(tmp_path, faces):
    first = EditorTrainer(small(tmp_path / "first", faces), generator()).run()
    more = small(
        tmp_path / "more", faces, attributes=("yaw", "smile", "beard"), start=str(first), only_new=True
    )
    before, after = DyStyle.load(str(first)), DyStyle.load(str(EditorTrainer(more, generator()).run()))
    assert after.names == ("yaw", "smile", "beard")
    codes, asked = torch.randn(2, 18, 512), {"yaw": torch.tensor([9.0, -20.0]), "smile": torch.ones(2)}
    assert torch.equal(before(codes, asked), after(codes, asked))
    untrained = EditorTrainer(replace(more, out=tmp_path / "untrained"), generator()).editor
    beard = {"beard": torch.ones(2)}
    assert not torch.allclose(after(codes, beard), untrained(codes, beard), atol=1e-3)
    with pytest.raises(InputError, match="nothing is new"):
        EditorTrainer(replace(more, out=tmp_path / "none", attributes=before.names), generator())
    with pytest.raises(InputError, match="give --rows 3 --hidden 8"):
        EditorTrainer(replace(more, out=tmp_path / "wrong", hidden=16), generator())
