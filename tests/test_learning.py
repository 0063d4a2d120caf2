"""Every term that a training is told to minimise moves its own number, on tiny networks and in a few steps.

Each is compared with the same run without the term, so that a term left out or with the wrong sign shows.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.encoders.descent import ROWS, DescentStep, save_steps
from dystyle.encoders.fast import FastEncoder
from dystyle.knowledge.probe import PROBED, FaceProbe
from dystyle.training import attributes, descent, encoder, inversion, sequences
from dystyle.training.attributes import AttributeConfig, LabelTeacher, joined, probe_loss, train_probe
from dystyle.training.dataset import FaceDataset, area
from dystyle.training.descent import DescentConfig
from dystyle.training.encoder import EncoderConfig, train_encoder
from dystyle.training.inversion import Inverter, InverterConfig, train_inversion
from dystyle.training.sequences import SequencesConfig

SHOWN = 9  # rows of W+ that the painter's previews show
HELD, LEARNT = 4, 8  # faces


class Painter(nn.Module):
    """Stands in for the generator: the colours of 8 x 8 fields follow the code's first rows."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("mean_w", torch.zeros(512))
        self.register_buffer("std_w", torch.ones(512))
        self.register_buffer("map", torch.randn(SHOWN * 512, 192, generator=rng) * (SHOWN * 512) ** -0.5)

    def rows(self, size: int) -> int:
        return SHOWN

    def forward(self, codes: Tensor, size: int = 256) -> Tensor:
        colours = torch.tanh(codes[:, :SHOWN].flatten(1) @ self.map).unflatten(1, (3, 8, 8))
        return F.interpolate(colours, size=(size, size), mode="nearest")


class Looks(nn.Module):
    """Stands in for the identity network."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.register_buffer("map", torch.randn(192, 1024, generator=rng))
        self.register_buffer("kernel", torch.randn(16, 3, 3, 3, generator=rng))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, 8).flatten(1) @ self.map, dim=1)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(F.conv2d(F.adaptive_avg_pool2d(images, 16), self.kernel), dim=1),)


def lacks(codes: Tensor, own: Tensor, pictures: Tensor) -> dict[str, float]:
    """What codes lack, by the term that should bring it down; written anew, not the training's own."""
    rendered, looks = Painter()(codes, 128), Looks()
    different = looks.features(rendered)[0] - looks.features(pictures)[0]
    numbers = {
        "code": (codes - own)[:, SHOWN:ROWS].abs().mean(),  # what only this term knows of
        "offset": (codes[:, 1:] - codes[:, :1]).square().mean(),
        "spread": codes[:, :ROWS].var(1).mean(),
        "w": codes[:, :ROWS].square().mean(),
        "image": (rendered - pictures).abs().mean(),
        "picture": (rendered - pictures).abs().mean(),
        "identity": 1 - (looks(rendered) * looks(pictures)).sum(1).mean(),
        "perceptual": different.square().mean(),
    }
    return {name: float(number) for name, number in numbers.items()}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A folder with faces, and with an encoder and two descent steps that know nothing."""
    folder, rng = tmp_path_factory.mktemp("start"), np.random.default_rng(0)
    codes = rng.standard_normal((HELD + LEARNT, 18, 512)).astype(np.float32)
    codes[:, SHOWN:] += 1  # what no picture shows, and few steps can learn
    FaceDataset.render(folder / "faces", codes, Painter(), batch=12)
    torch.manual_seed(0)
    FastEncoder(channels=(8, 8, 8, 8, 8)).save(folder / "encoder.safetensors")
    steps = [
        DescentStep(
            np.float32(rng.standard_normal((1792, 4)) * 0.05),
            np.float32(rng.standard_normal((4, ROWS * 512)) * 0.2),
        )
        for _ in range(2)
    ]
    save_steps(folder / "descent.safetensors", steps)
    return folder


@pytest.fixture
def tiny(start, monkeypatch) -> tuple[Tensor, Tensor]:
    """Stand-ins for the networks; returns the faces' codes, and their pictures at 128 px."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    for module in (encoder, inversion):
        monkeypatch.setattr(module, "IdentityNetwork", Looks)
    monkeypatch.setattr(encoder, "HELD", HELD)
    data = FaceDataset.load(start / "faces")
    images = torch.from_numpy(data.images[HELD:].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    return torch.from_numpy(data.codes[HELD:].copy()), area(images, 128)


ENCODER_TERMS = ("code", "offset", "image", "identity", "perceptual")
INVERSION_TERMS = ("picture", "identity", "perceptual", "w", "spread", "code")


def weights(terms: tuple[str, ...], term: str | None) -> dict[str, float]:
    """Settings that count one term alone, or none."""
    return {f"{name}_weight": float(name == term) for name in terms}


def encoder_taught(
    term: str | None, start: Path, out: Path, own: Tensor, pictures: Tensor
) -> dict[str, float]:
    """What the codes of an encoder lack after some steps by one term."""
    config = EncoderConfig(
        dataset=start / "faces",
        out=out / f"encoder-{term}",
        start=str(start / "encoder.safetensors"),
        steps=0,
        image_steps=12,
        image_batch=LEARNT,
        full_steps=0,
        progressive_steps=0,
        lr=0.01,
        **weights(ENCODER_TERMS, term),
    )
    train_encoder(config, Painter())
    with torch.no_grad():
        codes = FastEncoder.load(str(config.out / "encoder.safetensors"))(pictures)
    return lacks(codes, own, pictures)


def inversion_taught(
    term: str | None, learner: str, start: Path, out: Path, own: Tensor, pictures: Tensor
) -> dict[str, float]:
    """What the encoder's codes lack if it learns alone, or those after the last step if the steps do."""
    config = InverterConfig(
        faces=start / "faces",
        held=HELD,
        out=out / f"{learner}-{term}",
        encoder=str(start / "encoder.safetensors"),
        descent=str(start / "descent.safetensors"),
        steps=6,
        batch=LEARNT,
        full_steps=0,
        encoder_lr=3e-3 * (learner == "encoder"),
        descent_lr=0.6 * (learner == "descent"),
        **weights(INVERSION_TERMS, term),
    )
    train_inversion(config, Painter())
    files = {name: str(config.out / f"{name}.safetensors") for name in ("encoder", "descent")}
    model = Inverter(replace(config, **files), Painter(), Looks()).eval()
    with torch.no_grad():
        codes = [codes for codes, *_ in model(pictures, pictures)][0 if learner == "encoder" else -1]
    return lacks(codes, own, pictures)


def test_encoder_learns_by_every_term(start, tiny, tmp_path):
    without = encoder_taught(None, start, tmp_path, *tiny)
    for term in ENCODER_TERMS:
        assert encoder_taught(term, start, tmp_path, *tiny)[term] < 0.97 * without[term], term


@pytest.mark.parametrize("learner", ["encoder", "descent"])
def test_inversion_learns_by_every_term(learner, start, tiny, tmp_path):
    without = inversion_taught(None, learner, start, tmp_path, *tiny)
    for term in INVERSION_TERMS:
        assert inversion_taught(term, learner, start, tmp_path, *tiny)[term] < 0.99 * without[term], term


def test_encoder_goes_on_from_its_checkpoint_whole(start, tiny, tmp_path, monkeypatch):
    """Writing that breaks off leaves the checkpoint before; the run ends as a straight one."""
    config = EncoderConfig(
        dataset=start / "faces",
        out=tmp_path / "straight",
        start=str(start / "encoder.safetensors"),
        steps=4,
        batch=4,
        image_steps=0,
        full_steps=0,
        checkpoint_every=2,
    )
    train_encoder(config, Painter())
    broken, save = replace(config, out=tmp_path / "broken"), torch.save
    states = []

    def stop_at_the_second(state, file):
        states.append(state)
        if len(states) == 2:
            file.write(b"half of a checkpoint")
            raise KeyboardInterrupt
        save(state, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", stop_at_the_second)
        train_encoder(broken, Painter())
    assert torch.load(broken.out / "checkpoint.pt")["step"] == 2
    train_encoder(broken, Painter())
    ends = [FastEncoder.load(str(run.out / "encoder.safetensors")).state_dict() for run in (config, broken)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_descent_step_is_the_map_of_low_rank_behind_the_moves(monkeypatch):
    rng = np.random.default_rng(0)
    lacking = rng.standard_normal((200, 40)).astype(np.float32)
    plan = rng.standard_normal((40, 3)) @ rng.standard_normal((3, ROWS * 512))
    move = np.float32(lacking @ plan).reshape(200, ROWS, 512)
    network = FastEncoder(channels=(8, 8, 8, 8, 8), std_w=torch.full((512,), 2.0))
    config = DescentConfig(ridge=1e-3, rank=3)
    code = np.zeros((18, 512), np.float32)
    better = descent._fit(lacking, move, network, config)(code, lacking[0])
    assert np.allclose(better[:ROWS], 2 * move[0], atol=0.02 * np.abs(move[0]).max())  # in units of W
    assert not better[ROWS:].any()
    strict = descent._fit(lacking, move, network, replace(config, ridge=1e6))(code, lacking[0])
    assert np.abs(strict).max() < 0.01 * np.abs(better).max()
    coarse = descent._fit(lacking, move, network, replace(config, rank=1))(code, lacking[0])
    assert 0.1 < np.linalg.norm(coarse - better) / np.linalg.norm(better) < 1.1


# ------------------------------------------------------------------------------------------- attributes


def test_label_teacher_weighs_what_it_is_shown_by_what_it_tells():
    rng = np.random.default_rng(0)
    telling, noise = rng.standard_normal((2, 400, 12))
    labels = telling[:, 0] + 0.3 * rng.standard_normal(400) > 0
    teacher = LabelTeacher([noise[:200], telling[:200]], labels[:200])
    probabilities = teacher([noise[200:], telling[200:]])
    assert roc_auc_score(labels[200:], probabilities) > 0.95
    assert abs(teacher.stack.coef_[0, 0]) < 0.5 * teacher.stack.coef_[0, 1]


def test_probe_loss_pulls_at_hand_labels_soft_labels_and_codes():
    logits, predicted = torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    targets, codes = torch.tensor([[1.0, 0.0]] * 4), torch.full((4, 3), 0.5)
    mirrored = torch.tensor([True, False, True, False])
    probe_loss(logits, targets, predicted, codes, mirrored, hard=1).backward()
    toward = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(logits.grad[0], -toward / 4)  # one hand label counts as much as
    torch.testing.assert_close(logits.grad[1:].sum(0), -toward / 4)  # three soft ones
    assert not predicted.grad[mirrored].any() and (predicted.grad[~mirrored] < 0).all()


def test_probe_learns_from_hand_labels_and_from_soft_ones(monkeypatch):
    """Hand labels tell red from blue, and know nothing of light from above, which soft labels tell."""
    monkeypatch.setattr(attributes, "FaceProbe", partial(FaceProbe, channels=(8, 8, 8, 8, 8)))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    red, above = np.meshgrid([False, True], [False, True])
    red, above = (torch.from_numpy(x.ravel()).repeat(8) for x in (red, above))  # 32 pictures
    pictures = torch.full((32, 3, 128, 128), 60, dtype=torch.uint8)
    pictures[red, 0] += 100
    pictures[~red, 2] += 100
    pictures[above, :, :64] += 80
    pictures[~above, :, 64:] += 80
    targets = torch.full((32, len(PROBED)), 0.5)
    targets[:16, 0], targets[16:, 1] = red[:16].float(), above[16:].float()
    config = AttributeConfig(steps=40, lr=0.02)
    probe = train_probe(config, pictures, targets, torch.zeros(32, 6), 16, (8, 8))
    with torch.no_grad():
        logits = probe(pictures / 127.5 - 1)
        labels = joined(probe, pictures, torch.full_like(targets, 0.5))
    for index, truth in enumerate((red, above)):
        assert roc_auc_score(truth, logits[:, index]) > 0.95
    torch.testing.assert_close(labels, (logits / 2).sigmoid())


# -------------------------------------------------------------------------------------------- sequences


def test_sequences_are_taught_by_every_loss(monkeypatch):
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean_w", torch.zeros(1))
            self.values = nn.Parameter(torch.ones(3))

    names = ("sequence", "single", "joint")
    monkeypatch.setattr(
        sequences,
        "sequence_losses",
        lambda student, *_: dict(zip(names, student.values.square(), strict=True)),
    )
    for keep, still in ((4.0, []), (0.0, [1, 2])):
        student, config = Student(), SequencesConfig(steps=40, batch=4, lr=0.05, ema=0.5, keep=keep)
        average = copy.deepcopy(student)
        logs = sequences._descend(student, average, None, lambda count: torch.zeros(count, 1), config)
        for index, name in enumerate(names):
            for values in (student.values, average.values):
                assert (values[index] == 1) if index in still else (0 < values[index] < 0.8), (keep, name)
            assert logs[0][name] == 1
