"""Attribute readings of aligned faces."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from dystyle.alignment import FaceAligner
from dystyle.attributes import ATTRIBUTES
from dystyle.engines.graphs import TorchBackend, generator
from dystyle.errors import InputError
from dystyle.knowledge.probe import FaceProbe
from dystyle.knowledge.readings import FaceReader, IdentityNetwork, crop
from dystyle.metrics.independent_judges import Judges
from dystyle.metrics.labels import read_labels

LABELS = Path(__file__).parents[1] / "data" / "labels"
# Least accuracy and AUC against the hand labels that were held out of training.
AGREEMENT = {
    "eyeglasses": (0.97, 0.98),
    "black_hair": (0.85, 0.95),
    "mustache": (0.93, 0.95),
    "beard": (0.93, 0.95),
    "smile": (0.93, 0.95),
    "mouth_open": (0.90, 0.95),
    "eyes_closed": (0.90, 0.95),
}


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader()


@pytest.fixture(scope="module")
def faces(astronaut) -> torch.Tensor:
    """The astronaut's portrait and three random people, (4, 3, 256, 256)."""
    backend = TorchBackend()
    aligner = FaceAligner(lambda x: tuple(backend.run("detector", x)), lambda x: backend.run("mesh", x)[0])
    portrait = torch.from_numpy(aligner.align(astronaut)[1]).permute(2, 0, 1)[None] / 127.5 - 1
    codes = generator().map(np.random.default_rng(4).standard_normal((3, 512), np.float32))
    with torch.no_grad():
        people = generator()(generator().truncate(torch.from_numpy(codes), 0.7))
    return F.adaptive_avg_pool2d(torch.cat((portrait, people.clamp(-1, 1))), 256)


def test_crop_of_everything_is_the_picture(faces):
    whole = torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([1.0])
    torch.testing.assert_close(crop(faces, 256, *whole), faces, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        crop(faces, 64, *whole),
        F.interpolate(faces, size=(64, 64), mode="bilinear", antialias=True),
        atol=2e-2,
        rtol=0,
    )


def test_the_astronaut_is_a_smiling_adult_with_open_eyes(reader, faces):
    with torch.no_grad():
        scores = reader(faces)
    read = {name: float(row.score_to_value(scores[name][0])) for name, row in ATTRIBUTES.items()}
    assert abs(read["yaw"]) < 20 and abs(read["pitch"]) < 15 and 20 < read["age"] < 50
    assert read["gender"] < 0.5 and read["smile"] > 0.9
    assert read["mouth_open"] > 0.5 and read["eyes_closed"] < 0.5


def test_mirrored_faces_look_the_other_way(reader, faces):
    with torch.no_grad():
        straight, mirrored = reader(faces), reader(faces.flip(3))
    assert (straight["yaw"] + mirrored["yaw"]).abs().mean() < 0.1
    for name in ("pitch", "age"):
        assert (straight[name] - mirrored[name]).abs().mean() < 4


def test_readings_hold_from_64_px_up(reader, faces):
    with torch.no_grad():
        full = reader(F.interpolate(faces, size=(1024, 1024), mode="bilinear"))
        for size, tolerance in ((64, 3.5), (128, 1)):
            small = reader(F.interpolate(faces, size=(size, size), mode="area"))
            for name, unit in {"yaw": 1, "pitch": 1, "age": 1.5}.items():
                assert (small[name] - full[name]).abs().mean() < tolerance * unit, (name, size)


def test_every_reading_has_a_gradient_that_raises_it(reader, faces):
    pictures = F.interpolate(faces, size=(128, 128), mode="area")
    for name in ATTRIBUTES:
        x = pictures.clone().requires_grad_(True)
        before = reader(x)[name]
        (gradient,) = torch.autograd.grad(before.sum(), x)
        assert torch.isfinite(gradient).all()
        step = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None] * 0.2
        with torch.no_grad():
            assert (reader(pictures + step)[name] > before).all(), name


# Random people, by what a person sees: who turns to the picture's left or right, who looks down or up.
SEEN_BY_EYE = {102: ("yaw", -1), 107: ("yaw", 1), 121: ("pitch", -1), 114: ("pitch", 1)}


def test_signs_of_the_pose_are_those_that_a_person_sees(reader, editor):
    """A sign that is wrong everywhere, in readings, engines and judges alike, would be consistent."""
    judges = Judges()
    for seed, (name, sign) in SEEN_BY_EYE.items():
        picture = editor.synthesize(editor.sample(seed, 0.9), 256)
        with torch.no_grad():
            score = reader(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 127.5 - 1)[name]
        for read in (score.item(), editor.measure(picture)[name], judges.read(picture[None])[name].item()):
            assert sign * read > 5, (seed, name, read)


def test_the_mean_face_looks_straight_ahead(reader):
    with torch.no_grad():
        read = reader(generator()(generator().mean_w[None]))
    assert abs(float(read["pitch"])) < 1 and abs(float(read["yaw"])) < 2


def test_readings_agree_with_a_person_about_faces_they_never_saw(editor):
    labels, held = read_labels(LABELS)
    codes = np.load(LABELS / "codes.npz")["w"][held]
    read = [editor.measure(editor.synthesize(np.repeat(code[None], 18, 0))) for code in codes]
    for name, (accuracy, auc) in AGREEMENT.items():
        values, truth = np.array([r[name] for r in read]), labels[name][held]
        assert ((values > 0.5) == truth).mean() >= accuracy, name
        assert roc_auc_score(truth, values) >= auc, name


@pytest.mark.parametrize("damage", ["other format", "missing tensor"])
def test_a_file_that_is_no_probe_is_refused(tmp_path, damage):
    path = tmp_path / "probe.safetensors"
    FaceProbe(names=("beard",), channels=(8, 8)).save(path)
    with safe_open(path, "np") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    if damage == "other format":
        metadata["format"] = "dystyle"
    else:
        del tensors["head.bias"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(InputError, match="probe"):
        FaceProbe.load(str(path))


def test_identity_survives_noise_and_tells_people_apart(faces):
    network = IdentityNetwork()
    with torch.no_grad():
        clean = network(faces)
        noisy = network(faces + 0.05 * torch.randn(faces.shape, generator=torch.manual_seed(0)))
    torch.testing.assert_close(clean.norm(dim=1), torch.ones(len(faces)))
    same = (clean * noisy).sum(1)
    others = (clean @ clean.T)[~torch.eye(len(faces), dtype=torch.bool)]
    assert same.min() > others.max()
