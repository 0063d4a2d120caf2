"""Training of StyleGAN2: data, augmentation, regularisation, resuming, two processes; the speed report."""

import json
import math
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from dystyle.errors import InputError
from dystyle.evaluation import speed
from dystyle.evaluation.speed import GeneratorSpeedConfig, OpsConfig
from dystyle.generators.checkpoints import save
from dystyle.training import augment as ada
from dystyle.training import generator
from dystyle.training.generator import GeneratorConfig, GeneratorTrainer, path_lengths, r1_penalty
from dystyle.training.growth import Growth, shrink
from dystyle.training.pictures import Pictures

SIZE = 32


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def photos(count: int, size: int = SIZE) -> torch.Tensor:
    """Smooth pictures (count, 3, size, size) in [-1, 1], different at every border."""
    noise = np.random.default_rng(0).standard_normal((count, 3, size, size))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 0, size / 10, size / 10), mode="nearest")
    return torch.from_numpy(smooth / np.abs(smooth).max()).float()


# -------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve pictures of several sizes and formats, each of one colour with a frame that cropping loses."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for index in range(12):
        picture = np.zeros((40 + index, 80, 3), np.uint8)
        picture[:, 8:72] = (20 * index, 100, 255 - 20 * index)
        name = f"{index:02d}.{('png', 'webp')[index % 2]}"
        Image.fromarray(picture).save(folder / ("more" if index > 8 else ".") / name, lossless=True)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_folder_and_zip_give_the_same_pictures(folder, tmp_path):
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder))
    pictures, zipped = Pictures(folder, SIZE), Pictures(archive, SIZE)
    assert len(pictures) == len(zipped) == 12
    for index in range(12):
        colour = (20 * index, 100, 255 - 20 * index)
        assert pictures[index].shape == (SIZE, SIZE, 3) and pictures[index].dtype == np.uint8
        assert np.abs(pictures[index].astype(int) - colour).max() <= 1  # cropped in the middle
        assert np.array_equal(pictures[index], zipped[index])


def test_pictures_are_resampled_without_aliasing_and_mirrored(tmp_path):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    board[:, 128:] = 255
    Image.fromarray(np.stack([board] * 3, 2)).save(tmp_path / "board.png")
    pictures = Pictures(tmp_path, SIZE, mirror=True)
    assert len(pictures) == 2
    assert abs(pictures[0][:, :12].astype(int) - 128).max() <= 2
    assert np.array_equal(pictures[1], pictures[0][:, ::-1])


def test_batches_cover_every_epoch_go_on_anywhere_and_differ_between_processes(folder):
    pictures = Pictures(folder, 8, mirror=True)  # 24 of them

    def take(count: int, **where) -> list[np.ndarray]:
        batches = pictures.batches(4, seed=3, **where)
        return [next(batches) for _ in range(count)]

    straight = take(12)
    epochs = [np.sort(np.concatenate(part)[:, 4, 4, 0]) for part in (straight[:6], straight[6:])]
    assert np.array_equal(epochs[0], epochs[1]) and (np.unique(epochs[0], return_counts=True)[1] == 2).all()
    assert any(not np.array_equal(a, b) for a, b in zip(straight[:6], straight[6:], strict=True))
    for a, b in zip(straight[5:8], take(3, start=5), strict=True):
        assert np.array_equal(a, b)
    shared = [take(6, process=process, processes=2) for process in (0, 1)]
    for step in range(6):
        assert np.array_equal(straight[2 * step], shared[0][step])
        assert np.array_equal(straight[2 * step + 1], shared[1][step])


def test_bad_data_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(InputError, match="neither a folder nor a zip file"):
        Pictures(tmp_path / "nothing", SIZE)
    with pytest.raises(InputError, match="holds no pictures"):
        Pictures(tmp_path, SIZE)
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(InputError, match="'b.png'.*damaged") as caught:
        Pictures(tmp_path, SIZE)[1]
    assert "\n" not in str(caught.value)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="All pictures in .* are damaged"):  # from the reading threads
        next(Pictures(tmp_path, SIZE).batches(3, seed=0))


def test_a_zip_with_all_that_goes_wrong_is_trained_from(folder, tmp_path, capsys):
    """As macOS packs folders; an encrypted picture, one that unpacks to 120 MB, a text, half a picture."""
    archive, good = tmp_path / "pictures.zip", sorted(folder.rglob("*.png"))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in good:
            file.write(path, path.name)
            file.writestr(f"__MACOSX/._{path.name}", b"\0\5\x16\7")
        file.writestr("._2.png", b"\0\5\x16\7")
        file.writestr("bomb.bmp", b"BM" + bytes(120_000_000))
        file.writestr("half.png", good[0].read_bytes()[:60])
        file.writestr("secret.png", good[0].read_bytes())
        file.writestr("words.jpg", "words")
    assert archive.stat().st_size < 200_000
    blob = bytearray(archive.read_bytes())
    for signature, flags, name in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        at = blob.index(b"secret.png") if signature[2] == 3 else blob.rindex(b"secret.png")
        assert blob[at - name :][:4] == signature
        blob[at - name + flags] |= 1  # encrypted
    archive.write_bytes(blob)
    pictures = Pictures(archive, SIZE)
    assert pictures.names == sorted([*(path.name for path in good), "half.png"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "left out 3 of 10: bomb.bmp (120 MB), secret.png (encrypted), words.jpg (not a picture)" in line
    half = pictures.names.index("half.png")
    batches = pictures.batches(7, seed=0)
    taken = [next(batches) for _ in range(3)]  # three epochs
    (line,) = capsys.readouterr().err.splitlines()
    assert "'half.png'" in line and "damaged" in line
    instead = pictures[(half + 1) % 7]
    assert all((batch == instead).all(axis=(1, 2, 3)).sum() == 2 for batch in taken)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_pictures_that_do_not_unpack_are_left_out(folder, tmp_path, capsys, method):
    archive, picture = tmp_path / "pictures.zip", next(folder.rglob("*.png")).read_bytes()
    with zipfile.ZipFile(archive, "w", method) as file:
        for name in ("bad.png", "good.png"):
            file.writestr(name, picture)
    blob = bytearray(archive.read_bytes())
    at = blob.index(b"bad.png") + 7
    blob[at : at + 40] = b"\xff" * 40
    archive.write_bytes(blob)
    assert Pictures(archive, SIZE).names == ["good.png"]
    assert "left out 1 of 2: bad.png (" in capsys.readouterr().err
    at = blob.index(b"PK\1\2")
    blob[at : at + 4] = b"none"
    archive.write_bytes(blob)
    with pytest.raises(InputError, match="pictures.zip' is damaged"):
        Pictures(archive, SIZE)


# ------------------------------------------------------------------------------------------ augmentation


def test_pixel_blitting_is_numpys():
    images = torch.rand(16, 3, SIZE, SIZE)
    flips, turns = torch.arange(16) % 2 == 1, torch.arange(16) // 2 % 4
    shifts = torch.randint(-4, 5, (16, 2))
    moved = ada.blit(images, flips, turns, shifts)
    for index, image in enumerate(images.numpy()):
        expected = image[:, :, ::-1] if flips[index] else image
        expected = np.rot90(expected, turns[index].item(), (1, 2))
        x, y = shifts[index].tolist()
        expected = np.roll(np.pad(expected, ((0, 0), (4, 4), (4, 4)), "reflect"), (y, x), (1, 2))
        assert np.array_equal(moved[index].numpy(), expected[:, 4:-4, 4:-4])


def test_geometry_is_scipys():
    """Away from the border, where the filters of both differ, on pictures that both can sample finely."""
    images = photos(12, 64)
    matrices = ada.draw_geometry(12, 0.9, 64)
    warped = ada.warp(images, matrices)
    centre = np.full(2, 31.5)
    inside = (slice(8, -8),) * 2
    for image, matrix, result in zip(images.numpy(), matrices.double().numpy(), warped.numpy(), strict=True):
        inverse = np.linalg.inv(matrix)
        linear, move = inverse[1::-1, 1::-1], inverse[1::-1, 2]  # rows and columns instead of x and y
        offset = centre + move - linear @ centre
        for before, after in zip(image, result, strict=True):
            expected = scipy.ndimage.affine_transform(before, linear, offset, order=3, mode="mirror")
            known = scipy.ndimage.affine_transform(np.ones((64, 64)), linear, offset, order=0) > 0
            known = scipy.ndimage.binary_erosion(known, iterations=3)[inside]
            assert np.abs(expected[inside] - after[inside])[known].max() < 0.05
    # Far from blank: nearly all of it was compared.
    assert warped.std() > 0.5 * images.std()


def test_wavelet_is_orthogonal_and_smooth():
    taps = np.array(ada.SYM6)
    for shift in range(0, 12, 2):
        assert abs(taps[shift:] @ taps[: 12 - shift] - (shift == 0)) < 1e-9
    places = np.arange(12)
    for moment in range(6):  # six vanishing moments make it a symlet of order 6
        assert abs(((-1.0) ** places * taps * (places / 12) ** moment).sum()) < 1e-7
    # So a map that moves by the least amount keeps the picture, though it goes through both filters.
    images, almost = photos(2), torch.eye(3).repeat(2, 1, 1)
    almost[:, 0, 2] = 1e-6
    inside = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(ada.warp(images, almost)[inside], images[inside], atol=1e-4, rtol=0)


def test_colours_are_opencvs_and_scipys():
    images = photos(1)
    angle = 0.7
    rotation = Rotation.from_rotvec(angle * np.full(3, 3**-0.5)).as_matrix()
    torch.testing.assert_close(
        ada.hue_rotation(torch.tensor([angle]))[0].double(), torch.from_numpy(rotation), atol=1e-6, rtol=0
    )
    matrix = torch.cat((torch.from_numpy(rotation).float(), torch.tensor([[0.1], [0.2], [-0.3]])), 1)
    expected = cv2.transform(images[0].permute(1, 2, 0).numpy(), matrix.numpy())
    result = ada.recolour(images, matrix[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_every_augmentation_is_the_identity_at_0_and_as_frequent_as_asked():
    images, count = photos(4), 4000
    assert torch.equal(ada.augment(images, 0), images)
    assert torch.equal(ada.blit(images, *ada.draw_blits(4, 0, SIZE)), images)
    assert torch.equal(ada.warp(images, ada.draw_geometry(4, 0, SIZE)), images)
    torch.testing.assert_close(ada.recolour(images, ada.draw_colours(4, 0)), images)

    def near(share: torch.Tensor, expected: float) -> None:
        assert abs(share.float().mean().item() - expected) < 5 * math.sqrt(expected * (1 - expected) / count)

    p = 0.3
    flips, turns, shifts = ada.draw_blits(count, p, SIZE)
    near(flips, p / 2)
    near(turns > 0, p * 3 / 4)
    near((shifts != 0).any(1), p * (1 - 1 / 81))  # 9 x 9 places, one of them where it was
    assert shifts.abs().max() == SIZE // 8
    geometry = ada.draw_geometry(count, p, SIZE)
    near((geometry[:, :2, 2] != 0).any(1), p)
    turned = (geometry[:, 0, 1] != 0) | (geometry[:, 1, 0] != 0)
    near(turned, p)  # by either rotation
    near((torch.linalg.det(geometry) - 1).abs() > 1e-4, p)  # the scale alone changes areas
    scales = torch.linalg.det(ada.draw_geometry(count, 1, SIZE)).sqrt().log2()
    assert abs(scales.mean()) < 0.02 and abs(scales.std() - 0.2) < 0.02
    colours = ada.draw_colours(count, p)
    near((colours[:, :, 3].abs() > 1e-6).any(1), p)
    near(torch.linalg.det(colours[:, :, :3]) < 0, p / 2)  # luma flips are reflections
    grey = colours[:, :, :3] @ torch.full((3,), 3**-0.5)
    near((grey.norm(dim=1) - 1).abs() > 1e-4, p)  # contrast alone scales grey


def test_augmentation_can_be_differentiated():
    images = photos(2, 16).double().requires_grad_(True)
    draws = ada.draw_blits(2, 1, 16), ada.draw_geometry(2, 1, 16).double(), ada.draw_colours(2, 1).double()

    def transform(x: torch.Tensor) -> torch.Tensor:
        return ada.recolour(ada.warp(ada.blit(x, *draws[0]), draws[1]), draws[2])

    assert torch.autograd.gradcheck(transform, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: transform(x).square(), images, fast_mode=True)


def test_augmentation_grows_when_the_discriminator_is_overconfident():
    p = 0.0
    for _ in range(30):
        p = ada.adapt(p, signs=0.9, pictures=128, speed=6400)
    assert p == pytest.approx(30 * 128 / 6400)
    for _ in range(100):
        p = ada.adapt(p, signs=0.2, pictures=128, speed=6400)
    assert p == 0
    assert ada.adapt(1.0, signs=1.0, pictures=128, speed=6400) == 1


# ---------------------------------------------------------------------------------------- regularisation


def test_r1_of_a_linear_discriminator():
    weight = torch.randn(3 * 8 * 8)
    images = torch.randn(5, 3, 8, 8, requires_grad=True)
    penalty = r1_penalty(images.flatten(1) @ weight[:, None], images)
    torch.testing.assert_close(penalty, weight.square().sum().expand(5))
    quadratic = r1_penalty(images.square().sum((1, 2, 3))[:, None], images)
    torch.testing.assert_close(quadratic, 4 * images.square().sum((1, 2, 3)))
    (gradient,) = torch.autograd.grad(quadratic.sum(), images)  # it can be learnt from
    torch.testing.assert_close(gradient, 8 * images)


def test_r1_goes_through_the_augmentation(tmp_path, folder, monkeypatch):
    """Of a linear discriminator w behind an affine augmentation of matrix A it is |A^T w|^2, not |w|^2."""
    trainer, states = GeneratorTrainer(small(tmp_path, folder, lr=0.0)), []
    weight = torch.randn(192, 1, requires_grad=True)
    trainer.discriminator.forward = lambda images: images.flatten(1) @ weight
    trainer.p = 0.9

    def remember(x: torch.Tensor, p: float) -> torch.Tensor:
        states.append(torch.get_rng_state())
        return ada.augment(x, p)

    monkeypatch.setattr(generator, "augment", remember)
    monkeypatch.setattr(trainer, "_descend", lambda *_: None)
    images = reals(folder)
    penalty, count = trainer.train_step(images)["r1"], len(images)
    torch.set_rng_state(states[-1])
    blits, geometry = ada.draw_blits(count, 0.9, 8), ada.draw_geometry(count, 0.9, 8)
    colours, expected = ada.draw_colours(count, 0.9) * torch.tensor([1.0, 1, 1, 0]), []
    for i in range(count):  # A, column by column
        columns = ada.blit(torch.eye(192).view(192, 3, 8, 8), *(x[i].expand(192, *x[i].shape) for x in blits))
        columns = ada.recolour(
            ada.warp(columns, geometry[[i]].expand(192, 3, 3)), colours[[i]].expand(192, 3, 4)
        )
        expected.append((columns.flatten(1) @ weight).square().sum().item())
    assert penalty == pytest.approx(np.mean(expected), rel=1e-4)
    assert abs(np.mean(expected) / weight.square().sum().item() - 1) > 0.1


def test_path_length_of_a_linear_generator():
    """Of a generator that is |c| times a rotation, |J^T y| is |c| |y| whatever y is."""
    rotation, _ = torch.linalg.qr(torch.randn(192, 192))
    codes = torch.randn(4, 1, 192, requires_grad=True)
    scale = torch.tensor(3.0, requires_grad=True)
    images = (scale * codes @ rotation).view(4, 3, 8, 8)
    noise = torch.randn(4, 3, 8, 8)
    lengths = path_lengths(images, codes, noise)
    torch.testing.assert_close(lengths, 3 * noise.flatten(1).norm(dim=1) / 8)
    (gradient,) = torch.autograd.grad(lengths.sum(), scale)
    torch.testing.assert_close(gradient, (noise.flatten(1).norm(dim=1) / 8).sum())
    # Over rows of W+ it is the root of the mean square.
    codes = torch.randn(4, 6, 192, requires_grad=True)
    lengths = path_lengths((codes.sum(1) @ rotation).view(4, 3, 8, 8), codes, noise)
    torch.testing.assert_close(lengths, noise.flatten(1).norm(dim=1) / 8)


# ---------------------------------------------------------------------------------------------- training


class Stop(Exception):
    pass


def small(out: Path, data: Path, **changes) -> GeneratorConfig:
    """A run of seconds, in which every regularisation and the augmentation take their turn."""
    config = GeneratorConfig(
        data=data,
        out=out,
        size=8,
        channel_base=64,
        channel_max=8,
        mapping_layers=2,
        steps=6,
        batch=4,
        r1_every=2,
        path_every=2,
        ada_speed=40,
        compared=8,
        paths=4,
        checkpoint_every=3,
        evaluate_every=3,
    )
    return replace(config, **changes)


def test_an_interrupted_run_ends_as_a_straight_one(tmp_path, folder, monkeypatch):
    torch.use_deterministic_algorithms(True)
    straight = GeneratorTrainer(small(tmp_path / "straight", folder))
    start = {name: tensor.clone() for name, tensor in straight.average.state_dict().items()}
    straight.p = 0.5
    weights = load_file(straight.run())
    assert 0 < straight.p != 0.5  # the augmentation took part, and was adapted

    interrupted = GeneratorTrainer(small(tmp_path / "interrupted", folder))
    interrupted.p = 0.5
    step = interrupted.train_step

    def stop_at_five(reals: torch.Tensor) -> dict[str, float]:
        if interrupted.step == 5:
            raise Stop
        return step(reals)

    monkeypatch.setattr(interrupted, "train_step", stop_at_five)
    with pytest.raises(Stop):
        interrupted.run()
    resumed = GeneratorTrainer(small(tmp_path / "interrupted", folder))
    other = load_file(resumed.run())
    torch.use_deterministic_algorithms(False)
    assert weights.keys() == other.keys() and resumed.p == straight.p
    for name, value in weights.items():
        assert np.array_equal(value, other[name]), name
    for name, value in straight.discriminator.state_dict().items():
        assert torch.equal(value, resumed.discriminator.state_dict()[name]), name
    assert any(not torch.equal(value, straight.average.state_dict()[name]) for name, value in start.items())

    figures = json.loads((tmp_path / "interrupted" / "figures.json").read_text())
    assert [row["step"] for row in figures] == [3, 6]
    assert f"| 24 | 0 | {figures[1]['frechet']:.3f} |" in (tmp_path / "interrupted/generator.md").read_text()
    assert cv2.imread(str(tmp_path / "straight" / "samples-000006.png")).shape == (48, 80, 3)


class Means(torch.nn.Module):
    """What NVIDIA's file of Inception takes and gives; its features are mean levels and their squares."""

    def forward(self, levels: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert levels.dtype == torch.uint8 and return_features
        means = levels.float().mean((2, 3))
        return torch.cat((means, means.square() / 255), 1)


def test_the_fid_is_that_of_the_file(tmp_path, folder):
    torch.jit.script(Means()).save(tmp_path / "inception.pt")
    config = small(tmp_path / "run", folder, inception=str(tmp_path / "inception.pt"), mirror=False)
    trainer = GeneratorTrainer(config)
    trainer.evaluate()
    levels = (
        ((trainer._render(trainer.average.map(trainer._fixed_z(8, 0))) + 1) * 127.5).clamp(0, 255).round()
    )
    order = [Pictures(folder, 8)[index] for index in Pictures(folder, 8)._shuffled(np.arange(8), seed=1)]
    features = []
    for means in (levels.mean((2, 3)).double().numpy(), np.stack(order).mean((1, 2))):
        features.append(np.concatenate((means, means**2 / 255), 1))
    (fake, real), spreads = features, [np.cov(x.T) for x in features]
    root = scipy.linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = np.square(fake.mean(0) - real.mean(0)).sum() + np.trace(sum(spreads) - 2 * root)
    assert trainer.figures[0]["fid"] == pytest.approx(expected, rel=1e-3)
    trainer.write_card()
    card = (tmp_path / "run" / "generator.md").read_text()
    assert "Inception's features" in card and f"| {trainer.figures[0]['fid']:.3f} |" in card
    (tmp_path / "inception.pt").write_bytes(b"no")
    with pytest.raises(InputError, match="no TorchScript"):
        GeneratorTrainer(replace(config, out=tmp_path / "other"))


def growing(out: Path, data: Path, **changes) -> GeneratorConfig:
    """8 px for two steps, two in which 16 px fade in, and the same with 32 px."""
    return small(out, data, architecture="stylegan1", size=32, phase=8, steps=8, evaluate_every=4, **changes)


def test_sizes_fade_in_in_turn():
    growth = Growth(8, 32, 100)
    assert [growth.at(n) for n in (0, 99)] == [(8, 1.0)] * 2
    assert [growth.at(n) for n in (100, 125, 199)] == [(16, 0.0), (16, 0.25), (16, 0.99)]
    assert [growth.at(n) for n in (200, 299)] == [(16, 1.0)] * 2
    assert [growth.at(n) for n in (300, 350)] == [(32, 0.0), (32, 0.5)]
    assert growth.pictures == 400 and [growth.at(n) for n in (400, 10**9)] == [(32, 1.0)] * 2
    still = Growth(32, 32, 100)
    assert still.pictures == 0 and all(still.at(n) == (32, 1.0) for n in (0, 100, 150, 10**9))


def test_real_pictures_fade_as_generated_ones_do():
    images = photos(2)
    assert torch.equal(shrink(images, 32, 1), images)
    small = images.view(2, 3, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(shrink(images, 16, 1), small)
    smaller = small.view(2, 3, 8, 2, 8, 2).mean((3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(shrink(images, 16, 0.25), 0.25 * small + 0.75 * smaller)


def test_a_growing_run_shows_both_networks_its_sizes_and_goes_on_inside_a_fade(tmp_path, folder, monkeypatch):
    torch.use_deterministic_algorithms(True)
    straight, seen = GeneratorTrainer(growing(tmp_path / "straight", folder)), []
    judge, step = straight.discriminator.forward, straight.train_step

    def remember(images: torch.Tensor, **fading) -> torch.Tensor:
        seen.append((straight.step, images.shape[-1], fading.get("alpha", 1.0)))
        return judge(images, **fading)

    logs = []
    monkeypatch.setattr(straight.discriminator, "forward", remember)
    monkeypatch.setattr(straight, "train_step", lambda reals: logs.append(step(reals)) or logs[-1])
    weights = load_file(straight.run())
    sizes = [(8, 1.0), (8, 1.0), (16, 0.0), (16, 0.5), (16, 1.0), (16, 1.0), (32, 0.0), (32, 0.5)]
    assert set(seen) == {(number, *stage) for number, stage in enumerate(sizes)}
    assert [(log["growth/size"], log["growth/alpha"]) for log in logs] == sizes
    assert cv2.imread(str(tmp_path / "straight" / "samples-000004.png")).shape == (6 * 32, 10 * 32, 3)

    interrupted = GeneratorTrainer(growing(tmp_path / "interrupted", folder, checkpoint_every=1))
    step = interrupted.train_step

    def stop_in_a_fade(reals: torch.Tensor) -> dict[str, float]:
        if interrupted.step == 7:
            raise Stop
        return step(reals)

    monkeypatch.setattr(interrupted, "train_step", stop_in_a_fade)
    with pytest.raises(Stop):
        interrupted.run()
    other = load_file(GeneratorTrainer(growing(tmp_path / "interrupted", folder)).run())
    torch.use_deterministic_algorithms(False)
    assert weights.keys() == other.keys()
    for name, value in weights.items():
        assert np.array_equal(value, other[name]), name


def test_adam_begins_anew_where_a_fade_begins_or_ends(tmp_path, folder):
    trainer, steps = GeneratorTrainer(growing(tmp_path, folder, augment=False)), []
    for trainer.step in range(8):
        trainer.train_step(photos(4))
        state = trainer.g_optimiser.state[trainer.generator.blocks["b4"].const]
        steps.append(int(state["step"]))
    assert steps == [1, 2] * 4


def test_r1_grows_with_the_pictures(tmp_path, folder, monkeypatch):
    """As by pictures enlarged to the full size: doubled, a pixel is four with a quarter of its gradient."""
    trainer = GeneratorTrainer(growing(tmp_path, folder, augment=False, r1=3.0, r1_every=1, lr=0.0))
    losses, weights = [], []
    monkeypatch.setattr(trainer, "_descend", lambda loss, *_: losses.append(loss.item()))
    for trainer.step in (0, 4, 8):
        logs = trainer.train_step(photos(4))
        weights.append(losses[-1] / logs["r1"])
    assert weights == pytest.approx([1.5 / 16, 1.5 / 4, 1.5])


def test_growth_that_does_not_end_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match="give --steps 8 or more"):
        GeneratorTrainer(replace(growing(tmp_path / "a", folder), steps=7))
    with pytest.raises(InputError, match="Nothing grows from 12 px"):
        GeneratorTrainer(growing(tmp_path / "b", folder, smallest=12))
    grown = GeneratorTrainer(growing(tmp_path / "c", folder))
    save(grown.generator, tmp_path / "g.safetensors")
    start = str(tmp_path / "g.safetensors")
    again = GeneratorTrainer(replace(growing(tmp_path / "d", folder, start=start), steps=1))
    assert again.growth.at(0) == (32, 1.0)
    with pytest.raises(InputError, match="is a StyleGAN1; .* starts from a StyleGAN2"):
        GeneratorTrainer(small(tmp_path / "e", folder, size=32, start=start))


def taught(folder: Path, out: Path, steps: int = 12, **changes) -> GeneratorTrainer:
    """A trainer after some steps on the same pictures, by the terms that are asked for besides the scores."""
    plain = {"augment": False, "r1": 0.0, "path_length": 0.0, "r1_every": 1, "path_every": 1, "lr": 0.01}
    trainer = GeneratorTrainer(small(out, folder, **plain | changes))
    torch.manual_seed(1)
    for trainer.step in range(steps):
        trainer.train_step(reals(folder))
    return trainer


def reals(folder: Path) -> torch.Tensor:
    pictures = Pictures(folder, 8)
    images = np.stack([pictures[index] for index in range(8)])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


def scores(trainer: GeneratorTrainer, folder: Path) -> tuple[float, float]:
    """Mean logits of real pictures and of the generator's, the same codes every time."""
    torch.manual_seed(2)
    with torch.no_grad():
        return tuple(trainer._judge(x).mean().item() for x in (reals(folder), trainer._fakes(64)))


def test_both_networks_learn_their_side_of_the_game(tmp_path, folder):
    """Each alone, the other standing still: the sign of either loss, and that it reaches its network."""
    before = scores(taught(folder, tmp_path / "none", steps=0), folder)
    gains = {}
    for network, still in (("generator", "d_optimiser"), ("discriminator", "g_optimiser")):
        trainer = GeneratorTrainer(
            small(tmp_path / network, folder, augment=False, r1=0, path_length=0, lr=0.01)
        )
        getattr(trainer, still).param_groups[0]["lr"] = 0.0
        torch.manual_seed(1)
        for trainer.step in range(12):
            trainer.train_step(reals(folder))
        real, fake = scores(trainer, folder)
        gains[network] = real - before[0], fake - before[1]
    assert gains["generator"][0] == 0 and gains["generator"][1] > 0.1
    assert gains["discriminator"][0] - gains["discriminator"][1] > 0.1


def test_r1_flattens_the_discriminator_at_real_pictures(tmp_path, folder):
    def steepness(trainer: GeneratorTrainer) -> float:
        images = reals(folder).requires_grad_(True)
        return r1_penalty(trainer.discriminator(images), images).mean().item()

    off, on = (steepness(taught(folder, tmp_path / f"{r1}", r1=r1)) for r1 in (0.0, 1000.0))
    assert on < 0.5 * off
    standard = GeneratorTrainer(small(tmp_path / "standard", folder, r1=None))
    assert standard.r1 == pytest.approx(0.0002 * 8**2 / 4)


def test_path_length_is_drawn_to_its_running_mean(tmp_path, folder):
    def missed(trainer: GeneratorTrainer) -> float:
        """Root mean square distance of |J^T y| from the mean that the run begins with, which is 0."""
        torch.manual_seed(2)
        codes = trainer._codes(64)
        images = trainer.generator(codes, noise="random")
        return path_lengths(images, codes, torch.randn_like(images)).square().mean().sqrt().item()

    off, on = (missed(taught(folder, tmp_path / f"{w}", path_length=w)) for w in (0.0, 100.0))
    assert on < 0.7 * off


def test_lazy_regularisation_keeps_its_strength(tmp_path, folder, monkeypatch):
    """Every fourth step, four times as strong (section 3.1); nothing moves here, so the losses compare."""
    losses = {}
    for every in (1, 4):
        changes = {"r1": 3.0, "path_length": 2.0, "r1_every": every, "path_every": every, "lr": 0.0}
        trainer = GeneratorTrainer(small(tmp_path / f"{every}", folder, augment=False, **changes))
        descended = losses[every] = []
        monkeypatch.setattr(trainer, "_descend", lambda loss, *_, to=descended: to.append(loss.item()))
        torch.manual_seed(1)
        logs = trainer.train_step(reals(folder))
        assert descended[3] == pytest.approx(every * 3.0 / 2 * logs["r1"])
        trainer.step = 1
        trainer.train_step(reals(folder))
        assert len(descended) == (8 if every == 1 else 6)
    for part, factor in enumerate((1, 4, 1, 4)):
        assert losses[4][part] == pytest.approx(factor * losses[1][part], rel=1e-4), part


def test_augmentation_follows_what_the_discriminator_makes_of_real_pictures(tmp_path, folder):
    for bias, expected in ((100.0, 0.5 + 4 * 4 / 40), (-100.0, 0.5 - 4 * 4 / 40)):
        trainer = GeneratorTrainer(small(tmp_path / f"{bias}", folder, lr=0.0))
        trainer.p = 0.5
        trainer.discriminator.out.bias.data.fill_(bias)
        for trainer.step in range(4):
            trainer.train_step(reals(folder)[:4])
        assert trainer.p == pytest.approx(expected)


def test_pictures_are_augmented_exactly_whatever_the_precision(tmp_path, folder, monkeypatch):
    trainer, seen = GeneratorTrainer(small(tmp_path, folder)), []
    trainer.p = 0.9
    monkeypatch.setattr(trainer.accelerator, "autocast", lambda: torch.autocast("cpu", torch.bfloat16))
    monkeypatch.setattr(trainer.discriminator, "forward", lambda images: seen.append(images) or images)
    torch.manual_seed(3)
    trainer._judge(reals(folder))
    torch.manual_seed(3)
    assert torch.equal(seen[0], ada.augment(reals(folder), 0.9))


def test_as_many_pictures_as_asked_for_are_made_of_two_codes(tmp_path, folder):
    for mixing in (0.0, 0.5):
        codes = GeneratorTrainer(small(tmp_path / f"{mixing}", folder, mixing=mixing))._codes(400)
        assert abs((codes != codes[:, :1]).any(2).any(1).float().mean().item() - mixing) < 0.1
    grows = GeneratorTrainer(growing(tmp_path / "growing", folder, mixing=1.0))
    codes = grows._codes(50)[:, : grows.generator.rows(8)]  # of the first size
    assert (codes != codes[:, :1]).any(2).any(1).all()


def test_average_follows_with_the_half_life(tmp_path, folder):
    trainer = GeneratorTrainer(small(tmp_path, folder, half_life=8))
    trainer.step = 10**6  # long after the warm-up
    for network, value in ((trainer.average, 0.0), (trainer.generator, 1.0)):
        for parameter in network.parameters():
            parameter.data.fill_(value)
    for _ in range(4):  # 16 pictures: two half-lives
        trainer._follow()
    for parameter in trainer.average.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 0.75))


def test_training_starts_from_weights_that_fit(tmp_path, folder):
    torch.manual_seed(5)
    first = GeneratorTrainer(small(tmp_path / "first", folder))
    paths = [str(tmp_path / name) for name in ("g.safetensors", "d.safetensors")]
    for network, path in zip((first.generator, first.discriminator), paths, strict=True):
        save(network, Path(path))
    started = small(tmp_path / "second", folder, start=paths[0], start_discriminator=paths[1], seed=1)
    second = GeneratorTrainer(replace(started, channel_base=999))
    for name in ("generator", "discriminator"):
        for key, value in getattr(first, name).state_dict().items():
            assert torch.equal(value, getattr(second, name).state_dict()[key]), key
    with pytest.raises(InputError, match="give --size 8"):
        GeneratorTrainer(replace(started, size=16))


def test_precision_that_is_not_there_is_refused(tmp_path, folder):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="fp16 needs a GPU"):
            GeneratorTrainer(small(tmp_path, folder, precision="fp16"))


def test_two_processes_train_one_generator(tmp_path, folder):
    """As on several GPUs: own pictures and codes, same weights; see two_generator_processes.py."""
    script = Path(__file__).with_name("two_generator_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, script, tmp_path / "run", folder], check=True, timeout=300)
    with pytest.raises(InputError, match="another precision"):
        GeneratorTrainer(small(tmp_path / "run", folder))
    recipe = tmp_path / "run" / "recipe.json"
    recipe.write_text(recipe.read_text().replace("bf16", "no"))  # accelerate keeps to one precision a process
    with pytest.raises(InputError, match="2 process"):
        GeneratorTrainer(small(tmp_path / "run", folder)).run()


def test_a_run_goes_on_as_it_was_begun_only(tmp_path, folder):
    run, others = small(tmp_path / "run", folder, steps=3), tmp_path / "others"
    GeneratorTrainer(run).run()
    shutil.copytree(folder, others)
    (others / "00.png").write_bytes((folder / "00.png").read_bytes() + b" ")  # another picture of that name
    for changes, name in (
        ({"size": 16}, "size"),
        ({"channel_max": 4}, "channel_max"),
        ({"seed": 7}, "seed"),
        ({"data": others}, "data"),
        ({"start": "stylegan2"}, "start"),
    ):
        with pytest.raises(InputError, match=f"begun with another {name}"):
            GeneratorTrainer(replace(run, **changes))
    further = GeneratorTrainer(replace(run, steps=4, checkpoint_every=2))
    further.run()
    assert further.step == 4
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        assert (run.out / name).exists()
    newest = run.out / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    again = GeneratorTrainer(replace(run, steps=4))
    again.run()
    assert again.step == 4 and [row["step"] for row in again.figures] == [3, 4]
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (run.out / name).write_bytes(b"half")
    with pytest.raises(InputError, match="damaged, and there is none before it"):
        GeneratorTrainer(run).run()


def test_too_little_is_refused_before_the_first_step(tmp_path, folder):
    few = tmp_path / "few"
    (few / "more").mkdir(parents=True)
    for index in range(3):
        shutil.copy(folder / "00.png", few / f"{index}.png")
        with pytest.raises(InputError, match=rf"holds {index + 1} picture.* takes 4 or more"):
            GeneratorTrainer(small(tmp_path / "run", few))
    shutil.copy(folder / "00.png", few / "more" / "3.png")
    GeneratorTrainer(small(tmp_path / "run", few, mirror=False, steps=1)).run()
    for name, value in (("compared", 3), ("paths", 0), ("batch", 0), ("r1_every", 0), ("steps", 0)):
        option = f"--{name.replace('_', '-')} {value}"
        with pytest.raises(InputError, match=f"{option} is too little"):
            GeneratorTrainer(small(tmp_path / "other", folder, **{name: value}))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_labels_that_are_not_used_are_mentioned(zipped, tmp_path, folder, capsys):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    for labels, mentioned in (([["00.png", 1]], True), (None, False)):
        (data / "dataset.json").write_text(json.dumps({"labels": labels}))
        source = Path(shutil.make_archive(tmp_path / "data", "zip", data)) if zipped else data
        GeneratorTrainer(small(tmp_path / f"run-{mentioned}", source))
        assert ("labels in dataset.json are not used" in capsys.readouterr().err) == mentioned


# ------------------------------------------------------------------------------------------------- speed


def test_speed_is_reported_for_every_op_and_the_generator():
    config = OpsConfig(device="cpu", sizes=(8,), channels=4, dtypes=("float32",), compare=False, seconds=0)
    result = speed.evaluate_ops(config)
    assert len({row["op"] for row in result["rows"]}) == 11 and len(result["rows"]) == 22
    rows = {(row["op"], row["pass"]): row for row in result["rows"]}
    maps = 4 * 4 * 8 * 8 * 4  # bytes
    assert rows["bias_act lrelu", "forward"]["bytes"] == 2 * maps + 4 * 4
    assert rows["upfirdn2d down 2, 4x4", "both"]["bytes"] == 2 * (maps + maps // 4)
    assert all(row["reference"] > 0 and row["torch.compile"] is None for row in result["rows"])
    table = speed.ops_table(result)
    assert f"| {rows['bias_act lrelu', 'both']['reference'] * 1000:.3f} |" in table
    small = GeneratorSpeedConfig(
        device="cpu", size=8, channel_base=64, channel_max=8, compare=False, seconds=0
    )
    result = speed.evaluate_generator(small)
    assert [row["form"] for row in result["rows"]] == ["activations", "grouped"]
    # A convolution's multiply and add count two; the one of 8 channels at 4 px is the least of several.
    assert result["rows"][0]["flops"] > 2 * 9 * 8 * 8 * 16
    assert "StyleGAN2 at 8 px" in speed.generator_table(result)
    with pytest.raises(InputError, match="float16 on GPUs only"):
        speed.evaluate_generator(replace(small, dtypes=("float16",)))
    with pytest.raises(InputError, match="no device"):
        speed.evaluate_ops(replace(config, device="abacus"))
    with pytest.raises(InputError, match="no floating-point type"):
        speed.evaluate_ops(replace(config, dtypes=("int32",)))
