"""Runs that were interrupted go on as they were begun, or one sentence says why not."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dystyle.errors import InputError
from dystyle.training import encoder, inversion, resume
from dystyle.training.dataset import FaceDataset
from dystyle.training.encoder import EncoderConfig


def codes(count: int, seed: int = 0) -> np.ndarray:
    """The first `count` of a seed's codes, which show in the pictures below."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (count, 18, 512)).astype(np.float32)


def synthesize(codes: torch.Tensor) -> torch.Tensor:
    """Pictures of one colour: the code's first number."""
    return codes[:, 0, 0, None, None, None].expand(-1, 3, 256, 256)


def another(codes: torch.Tensor) -> torch.Tensor:
    return -synthesize(codes)


def shown(data: FaceDataset) -> None:
    """Every picture is its code's."""
    expected = (data.codes[:, 0, 0] + 1) * 127.5
    assert np.abs(data.images - expected[:, None, None, None]).max() < 1


class Stop(Exception):
    pass


def interrupted(folder: Path, count: int, after: int) -> None:
    """Render until `after` pictures are noted as done."""
    calls = []

    def stopping(chunk: torch.Tensor) -> torch.Tensor:
        calls.append(len(chunk))
        if sum(calls) > after:
            raise Stop
        return synthesize(chunk)

    with pytest.raises(Stop):
        FaceDataset.render(folder, codes(count), stopping, batch=50)


# ----------------------------------------------------------------------------------------------- faces


def test_an_interrupted_rendering_goes_on_with_the_same_faces(tmp_path):
    interrupted(tmp_path, 120, after=100)
    assert len(FaceDataset.load(tmp_path).codes) == 100
    data = FaceDataset.render(tmp_path, codes(120), synthesize)
    assert np.array_equal(data.codes, codes(120))
    shown(data)


@pytest.mark.parametrize(
    "asked",
    [
        (codes(60, seed=1), synthesize),  # another seed
        (codes(50), synthesize),  # fewer
        (codes(60), another),  # another generator
        (np.concatenate((codes(59), codes(60, seed=1)[59:])), synthesize),  # one that is not rendered yet
    ],
)
def test_other_faces_are_not_mixed_with_those_in_the_folder(asked, tmp_path):
    interrupted(tmp_path, 60, after=50)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds other faces"):
        FaceDataset.render(tmp_path, *asked)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_more_faces_are_added_behind_those_that_are_there(tmp_path):
    rendered = []

    def counted(chunk: torch.Tensor) -> torch.Tensor:
        rendered.extend(chunk)
        return synthesize(chunk)

    FaceDataset.render(tmp_path, codes(10), counted)
    first = len(rendered)
    data = FaceDataset.render(tmp_path, codes(12), counted)
    assert len(data.images) == 12 and len(rendered) == first + 1 + 2  # one is looked at again
    shown(data)
    assert data.fingerprint == FaceDataset.load(tmp_path).fingerprint


def test_missing_few_and_damaged_faces_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no faces in .*nowhere'; render some: python -m dystyle.train"):
        FaceDataset.load(tmp_path / "nowhere")
    FaceDataset.render(tmp_path / "faces", codes(3), synthesize)
    with pytest.raises(InputError, match="3 faces .* 68 are needed"):
        FaceDataset.load(tmp_path / "faces", least=68)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Nothing can be written"):
        FaceDataset.render(tmp_path / "file", codes(3), synthesize)
    for name in ("done.txt", "codes.npy", "images.npy"):
        path = tmp_path / "faces" / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        for call in (FaceDataset.load, lambda folder: FaceDataset.render(folder, codes(3), synthesize)):
            with pytest.raises(InputError, match="damaged; delete"):
                call(tmp_path / "faces")
        path.write_bytes(content)
    FaceDataset.load(tmp_path / "faces")


# ---------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Settings:
    out: Path = Path("run")
    size: int = 8
    stages: tuple[tuple[int, float], ...] = ((128, 0.5),)
    start: str | None = None
    steps: int = 3


def test_a_run_goes_on_with_its_own_recipe_only(tmp_path):
    recipe = resume.recipe(Settings(start="/somewhere/a.pt"), free=("steps",)) | {"data": "3 pictures"}
    assert recipe == {"size": 8, "stages": ((128, 0.5),), "start": "a.pt", "data": "3 pictures"}
    folder = tmp_path / "run"
    resume.begin(folder, recipe | {"size": 16})
    resume.begin(folder, recipe)  # nothing had been made yet
    (folder / "log").touch()
    resume.begin(folder, recipe)
    for change, sentence in (
        ({"size": 16}, r"another size \(8, now 16\); go on as it was begun"),
        ({"data": "4 pictures"}, "another data"),
        ({"stages": ((128, 0.4),)}, "another stages"),
        ({"colour": True}, r"another colour \(not set, now true\)"),
    ):
        with pytest.raises(InputError, match=sentence) as caught:
            resume.begin(folder, recipe | change)
        assert "\n" not in str(caught.value)
    (folder / resume.RECIPE).write_text('{"size": 8')
    with pytest.raises(InputError, match="damaged"):
        resume.begin(folder, recipe)
    (folder / resume.RECIPE).unlink()
    (folder / resume.NEWEST).touch()
    with pytest.raises(InputError, match="checkpoint.pt and no recipe.json"):
        resume.begin(folder, recipe)
    with pytest.raises(InputError, match="Nothing can be written"):
        resume.begin(folder / "log", recipe)


@pytest.mark.parametrize("train", [encoder.train_encoder, inversion.train_inversion])
def test_encoders_do_not_go_on_with_another_recipe_or_other_faces(train, tmp_path, monkeypatch):
    """They stop before a network is made, so none is needed here."""
    monkeypatch.setattr(encoder, "FastEncoder", None)
    monkeypatch.setattr(inversion, "IdentityNetwork", None)
    config_type = {encoder.train_encoder: EncoderConfig, inversion.train_inversion: inversion.InverterConfig}
    faces = {
        name: FaceDataset.render(tmp_path / name, codes(130, seed), synthesize, batch=130)
        for seed, name in enumerate(("faces", "others"))
    }
    field = "dataset" if train is encoder.train_encoder else "faces"
    config = config_type[train](out=tmp_path / "run", **{field: tmp_path / "faces"})
    settings = resume.recipe(config, free=("checkpoint_every",)) | {"faces": faces["faces"].fingerprint}
    resume.begin(config.out, settings)
    (config.out / "events").touch()

    class Network:
        mean_w = std_w = torch.ones(512)

    for change, name in (
        ({"seed": 1}, "seed"),
        ({"steps": 5}, "steps"),
        ({field: tmp_path / "others"}, "faces"),
    ):
        with pytest.raises(InputError, match=f"another {name}"):
            train(replace(config, **change), Network())
    with pytest.raises(TypeError):  # with the same it gets as far as the networks
        train(replace(config, checkpoint_every=1), Network())


# ------------------------------------------------------------------------------------------ checkpoints


def test_the_checkpoint_before_is_gone_on_from_when_the_newest_is_damaged(tmp_path, capsys):
    path = tmp_path / resume.NEWEST
    assert resume.read(path) is None
    for step in range(3):
        resume.write(path, {"step": step, "weights": torch.full((1000,), float(step)), "random": [0]})
    assert resume.read(path, processes=1)["step"] == 2
    with pytest.raises(InputError, match="of 1 process.* now there are 2"):
        resume.read(path, processes=2)
    good = path.read_bytes()
    for damage in (good[: len(good) // 2], b"", b"\0" * len(good), good[:900] + b"\0" * 500 + good[1400:]):
        path.write_bytes(damage)
        state = resume.read(path)
        assert state["step"] == 1 and (state["weights"] == 1).all()
        assert "going on from the one before it" in capsys.readouterr().err
        assert resume.read(path)["step"] == 1  # in its place, so that the next one does not replace it
        resume.write(path, {"step": 2})
    path.unlink()
    assert resume.read(path)["step"] == 1
    path.write_bytes(good[:100])
    with pytest.raises(InputError, match="damaged, and there is none before it"):
        resume.read(path)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / resume.NEWEST
    resume.write(path, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    for where in (
        lambda: monkeypatch.setattr("os.fsync", full),
        lambda: monkeypatch.setattr(torch, "save", full),
    ):
        where()
        with pytest.raises(InputError, match="No space left"):
            resume.write(path, {"step": 2})
        monkeypatch.undo()
    with pytest.raises(Stop):
        with resume.whole(path) as file:
            file.write(b"half")
            raise Stop
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and resume.read(path) == {"step": 1}


def test_a_recipe_is_written_for_people(tmp_path):
    resume.begin(tmp_path / "run", resume.recipe(Settings()))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["stages"] == [[128, 0.5]]
