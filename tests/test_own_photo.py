"""The person's own photo comes back, and stays theirs through edits."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from dystyle import FaceEditor, InputError, pipeline
from dystyle.alignment import hull, paste
from dystyle.attributes import ATTRIBUTES, BELOW_THE_BROWS, EYES, LEFT_BROW, LIPS, NOSE, RIGHT_BROW
from dystyle.compositing import Carried, Flow, by_place, changes, complexion, composite, detailed, grain
from dystyle.editors.base import EditedCode
from dystyle.encoders.carrier import Carrier, warp
from dystyle.engines.graphs import generator
from dystyle.evaluation.photos import PhotosConfig, evaluate_photos, fine_structure
from dystyle.faces import InvertedFace
from dystyle.places import Moved, Places
from dystyle.tone import tone_of


@pytest.fixture(scope="module")
def face(editor, astronaut):
    return editor.invert(astronaut)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float32) - cv2.resize(b, a.shape[:2], interpolation=cv2.INTER_AREA)).mean(2)


@pytest.mark.parametrize("size", [1024, 256])
def test_the_residual_brings_the_photo_back(editor, face, size):
    alone = difference(editor.synthesize(face.code, size), face.portrait)
    restored = difference(editor.synthesize(face.code, size, face=face), face.portrait)
    assert restored.mean() < 0.6 * alone.mean()


@pytest.mark.parametrize("size", [1024, 256])
def test_an_edit_changes_what_it_should_and_leaves_the_photos_own_pixels(editor, face, size):
    before = editor.measure(face.portrait)["smile"]
    edited = editor.synthesize(editor.edit(face.code, {"smile": 0.0}), size, face=face)
    changed = difference(edited, face.portrait)
    top, mouth = slice(0, size // 8), slice(size * 5 // 8, size * 13 // 16)
    assert np.median(changed[top]) < 0.5 and changed[mouth, size * 3 // 8 : size * 5 // 8].mean() > 4
    assert editor.measure(edited)["smile"] < before - 0.3


def test_an_edit_stays_where_it_has_business(editor, face):
    rest = np.ones((1024, 1024), bool)
    rest[350:, 64:960] = False  # softly around mouth, cheeks and chin
    smileless = editor.edit(face.code, {"smile": 0.0})
    assert np.array_equal(editor.synthesize(smileless, face=face)[rest], face.portrait[rest])
    blind = editor.edit(smileless, {"eyes_closed": 1.0})  # one after the other: both show
    picture = editor.synthesize(blind, face=face)
    values, before = editor.measure(picture), editor.measure(face.portrait)
    assert values["eyes_closed"] > 0.8 and values["smile"] < before["smile"] - 0.3
    assert np.array_equal(picture[:64], face.portrait[:64])
    aged = editor.edit(smileless, {"age": 70})  # all of the face's business
    assert (difference(editor.synthesize(aged, face=face), face.portrait)[rest] > 3).mean() > 0.1
    # What is computed from a code is another one, of which nobody knows where it has business.
    other = smileless + 0.9 * (np.asarray(editor.edit(face.code, {"age": 70})) - face.code)
    assert (difference(editor.synthesize(other, face=face), face.portrait)[rest] > 3).mean() > 0.1
    by_hand = editor.edit(other, {"smile": 0.0})
    assert (difference(editor.synthesize(by_hand, face=face), face.portrait)[rest] > 3).mean() > 0.1
    unknown = dataclasses.replace(face, landmarks=None)
    assert difference(editor.synthesize(smileless, face=unknown), face.portrait)[rest].max() > 3


def test_eyes_and_complexion_stay_the_persons_unless_they_are_edited(editor, face, monkeypatch):
    """The astronaut's brown eyes: her code has blue ones, and a paler skin."""

    def eyes(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
        columns, rows = np.rint(place).astype(int)
        return picture[rows - 10 : rows + 10, columns - 10 : columns + 10].reshape(-1, 3).mean(0)

    frame = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    into = cv2.getPerspectiveTransform(face.quad, frame)
    (points,) = cv2.perspectiveTransform(face.landmarks[None], into)
    pupil, cheek = (points[[a, b]].mean(0) for a, b in ((159, 145), (205, 50)))
    aged = editor.edit(face.code, {"age": 70})
    picture = editor.synthesize(aged, face=face)
    blind = editor.synthesize(editor.edit(aged, {"eyes_closed": 1.0}), face=face)
    unknown = editor.synthesize(np.array(aged), face=face)
    kept, lost, closed = (
        np.abs(eyes(x, pupil) - eyes(face.portrait, pupil)).max() for x in (picture, unknown, blind)
    )
    assert kept < 8 < 30 < lost and closed > 30

    def chroma(image: np.ndarray) -> np.ndarray:
        colour = eyes(image, cheek)
        return colour - colour @ (0.299, 0.587, 0.114)

    child = editor.edit(face.code, {"age": 5})
    brown = editor.synthesize(child, face=face)
    monkeypatch.setattr(pipeline, "complexion", lambda edited, *_: edited)
    pale = editor.synthesize(child, face=face)
    near, far = (np.abs(chroma(x) - chroma(face.portrait)).max() for x in (brown, pale))
    assert near < 0.6 * far
    assert editor.measure(picture)["age"] > editor.measure(face.portrait)["age"] + 12


@pytest.mark.parametrize(
    ("name", "step", "near"), [("age", 25, 8), ("age", -15, 6), ("yaw", 16, 3), ("pitch", -10, 4)]
)
def test_numbers_come_out_as_asked_though_more_of_the_photo_is_carried_than_its_code(
    editor, face, name, step, near
):
    before = editor.measure(face.portrait)[name]
    edited = editor.edit(face.code, {name: before + step})
    read, unhelped = (
        editor.measure(editor.synthesize(code, face=face))[name] for code in (edited, np.array(edited))
    )
    assert abs(read - before - step) < near
    if step == 25:
        assert abs(read - before) > abs(unhelped - before) + 2
    # One after the other, by way of somewhere else.
    again = editor.edit(editor.edit(face.code, {name: before + step / 2}), {name: before + step})
    assert abs(editor.measure(editor.synthesize(again, face=face))[name] - read) < near


def test_a_face_whose_place_is_not_known_turns_by_its_code_as_far(editor, face):
    unknown = dataclasses.replace(face, landmarks=None)
    asked = editor.measure(face.portrait)["yaw"] + 12
    code = editor.edit(face.code, {"yaw": asked})
    assert abs(editor.measure(editor.synthesize(code, face=unknown))["yaw"] - asked) < 3
    assert unknown.gains != face.gains  # looked for each in its own way


def test_several_numbers_at_once_come_out_near_what_was_asked(editor, face):
    before = editor.measure(face.portrait)
    wanted = {"yaw": before["yaw"] + 14, "age": before["age"] + 20, "smile": 0.0}
    read = editor.measure(editor.synthesize(editor.edit(face.code, wanted), face=face))
    assert (
        abs(read["yaw"] - wanted["yaw"]) < 5 and abs(read["age"] - wanted["age"]) < 10 and read["smile"] < 0.3
    )


def test_methods_that_look_at_the_picture_are_taken_at_their_word(editor, face):
    linear = editor.with_method("interfacegan")
    edited = linear.edit(face.code, {"yaw": editor.measure(face.portrait)["yaw"] + 12}, face=face)
    places = dataclasses.replace(face, landmarks=None)  # how it was while it was looked at
    assert np.array_equal(
        linear.synthesize(edited, 256, face=places), linear.synthesize(np.array(edited), 256, face=places)
    )


def test_an_edited_code_knows_what_each_of_its_steps_did():
    """All but those of methods that have looked at the picture."""
    code, codes = np.zeros((18, 512), np.float32), []
    for targets, looked in (({"smile": 1.0}, False), ({"yaw": 5.0}, True), ({"age": 60.0}, False)):
        code = EditedCode(code + 1, code, targets, looked)
        codes.append(code)
    steps = [(before[0, 0], targets, after[0, 0]) for before, targets, after in code.steps]
    assert steps == [(0, {"smile": 1.0}, 1), (2, {"age": 60.0}, 3)]
    assert code.targets == {"smile": 1.0, "yaw": 5.0, "age": 60.0} and not code.origin.any()


def part(face: InvertedFace, indices: tuple[int, ...], margin: float = 0) -> np.ndarray:
    return hull(face.landmarks[list(indices)], face.quad, margin, 1024)


def test_what_an_edit_leaves_is_the_photos(editor, face):
    """Teeth and lips with age, eyes behind glasses that are put on, the face under other hair."""
    value = editor.measure(face.portrait)
    mouth, eyes, below = part(face, LIPS), part(face, EYES[:4]), part(face, BELOW_THE_BROWS)
    old = difference(
        editor.synthesize(editor.edit(face.code, {"age": value["age"] + 25}), face=face), face.portrait
    )
    nose = part(face, NOSE)
    assert old[mouth].mean() < 14 and old[nose].mean() < 6 < 10 < old[below & ~mouth & ~nose].mean()
    seen = editor.synthesize(editor.edit(face.code, {"eyeglasses": 1.0}), face=face)
    assert editor.measure(seen)["eyeglasses"] > 0.8
    assert difference(seen, face.portrait)[eyes].mean() < 8
    taken, put = (Places.of({"eyeglasses": value}, face).left for value in (0.0, 1.0))
    middle = tuple(np.rint(np.argwhere(part(face, LEFT_BROW)).mean(0) / 4).astype(int))
    assert taken[middle] < 0.1 and put[middle] > 0.8  # over brows may lie a frame
    dark = difference(
        editor.synthesize(editor.edit(face.code, {"black_hair": 1.0}), face=face), face.portrait
    )
    hair = np.s_[100:200, 400:620]
    assert dark[hair].mean() > 20 and np.median(dark[below]) < 4
    both = editor.synthesize(editor.edit(face.code, {"black_hair": 1.0, "beard": 1.0}), face=face)
    assert editor.measure(both)["beard"] > 0.8  # neither has business between the brows and the cheeks
    between, chin = part(face, (*EYES, 6, 50, 280)), part(face, (152, 148, 377, 200))
    changed = difference(both, face.portrait)
    assert np.median(changed[between]) < 4 < 15 < changed[chin].mean()
    for name in ("beard", "mustache"):  # grow around a mouth whose lips and teeth are her own
        hairy = editor.synthesize(editor.edit(face.code, {name: 1.0}), face=face)
        assert difference(hairy, face.portrait)[mouth].mean() < 8 < difference(hairy, face.portrait).max()


def test_a_turned_face_keeps_the_photos_fine_structure(editor, face):
    code = editor.edit(face.code, {"yaw": editor.measure(face.portrait)["yaw"] + 12})
    turned = editor.synthesize(code, face=face)
    for place in (
        np.s_[400:700, 350:670],
        np.s_[300:400, 400:620],
    ):  # face and forehead, neither blurred nor made up
        assert 0.85 < fine_structure(turned[place]) / fine_structure(face.portrait[place]) < 1.15


def test_what_the_generator_lacks_of_fine_structure_is_the_photos(editor, face):
    structure = fine_structure(face.portrait)
    assert 0.8 < fine_structure(editor.synthesize(face.code, face=face)) / structure < 1.1
    rng = np.random.default_rng(0)
    render = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3), np.uint8), (0, 0), 4)
    pores = rng.integers(-12, 13, render.shape[:2])[..., None]
    photo = np.clip(render + pores, 0, 255).astype(np.uint8)
    edited = render.copy()
    edited[100:160, 100:160] += 60  # a beard, say
    wrinkled = edited[180:240, 180:240].astype(int) + 30 * rng.choice((-1, 1), (60, 60, 1))
    edited[180:240, 180:240] = np.clip(wrinkled, 0, 255)
    seen = detailed(edited, photo, render).astype(int) - edited
    assert np.corrcoef(seen[190:230, 190:230].mean(2).ravel(), pores[190:230, 190:230].ravel())[0, 1] > 0.7
    assert np.abs(seen[120:140, 120:140]).max() <= 1
    assert np.corrcoef(seen[:80].mean(2).ravel(), pores[:80].ravel())[0, 1] > 0.9


def test_skin_that_is_drawn_anew_has_the_grain_of_the_photo(editor, face, monkeypatch):
    noise = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 30, (1024, 1024)), (0, 0), 1.5)
    fine = noise - cv2.GaussianBlur(noise, (0, 0), 3)
    photo = np.clip(face.portrait + noise[..., None], 0, 255).astype(np.uint8)
    anew = part(face, LIPS)

    def power(portrait: np.ndarray) -> float:
        own = dataclasses.replace(face, portrait=portrait)
        grey = editor.synthesize(editor.edit(own.code, {"smile": 0.0}), face=own).astype(np.float32).mean(2)
        return float((grey - cv2.GaussianBlur(grey, (0, 0), 3))[anew].var())

    grainy = power(photo)
    monkeypatch.setattr(type(editor), "_grain", lambda *_: None)
    smooth, clean = power(photo), power(face.portrait)
    assert (smooth - clean) / fine.var() < 0.4 < 0.6 < (grainy - clean) / fine.var() < 1.2
    # As the photo's is at the place with the least of it, in strength, colours and coarseness, and seamless.
    render = np.full((1024, 1024, 3), 128, np.uint8)
    own = render + noise[..., None] * [1, 0.5, 0.5]
    own[:512] += 3 * noise[:512, :, None]
    texture = grain(own.clip(0, 255).astype(np.uint8), render, np.array([(0.3, 0.3), (0.7, 0.7)]))
    assert np.allclose(texture.std((0, 1)), fine.std() * np.array([1, 0.5, 0.5]), rtol=0.2)
    coarse = np.abs(np.diff(fine, axis=0)).mean() / fine.std()
    for red in (texture[..., 0], texture[..., 0].T):
        step, seam = np.abs(np.diff(red, axis=0)).mean(), np.abs(red[0] - red[-1]).mean()
        assert step / red.std() == pytest.approx(coarse, rel=0.1) and seam == pytest.approx(step, rel=0.2)


def test_wrinkles_give_way_where_somebody_becomes_younger(editor, face, monkeypatch):
    monkeypatch.setitem(face.gains, ("age", False), 1.7)
    young = editor.edit(face.code, {"age": 12})
    given, less = (editor.measure(editor.synthesize(young, face=face))["age"] for _ in range(2))
    row = dataclasses.replace(ATTRIBUTES["age"], gives_way=(0.0, 0.0))
    monkeypatch.setitem(ATTRIBUTES, "age", row)
    kept = editor.measure(editor.synthesize(young, face=face))["age"]
    assert given == less < kept - 1


def test_tuned_and_foreign_faces_have_no_residual(editor, face):
    plain = dataclasses.replace(face, residual=None)
    assert np.array_equal(editor.synthesize(face.code, face=plain), editor.synthesize(face.code))


def test_what_has_not_changed_is_pasted_bit_for_bit(editor, face, astronaut):
    assert np.array_equal(editor.paste(face.portrait, face, astronaut), astronaut)
    dotted = face.portrait.copy()
    dotted[500:524, 500:524] = 255 - dotted[500:524, 500:524]
    pasted = editor.paste(dotted, face, astronaut)
    where = np.argwhere((pasted != astronaut).any(2)).mean(0)
    assert np.allclose(where[::-1], face.quad.mean(0), atol=0.03 * np.ptp(face.quad))
    assert 0 < (pasted != astronaut).any(2).mean() < 0.05


def test_changes_are_soft_and_small_ones_do_not_count():
    before = np.full((1024, 1024, 3), 100, np.uint8)
    edited = before + np.uint8(2)
    edited[400:600, 400:600] += 50
    mask = changes(edited, before, 3, 12)
    assert mask[125, 125] == pytest.approx(1) and mask[20, 20] == 0 and 0 < mask[97].max() < 1
    mixed = composite(edited, before, mask)
    assert mixed[500, 500, 0] == 152 and mixed[50, 50, 0] == 100
    quad = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    assert np.array_equal(paste(edited, quad, before, np.zeros((256, 256), np.float32)), before)


def test_a_flow_says_where_each_place_comes_from():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 32, 40] = 1  # to the right of the middle
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0] = 2 * 8 / 64  # every place takes what is 8 px to its right
    assert warp(x, flow)[0, 0, 32, 32] == pytest.approx(1, abs=1e-4)
    assert torch.equal(warp(x, 0 * flow), x)


def test_the_neighbours_face_is_left_alone(editor, astronaut):
    """Cheek to cheek, the other's face lies in the portrait."""
    people = np.concatenate((astronaut[:360, 130:278], astronaut[:360, 172:310]), 1)
    first, second = sorted(editor.detect(people), key=lambda face: face.box[0])
    index = [face.box[0] for face in editor.detect(people)].index(first.box[0])
    face = editor.invert(people, index=index)
    assert face.index == index
    assert np.allclose(face.others, second.landmarks) and len(face.others) == 1
    pasted = editor.paste(255 - face.portrait, face, people)
    changed = np.abs(pasted.astype(int) - people).max(2) > 8
    own, other = (np.rint(x.landmarks).astype(int) for x in (first, second))
    inside = [(x, y) for x, y in other if face.quad[:, 0].max() > x + 2]
    assert len(inside) > 50 and not any(changed[y, x] for x, y in inside)
    assert np.mean([changed[y, x] for x, y in own]) > 0.9
    alone = dataclasses.replace(face, others=face.others[:0])
    without = np.abs(editor.paste(255 - face.portrait, alone, people).astype(int) - people).max(2) > 8
    assert any(without[y, x] for x, y in inside)


def test_what_moves_takes_its_pixels_along_and_what_stays_keeps_them():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (1024, 1024, 3), np.uint8), (0, 0), 2)
    flow = np.zeros((2, 32, 32), np.float32)
    flow += np.float32(0.007)  # 5 px of 1024
    assert Flow(flow).move(picture) is picture
    flow[0, :, 16:], flow[1] = 2 * 20 / 1024, 0  # the right half comes from 20 px further right
    moved = Flow(flow).move(picture)
    assert np.array_equal(moved[:, :480], picture[:, :480])
    assert np.abs(moved[:, 600:900].astype(int) - picture[:, 620:920]).max() <= 1
    flow[0], flow[1] = 0, -2 * 16 / 1024  # from above
    assert np.abs(Flow(flow).move(picture)[600:900].astype(int) - picture[584:884]).max() <= 1
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()  # the same as of features
    torched = warp(tensor, torch.from_numpy(flow)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(torched - Flow(flow).move(picture))[20:-20].max() < 2


def test_features_are_carried_by_a_flow_however_small_it_is():
    """As the networks were trained to have them carried, to a 32nd of a place."""
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((256, 64, 64)).astype(np.float32)
    features = np.stack([cv2.GaussianBlur(x, (0, 0), 2) for x in rough])
    features /= features.std()
    flow = np.stack([cv2.GaussianBlur(x, (0, 0), 4) for x in rng.standard_normal((2, 32, 32))]) * 0.5
    for size in (1.0, 0.005):  # the latter below what counts as a move of a picture
        part = (size * flow).astype(np.float32)
        carried = Flow(part).carry(by_place(Carried(features, features))[0])
        wanted = warp(torch.from_numpy(features)[None], torch.from_numpy(part)[None])[0].numpy()
        assert np.abs(carried - wanted).max() < 0.06 and np.abs(carried - wanted).mean() < 0.01
        assert np.abs(features - wanted).mean() > (0.1 if size == 1 else 0.001)


def test_what_stays_is_the_photos_and_what_does_not_last_the_codes(editor):
    rng = np.random.default_rng(0)
    after, residual, restored = rng.standard_normal((3, 1, 512, 64, 64)).astype(np.float32)
    stay, lasts = np.zeros((2, 1, 1, 64, 64), np.float32)
    stay[..., :20], lasts[..., :40] = 1, 1
    still = np.zeros((1, 2, 32, 32), np.float32)
    known = {
        "after": after,
        "restored": restored.astype(np.float16),
        "flow": still,
        "stay": stay,
        "lasts": lasts,
    }
    features, touched = editor.backend.run("carrier", residual, None, sampled=after[:, ::4].copy(), **known)
    wanted = np.where(stay > 0, restored, np.where(lasts > 0, after + residual, after))
    assert np.abs(features - wanted).max() < 0.01 and not touched.any()
    _, touched = editor.backend.run("carrier", residual, None, sampled=after[:, ::4] + 9, **known)
    assert touched.min() == 1  # where features have changed


@pytest.mark.parametrize("tint", [(1, 1, 1), (1.05, 0.98, 0.8)])
def test_a_photo_of_one_tone_stays_in_it(editor, astronaut, tint):
    """Neutral in, neutral out; sepia likewise; JPEG's noise is no colour."""
    grey = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None]
    photo = np.rint(grey * np.float32(tint)).clip(0, 255).astype(np.uint8)
    photo = cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)
    face = editor.invert(photo)
    for edit in ({}, {"smile": 0.0}, {"age": 70}):
        picture = editor.synthesize(editor.edit(face.code, edit, face=face), face=face)
        light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
        expected = (light * np.float32(tint) / np.dot(tint, (0.299, 0.587, 0.114))).clip(0, 255)
        assert np.abs(picture - expected).mean() < 2.5 and np.abs(picture - expected).max() < 16
        if tint == (1, 1, 1):
            assert np.ptp(picture, axis=2).max() <= 3


def test_a_photo_with_colours_keeps_them(editor, face):
    assert face.tone is None
    assert tone_of(np.full((256, 256, 3), (200, 120, 60), np.uint8)) is not None  # one colour is one tone


def test_a_second_thread_never_sees_half_of_what_a_photo_keeps(editor, face, monkeypatch):
    """Sliders move while an edit's first preview is still at it."""
    fresh = InvertedFace(face.code, face.portrait, face.quad, face.box, residual=face.residual)
    run = editor.backend.run

    def meanwhile(name, *arguments, **others):
        if name == "carrier_start":
            monkeypatch.setattr(editor.backend, "run", run)
            first = editor._start(fresh)  # the other thread, which finds nothing or all of it
            assert {key: first[key].shape[1:] for key in ("read", "unmoved")} == {
                "read": (32, 64, 64),
                "unmoved": (2, 32, 32),
            }
        return run(name, *arguments, **others)

    monkeypatch.setattr(editor.backend, "run", meanwhile)
    assert editor._start(fresh)["restored"].shape == (1, 512, 64, 64)


def test_without_an_edit_the_carrier_keeps_the_residual():
    carrier, codes = Carrier.load("carrier"), torch.randn(1, 1, 512).expand(1, 18, 512) * 0.3
    features = generator().features(generator().mean_w + codes * generator().std_w, 64)
    residual = torch.randn_like(features)
    assert torch.allclose(carrier(residual, features, features), residual, atol=1e-5)
    assert not torch.allclose(carrier(residual, features, features + 1), residual, atol=1e-2)


def test_photos_are_found_wherever_their_folder_lies(tmp_path, monkeypatch):
    class Opened(Exception):
        """There are photos to measure."""

    def opened(*_) -> None:
        raise Opened

    monkeypatch.setattr(FaceEditor, "from_pretrained", opened)
    folder = tmp_path / ".cache" / "photos"
    folder.mkdir(parents=True)
    (folder / "._a.png").touch()  # macOS's own
    with pytest.raises(InputError, match="no photos"):
        evaluate_photos(PhotosConfig(folder))
    (folder / "a.png").touch()
    for path in (folder, folder / ".." / "photos"):
        with pytest.raises(Opened):
            evaluate_photos(PhotosConfig(path))


def masked(photo: np.ndarray, face, colour: tuple[int, int, int]) -> np.ndarray:
    """A photo whose face wears a medical mask."""
    shape = np.int32([(330, 600), (512, 545), (694, 600), (690, 740), (600, 830), (424, 830), (334, 740)])
    mask = np.zeros((1024, 1024), np.float32)
    cv2.fillPoly(mask, [shape], 1.0)
    frame = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    place = cv2.getPerspectiveTransform(frame, np.float32(face.quad))
    mask = cv2.warpPerspective(cv2.GaussianBlur(mask, (0, 0), 2), place, photo.shape[1::-1])[..., None]
    shade = np.linspace(1.05, 0.8, len(photo))[:, None, None]
    return np.rint(photo + mask * (np.float32(colour) * shade - photo)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", [(150, 190, 215), (235, 235, 235)])
def test_an_edit_draws_no_mouth_onto_a_mask(editor, face, astronaut, colour):
    covered = editor.invert(masked(astronaut, face, colour))
    assert "cover the mouth" in covered.remarks[0]
    for edit in ({"smile": 1.0}, {"age": 70}):
        code = editor.edit(covered.code, edit)
        changed = difference(editor.synthesize(code, face=covered), covered.portrait)
        assert changed[660:800, 420:600].max() < 3
    assert changed[300:660, 280:740].mean() > 5  # the rest of the face has aged


def test_what_is_protected_stays_the_photos_in_every_edit(editor, face):
    mask = np.zeros((512, 512), bool)
    mask[240:400, 180:330] = True  # nose and mouth
    whole = np.kron(mask, np.ones((2, 2), np.uint8))
    inside = cv2.erode(whole, np.ones((9, 9))).astype(bool)
    outside = ~cv2.dilate(whole, np.ones((101, 101))).astype(bool)
    protected, own = face.protect(mask), face.portrait
    tuned = dataclasses.replace(face, residual=None)
    for target in ({"smile": 0}, {"age": 75}, {"mouth_open": 1, "eyeglasses": 1}):
        for before, noise in ((face, None), (tuned, None), (face, {editor.noise_layers[0]: 0.0})):
            after = before.protect(mask)
            code = editor.edit(face.code, target, face=after)
            free, kept = (editor.synthesize(code, face=f, noise=noise) for f in (before, after))
            assert np.array_equal(kept[inside], own[inside]) and not np.array_equal(free[inside], own[inside])
            assert (kept[outside] != free[outside]).any(1).mean() < 0.01
        preview = editor.synthesize(code, 256, protected)
        small = cv2.resize(own, (256, 256), interpolation=cv2.INTER_AREA)
        within = inside[::4, ::4]
        assert np.array_equal(preview[within], small[within])
    turned = editor.edit(face.code, {"yaw": 30}, face=face)
    free, kept = (editor.synthesize(turned, 256, f) for f in (face, protected))
    assert np.array_equal(kept[within], small[within]) and not np.array_equal(free[within], small[within])
    for lifted in (protected.protect(None), protected.protect(np.zeros((64, 64)))):
        assert lifted.protected is None and np.array_equal(editor.synthesize(turned, 256, lifted), free)
    for wrong in (mask[:100], mask[:40, :40], 255 * mask, np.full((64, 64), np.nan), "hat", mask.astype(str)):
        with pytest.raises(InputError, match="a square mask"):
            face.protect(wrong)


def test_a_mouth_that_can_be_seen_is_not_taken_for_covered(editor, face, astronaut):
    lit = astronaut * np.linspace(0.25, 1.5, astronaut.shape[1])[None, :, None]
    lit = lit.clip(0, 255).astype(np.uint8)
    sideways = editor.invert(lit)
    assert face.cover is None and sideways.cover is None and face.remarks == ()
    # Light from the side takes no smile away.
    before, after = (
        editor.measure(x)["smile"]
        for x in (sideways.portrait, editor.synthesize(sideways.code, face=sideways))
    )
    assert before > 0.9 and after > 0.9


@pytest.mark.parametrize("side", ["left", "right", "below"])
def test_a_face_cut_by_the_photos_edge_is_edited_without_a_halo(editor, face, astronaut, side):
    middle, bottom = int(face.quad[:, 0].mean()), int(face.quad[:, 1].max())
    photo, edge = {
        "left": (astronaut[:, middle - 20 :], np.s_[:, :10]),
        "right": (astronaut[:, : middle + 28], np.s_[:, -10:]),
        "below": (astronaut[: bottom - 30], np.s_[-10:]),
    }[side]
    cut = editor.invert(np.ascontiguousarray(photo))
    portrait = editor.synthesize(editor.edit(cut.code, {"eyes_closed": 1.0}), face=cut)
    changed = np.abs(editor.paste(portrait, cut, photo).astype(int) - photo).max(2)
    eyes = int(cut.quad[:, 1].mean())  # the middle of the portrait
    assert editor.measure(portrait)["eyes_closed"] > 0.8 and changed[eyes - 25 : eyes + 15].max() > 40
    changed[eyes - 25 : eyes + 15] = 0
    assert changed[edge].mean() < 3


@pytest.mark.parametrize("edit", [{"age": 70}, {"gender": 1.0}, {"age": 70, "smile": 0.0}])
def test_clothes_and_background_stay_the_photos(editor, face, edit):
    picture = editor.synthesize(editor.edit(face.code, edit), face=face)
    same = np.abs(picture.astype(int) - face.portrait).max(2) <= 1
    suit = np.concatenate((same[-100:, :200], same[-100:, -200:]), 1)
    assert suit.mean() > 0.99 and same[:200, :60].mean() > 0.99 and same[:200, -60:].mean() > 0.99
    assert same[300:700, 300:700].mean() < 0.6  # and the face is edited


@pytest.mark.parametrize("edit", [{"age": 10}, {"gender": 1.0}, {"eyeglasses": 1.0, "beard": 1.0}])
def test_outlines_stay_unless_the_head_moves(editor, face, edit, monkeypatch):
    """Beside her hair and cheeks the wall is the photo's, however her head would shrink or grow."""
    wall = cv2.erode((face.portrait[:700].min(2) > 150).astype(np.uint8), np.ones((9, 9))) > 0
    wall[:, 250:750] = False  # skin is as bright
    aged = editor.edit(face.code, edit)

    def changed() -> float:
        picture = editor.synthesize(aged, face=dataclasses.replace(face))
        return float((difference(picture, face.portrait)[:700][wall] > 4).mean())

    kept, of = changed(), Places.of
    monkeypatch.setattr(Places, "of", classmethod(lambda cls, *given: of(*given)._replace(still=False)))
    assert kept < 0.01 and kept < changed() / 4


@pytest.mark.parametrize(
    ("name", "target", "point"), [("eyeglasses", 1.0, 346), ("mouth_open", 0.9, 200), ("beard", 1.0, 200)]
)
def test_what_is_edited_keeps_its_complexion_unless_that_is_what_changes(
    editor, face, name, target, point, monkeypatch
):
    """Stubble has a colour; glasses change none below them, and mouths none on the chin."""
    frame = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    into = cv2.getPerspectiveTransform(face.quad, frame)
    ((column, row),) = cv2.perspectiveTransform(face.landmarks[None, [point]], into)[0].round().astype(int)
    edited = editor.edit(face.code, {name: target})

    def off() -> float:
        picture = editor.synthesize(edited, face=face).astype(np.float32) - face.portrait
        colour = picture[row - 20 : row + 20, column - 20 : column + 20].mean((0, 1))
        return float(np.abs(colour - colour @ (0.299, 0.587, 0.114)).max())

    kept = off()
    monkeypatch.setattr(pipeline, "complexion", lambda edited, *_: edited)
    lost = off()
    assert kept == lost if ATTRIBUTES[name].colours else kept < 0.7 * lost


def test_what_shows_another_thing_says_nothing_of_complexion():
    """Beside a turned cheek, where the photo had one and now is a wall, no orange fringe appears."""
    own, edited = (np.full((256, 256, 3), (200, 140, 110), np.uint8) for _ in range(2))
    edited[:, :128] = (190, 140, 120)  # paler than she is
    edited[:, 128:] = (60, 90, 150)  # the wall
    skin = np.ones((256, 256), np.float32)
    result = complexion(edited, own, skin).astype(int)
    assert np.abs(result[:, 140:] - edited[:, 140:]).max() <= 1
    tint = (own.astype(int) - edited)[0, 0]
    wanted = tint - tint @ (0.299, 0.587, 0.114)
    assert (result - edited)[:, 20:120].mean((0, 1)) == pytest.approx(wanted, abs=1.5)


def test_colours_are_the_photos_where_the_generator_errs_in_them(editor, face, monkeypatch):
    """A photo whose colours no render has: what is drawn anew has them, too."""
    tinted = dataclasses.replace(face, portrait=cv2.add(face.portrait, (0, 18, 0, 0)))
    other = editor.edit(tinted.code, {"gender": 1.0})

    def greener() -> float:
        pictures = (editor.synthesize(other, face=dataclasses.replace(x)) for x in (tinted, face))
        green, usual = (picture[300:500, 130:230].astype(np.float32).mean((0, 1)) for picture in pictures)
        return float((green - usual)[1])

    assert 15 < greener() < 21  # her hair, which is drawn anew
    late = EditedCode(other + 0.5 * (np.arange(18) >= 9)[:, None], tinted.code, {"gender": 1.0})
    pictures = (editor.synthesize(code, 256, dataclasses.replace(tinted)) for code in (other, late))
    assert np.array_equal(*pictures)  # whatever the edit does to the rows that decode features
    monkeypatch.setattr(pipeline, "corrected", lambda edited, *_: edited)
    assert greener() < 8


def test_what_a_photo_shows_already_is_not_drawn_anew(editor, face):
    """She smiles: who asks for it keeps her photo, alone, with another edit, and after it was asked away."""
    assert editor.measure(face.portrait)["smile"] > 0.97
    unedited = face.portrait.astype(int)
    smiling, none = editor.edit(face.code, {"smile": 1.0}), editor.edit(face.code, {"smile": 0.0})
    assert np.array_equal(editor.synthesize(smiling, face=face), unedited)
    assert np.array_equal(editor.synthesize(editor.edit(none, {"smile": 1.0}), face=face), unedited)
    assert not np.array_equal(editor.synthesize(face.code, face=face), unedited)  # which is no edit
    both = editor.edit(face.code, {"smile": 1.0, "eyeglasses": 1.0})
    glasses = editor.edit(face.code, {"eyeglasses": 1.0})
    both, glasses = (editor.synthesize(code, face=face).astype(int) for code in (both, glasses))
    assert np.abs(both - glasses).max() <= 2 and np.abs(glasses - unedited).max() > 100
    half = editor.synthesize(editor.edit(face.code, {"smile": 0.5}), face=face).astype(int)
    assert np.abs(half - unedited).max() > 50


@pytest.fixture(scope="module")
def wearer(editor) -> InvertedFace:
    """A photo, as it were, of somebody with glasses."""
    code = editor.edit(editor.sample(11, 0.7), {"eyeglasses": 1.0})
    return editor.invert(editor.synthesize(code))


def test_glasses_that_somebody_wears_stay_whatever_else_is_edited(editor, wearer, monkeypatch):
    values = editor.measure(wearer.portrait)
    assert values["eyeglasses"] > 0.9
    worn, rims = (cv2.resize(x, (1024, 1024)) > 0.99 for x in editor._worn(wearer))
    assert rims[worn].mean() > 3 * rims.mean()
    lids = part(wearer, EYES[:4], 0.03) | part(wearer, EYES[4:], 0.03)
    assert 0.01 < worn.mean() < 0.15

    def changed(**edit: float) -> np.ndarray:
        picture = editor.synthesize(editor.edit(wearer.code, edit), face=dataclasses.replace(wearer))
        return difference(picture, wearer.portrait) > 12

    edits = {"age": min(values["age"] + 25, 80.0)}, {"eyes_closed": 1.0}
    older, blind = (changed(**edit) for edit in edits)
    assert older[rims].mean() < 0.02 < older[~worn].mean() and blind[worn & lids].mean() > 0.3
    with monkeypatch.context() as patch:
        patch.setattr(type(editor), "_worn", lambda *_: None)
        lost = [changed(**edit) for edit in edits]
    assert older[rims].mean() < 0.1 * lost[0][rims].mean()
    assert blind[rims & ~lids].mean() < 0.4 * lost[1][rims & ~lids].mean()
    # Taken off they are gone, rims beyond the usual place, too.
    bare = changed(eyeglasses=0.0)
    assert bare[worn].mean() > 0.6
    off = editor.synthesize(editor.edit(wearer.code, {"eyeglasses": 0.0}), face=wearer)
    assert editor.measure(off)["eyeglasses"] < 0.1


@pytest.mark.parametrize("dark", [False, True])
def test_broad_glasses_are_taken_off_whole_and_clear_ones_leave_the_eyes(editor, face, dark):
    """Drawn ones, far larger than those that edits put on."""
    frame = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    (points,) = cv2.perspectiveTransform(face.landmarks[None], cv2.getPerspectiveTransform(face.quad, frame))
    left, right = (points[[a, b]].mean(0) + (0, 18) for a, b in ((33, 133), (263, 362)))
    photo, pen = face.portrait.copy(), ((25, 22, 20), -1 if dark else 9, cv2.LINE_AA)
    for eye in (left, right):
        cv2.circle(photo, tuple(np.rint(eye).astype(int).tolist()), 98, *pen)
    bridge = (tuple(np.rint(x).astype(int).tolist()) for x in (left + (96, -10), right - (96, 10)))
    cv2.line(photo, *bridge, pen[0], 9, cv2.LINE_AA)
    drawn = difference(photo, face.portrait) > 50
    wearer = editor.invert(photo)
    assert editor.measure(wearer.portrait)["eyeglasses"] > 0.9
    off = editor.synthesize(editor.edit(wearer.code, {"eyeglasses": 0.0}), face=wearer)
    assert editor.measure(off)["eyeglasses"] < 0.1

    def light(picture: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)

    def dent(picture: np.ndarray) -> float:
        """By how much what was drawn below the eyes is darker than what is around it."""
        low = drawn & (np.arange(1024) > left[1] + 60)[:, None]
        return float((cv2.GaussianBlur(light(picture), (0, 0), 20) - light(picture))[low].mean())

    eye = part(face, EYES[:4])
    if dark:
        assert light(off)[drawn].mean() > 0.8 * light(face.portrait)[drawn].mean()
        assert difference(off, wearer.portrait)[eye].mean() > 60
    else:
        assert dent(wearer.portrait) > 20 and dent(off) < 6
        assert difference(off, wearer.portrait)[eye].mean() < 8


def test_glasses_are_looked_for_by_an_edit_that_does_not_search(editor, face, wearer):
    """The latter once and for all; who wears none has none to keep."""
    fresh = dataclasses.replace(wearer)
    assert editor.with_method("interfacegan")._worn(fresh) is None
    editor.synthesize(fresh.code, 256, fresh)
    assert "worn" not in fresh.kept
    editor.synthesize(editor.edit(fresh.code, {"age": 70}), 256, fresh)
    assert fresh.kept["worn"].shape == (2, 256, 256) and editor._worn(face) is None


def test_hair_keeps_its_strands_with_age_and_under_glasses(editor, face):
    top = np.s_[60:180, 420:600]  # of her head

    def strands(picture: np.ndarray) -> np.ndarray:
        light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return (light - cv2.GaussianBlur(light, (0, 0), 4))[top].ravel()

    before = editor.measure(face.portrait)["age"]
    for edit in ({"age": before + 25}, {"age": before - 15}, {"age": before + 25, "eyeglasses": 1.0}):
        picture = editor.synthesize(editor.edit(face.code, edit), face=face)
        assert np.corrcoef(strands(picture), strands(face.portrait))[0, 1] > 0.97
    glasses = editor.synthesize(editor.edit(face.code, {"eyeglasses": 1.0}), face=face)
    hair = cv2.resize(editor._hair(face), (1024, 1024)) > 0.99
    fringe = hair & (np.arange(1024) < 300)[:, None]
    assert fringe.mean() > 0.1 and (difference(glasses, face.portrait)[fringe] > 3).mean() < 0.01
    # Another gender may have other hair.
    other = editor.synthesize(editor.edit(face.code, {"gender": 1.0}), face=face)
    assert np.corrcoef(strands(other), strands(face.portrait))[0, 1] < 0.9


def turn(editor: FaceEditor, face: InvertedFace, others: dict[str, float] | None = None, **by: float):
    """A face's picture with its head turned by so many degrees, and by how many it reads as turned."""
    before = editor.measure(face.portrait)
    targets = {name: before[name] + degrees for name, degrees in by.items()}
    picture = editor.synthesize(editor.edit(face.code, targets | (others or {})), face=face)
    after = editor.measure(picture)
    return picture, {name: after[name] - before[name] for name in by}


@pytest.mark.parametrize(
    "by", [{"yaw": 14}, {"yaw": -28}, {"pitch": 10}, {"pitch": -12}, {"yaw": 12, "pitch": 8}]
)
def test_a_head_turns_as_told_and_nothing_else_moves(editor, face, by):
    picture, read = turn(editor, face, **by)
    assert read == pytest.approx(by, abs=2.5)
    same = (picture == face.portrait).all(2)
    edge = 3  # px: where a photo goes on beyond the portrait there is no seam
    assert same[:edge].all() and same[-edge:].all() and same[:, :edge].all() and same[:, -edge:].all()
    assert same[-60:, :60].all() and same[-60:, -60:].all() and same[400:700, 400:600].mean() < 0.5
    assert editor.distance(picture, face.portrait) < 0.2 + 0.013 * sum(map(abs, by.values()))  # it is her


def test_what_else_is_edited_is_turned_along(editor, face, monkeypatch):
    glasses = editor.synthesize(editor.edit(face.code, {"eyeglasses": 1.0}), face=face)
    start = editor.measure(face.portrait)
    both = {"eyeglasses": 1.0, "yaw": start["yaw"]}
    assert difference(editor.synthesize(editor.edit(face.code, both), face=face), glasses).max() <= 2
    for others, shown in (({"eyeglasses": 1.0}, "eyeglasses"), ({"smile": 0.0}, "smile")):
        picture, read = turn(editor, face, others, yaw=16)
        assert read["yaw"] == pytest.approx(16, abs=3)
        assert abs(editor.measure(picture)[shown] - others[shown]) < 0.45
        again = editor.edit(editor.edit(face.code, others), {"yaw": start["yaw"] + 16})  # one after the other
        assert np.median(difference(editor.synthesize(again, face=face), picture)) <= 1
    own = editor.edit(face.code, {"yaw": 8})  # what another method turns farther is not turned twice
    twice = EditedCode(np.asarray(own) + 0.0, own, {"yaw": 30.0}, looked=True)
    assert editor.measure(editor.synthesize(twice, face=face))["yaw"] < 20
    monkeypatch.setattr(editor, "_picture", None)  # turned on, nothing else is made anew
    farther = editor.edit(face.code, {"smile": 0.0, "yaw": start["yaw"] - 10})
    assert editor.measure(editor.synthesize(farther, face=face))["smile"] < 0.45
    held = face.protect(np.pad(np.ones((96, 96)), ((160, 0), (80, 80))))
    turned, _ = turn(editor, held, yaw=16)
    assert np.array_equal(turned[680:, 360:660], face.portrait[680:, 360:660])


def test_what_an_edit_replaces_is_drawn_whole(editor, face, monkeypatch):
    """No old lip above the new mouth, firm frames, lids, and her own brows behind and above them."""

    def shown(name: str, target: float, of: InvertedFace = face, **changed) -> np.ndarray:
        monkeypatch.setitem(ATTRIBUTES, name, dataclasses.replace(ATTRIBUTES[name], **changed))
        own = dataclasses.replace(of)
        return editor.synthesize(editor.edit(own.code, {name: target}), face=own)

    serious, ghostly = (
        shown("smile", 0.0, gives_way=(x, x)) for x in (ATTRIBUTES["smile"].gives_way[0], 0.0)
    )
    assert editor.measure(serious)["smile"] < 0.1 < editor.measure(ghostly)["smile"]
    for name in ("eyeglasses", "eyes_closed"):
        leaves = ATTRIBUTES[name].leaves
        picture, others = (shown(name, 1.0, leaves=x) for x in (leaves, leaves - {"brows"}))
        assert editor.measure(picture)[name] > 0.9
        brows = part(face, LEFT_BROW) | part(face, RIGHT_BROW)
        own, drawn = (np.median(difference(x, face.portrait)[brows]) for x in (picture, others))
        assert own < 4 and drawn > 8
    frowning = face.landmarks.copy()
    frowning[[*LEFT_BROW, *RIGHT_BROW]] += 0.06 * (face.quad[1] - face.quad[0])  # low over her eyes
    closed = shown("eyes_closed", 1.0, dataclasses.replace(face, landmarks=frowning), leaves=leaves)
    assert editor.measure(closed)["eyes_closed"] > 0.9


@pytest.fixture
def turned(editor, face, monkeypatch):
    """A face turned by a method that looks at pictures, and what the editor knows of how it has moved."""
    picture_of, found = editor._picture, []
    monkeypatch.setattr(editor, "_picture", lambda *a: found.append(picture_of(*a)) or found[-1])

    def turn(degrees: float) -> tuple[np.ndarray, Moved]:
        code = EditedCode(editor.edit(face.code, {"yaw": degrees}), face.code, {"yaw": degrees}, looked=True)
        return editor.synthesize(code, face=face), found[-1][1]

    return turn


def test_what_is_beside_a_head_that_its_code_turns_is_the_photos_and_gives_way_to_it(editor, face, turned):
    """No hole where it was, no hair that grew, no fog, no second outline; clothes and far ground stay."""
    picture, moved = turned(30)
    beside = cv2.resize(moved.changed, (1024, 1024)) == 0
    assert np.array_equal(picture[beside], moved.flow.move(face.portrait)[beside])
    assert (moved.changed[230:] == 0).all() and moved.changed.mean() > 0.02
    person = moved.flow.move(editor._person(face))
    outline = cv2.morphologyEx(person, cv2.MORPH_GRADIENT, np.ones((5, 5)))[:200] > 0.5
    assert moved.changed[:200][outline].mean() < 0.02
    columns = np.arange(32) + 16 * moved.flow.flow[0]
    assert np.diff(columns).min() > 0 and np.abs(np.diff(columns) - 1).max() > 0.1  # nothing folds
    still = np.abs(picture.astype(int) - face.portrait).max(2) <= 1
    assert still[-100:, :200].all() and still[-100:, -200:].all() and still[:200, -60:].all()
    wall = np.s_[650:720, 120:180]  # beside her shoulder, to which her hair has not come
    other, _ = turned(-25)
    assert difference(other, face.portrait)[wall].mean() < 22  # 33 if it were the code's
