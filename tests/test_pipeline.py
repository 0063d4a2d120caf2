"""FaceEditor from photo to photo, and its engines against the PyTorch reference."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from one_device import OneDevice

from dystyle import FaceEditor, InputError
from dystyle.attributes import ATTRIBUTES
from dystyle.encoders import refine
from dystyle.engines import choice, compiled, hardware
from dystyle.engines.graphs import GRAPHS, TorchBackend, generator
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend


@pytest.fixture(scope="module")
def face(editor, astronaut):
    return editor.invert(astronaut)


def test_shapes_and_types_of_the_contract(editor, astronaut, face):
    assert face.code.shape == (18, 512) and face.code.dtype == np.float32
    assert face.portrait.shape == (1024, 1024, 3) and face.portrait.dtype == np.uint8
    assert face.quad.shape == (4, 2) and face.box.shape == (4,)
    code = editor.edit(face.code, {"age": 60, "smile": 1.0})
    assert code.shape == (18, 512) and code.dtype == np.float32
    image = editor.synthesize(code, size=1024, face=face)
    assert image.shape == (1024, 1024, 3) and image.dtype == np.uint8
    whole = editor.paste(image, face, astronaut)
    assert whole.shape == astronaut.shape and not np.array_equal(whole, astronaut)
    assert list(editor.measure(image)) == list(ATTRIBUTES)


def test_empty_configuration_is_the_identity(editor, face):
    assert np.array_equal(editor.edit(face.code, {}), face.code)


def test_the_same_seed_is_the_same_person(editor):
    assert np.array_equal(editor.sample(7), editor.sample(7))
    first, second = (editor.embed(editor.synthesize(editor.sample(seed))) for seed in (7, 8))
    assert first @ second < 0.7


@pytest.mark.parametrize("size", [1024, 256, 128])
def test_onnx_pictures_equal_torch_pictures(editor, reference, size):
    for seed in range(2):
        code = editor.sample(seed, truncation=1)
        difference = editor.synthesize(code, size).astype(int) - reference.synthesize(code, size)
        # Rounding to 8 bits may differ by one level, and only rarely.
        assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 1e-3


@pytest.mark.parametrize("name", GRAPHS)
def test_engines_take_any_batch(name, editor):
    """Batches of 1 and 3 against PyTorch: as many outputs as inputs, each the one of its own input."""
    _, shape, dtype, more, halves = GRAPHS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (3, *shape)).astype(np.float32)
    if name.startswith("generator"):
        x = np.stack([editor.sample(seed) for seed in range(3)])
    elif dtype == torch.uint8:
        x = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
    others = {key: rng.normal(0, 0.1, (3, *size)).astype(np.float32) for key, size in more.items()}
    if dtype == torch.float16:
        x = x.astype(np.float16)
    others |= {key: others[key].astype(np.float16) for key in halves}
    for key in {"codes", "edited"} & others.keys():
        others[key] = np.stack([editor.sample(seed + len(key)) for seed in range(3)])
    backend = OnnxBackend()
    for count in (1, 3):
        feeds = {key: value[:count] for key, value in others.items()}
        outputs, expected = (b.run(name, x[:count], **feeds) for b in (backend, TorchBackend()))
        for output, wanted in zip(outputs, expected, strict=True):
            assert output.shape == wanted.shape
            tolerance = 1 if output.dtype == np.uint8 else 2e-3 * max(1, np.abs(wanted).max())
            assert np.abs(output.astype(float) - wanted).max() <= tolerance


def test_openvino_gives_the_same_people(editor, face):
    """Pictures may differ by bfloat16's rounding, readings and codes may not."""
    other = FaceEditor.from_pretrained(backend="openvino")
    targets = {"age": 70, "smile": 0}
    code = editor.edit(face.code, targets)
    np.testing.assert_allclose(other.edit(face.code, targets), code, atol=1e-4)
    for size in (256, 1024):
        picture = editor.synthesize(code, size)
        error = np.square(other.synthesize(code, size).astype(float) - picture).mean()
        assert 10 * np.log10(255**2 / error) > 45  # decibels
    values, expected = other.measure(picture), editor.measure(picture)
    for name, value in values.items():
        assert value == pytest.approx(expected[name], abs=1e-3 * row_span(name))
    assert other.embed(picture) @ editor.embed(picture) > 0.9999
    with pytest.raises(InputError, match="CPU"):
        FaceEditor.from_pretrained(backend="openvino", device="cuda")


def test_only_the_last_configurations_stay_open(editor, monkeypatch):
    class Counting(OnnxBackend):
        compiled = ()

        def compile(self, name, model):
            self.compiled += (name,)
            return super().compile(name, model)

    monkeypatch.setattr(compiled, "EDITORS_OPEN", 2)
    backend, codes = Counting(), editor.sample(3)[None]
    for name in ("yaw", "age", "yaw", "smile", "yaw", "age"):
        target = {name: editor.attributes[name].evaluated[1]}
        assert np.array_equal(backend.edit(codes, target)[0], editor.edit(codes[0], target))
    assert backend.compiled == ("editor:yaw", "editor:age", "editor:smile", "editor:age")


def test_auto_takes_what_was_fastest_and_remembers(monkeypatch, tmp_path):
    seconds = {OnnxBackend: 2.0, OpenVinoBackend: 1.0}
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "_render_seconds", lambda backend: seconds[type(backend)])
    assert choice.fastest_on_cpu() == "openvino"
    seconds[OnnxBackend] = 0.5
    assert choice.fastest_on_cpu() == "openvino"  # not measured again
    (tmp_path / "engines" / "fastest.json").write_text("{")
    assert choice.fastest_on_cpu() == "onnx"
    monkeypatch.setattr(choice, "runtimes", lambda: {"onnx": "", "openvino": "missing"})
    assert choice.fastest_on_cpu() == "onnx"


def row_span(name: str) -> float:
    return ATTRIBUTES[name].high - ATTRIBUTES[name].low


def test_onnx_readings_and_codes_equal_torch(editor, reference, astronaut, face):
    again = reference.invert(astronaut)
    np.testing.assert_allclose(again.quad, face.quad, atol=0.05)
    np.testing.assert_allclose(again.code, face.code, atol=2e-2)
    values, expected = editor.measure(face.portrait), reference.measure(face.portrait)
    for name, value in values.items():
        assert value == pytest.approx(expected[name], abs=1e-3 * row_span(name))
    assert editor.embed(face.portrait) @ reference.embed(face.portrait) > 0.9999


def test_onnx_edits_equal_torch_edits(editor, reference):
    code = editor.sample(3)
    for target in ({"yaw": 20}, {"age": 70, "smile": 0}, {n: r.high for n, r in editor.attributes.items()}):
        edited = editor.edit(code, target)
        np.testing.assert_allclose(edited, reference.edit(code, target), atol=1e-4)
        assert not np.array_equal(edited, code)


def test_edits_reach_what_was_asked_for(editor):
    """A few faces; `python -m dystyle.evaluate editing` measures it in earnest."""
    ages, yaws, smiles = [], [], []
    for seed in range(20_000, 20_004):
        code = editor.sample(seed)
        for age in (25, 60):
            ages.append(abs(editor.measure(editor.synthesize(editor.edit(code, {"age": age})))["age"] - age))
        for yaw in (-20, 20):
            yaws.append(abs(editor.measure(editor.synthesize(editor.edit(code, {"yaw": yaw})))["yaw"] - yaw))
        both = [editor.measure(editor.synthesize(editor.edit(code, {"smile": s})))["smile"] for s in (0, 1)]
        smiles.append(both[1] - both[0])
    assert np.mean(ages) < 10 and np.mean(yaws) < 7 and np.mean(smiles) > 0.6


@pytest.mark.parametrize(
    ("name", "targets"), [("yaw", (25, 32, 40)), ("age", (70, 75, 80)), ("pitch", (-15, -25))]
)
def test_more_asked_for_is_more_up_to_the_ends_of_the_range(editor, name, targets):
    codes = [editor.sample(seed) for seed in (1, 2)]

    def reached(target: float) -> float:
        pictures = [editor.synthesize(editor.edit(code, {name: target})) for code in codes]
        return float(np.mean([editor.measure(picture)[name] for picture in pictures]))

    values = [abs(reached(target)) for target in targets]
    assert values == sorted(values) and values[-1] > values[0] + 2


def test_refinement_comes_closer_and_reports(editor, astronaut, face, monkeypatch):
    short = refine.RefineConfig(schedule=((128, 12),))
    monkeypatch.setitem(refine.REFINEMENTS, "balanced", short)
    reported = []
    refined = editor.invert(astronaut, refine="balanced", progress=lambda f, m: reported.append(f))
    assert reported == sorted(reported) and reported[0] == 0 and reported[-1] == 1

    def error(code):
        picture = editor.synthesize(code, 128).astype(float)
        return np.abs(picture - face.portrait.reshape(128, 8, 128, 8, 3).mean((1, 3))).mean()

    assert error(refined.code) < 0.9 * error(face.code)


def test_precise_inversion_tunes_the_generator_for_this_face_alone(
    editor, reference, astronaut, face, monkeypatch
):
    short = refine.RefineConfig(schedule=((128, 3),), tuning_steps=6, tuning_lr=1e-3)
    monkeypatch.setitem(refine.REFINEMENTS, "precise", short)
    plain = editor.synthesize(face.code)
    tuned = editor.invert(astronaut, refine="precise")

    def error(picture):
        return np.abs(picture.astype(float) - tuned.portrait).mean()

    own, without = editor.synthesize(tuned.code, face=tuned), editor.synthesize(tuned.code)
    assert error(own) < error(without) - 3
    assert np.array_equal(editor.synthesize(face.code), plain)
    # Previews carry the weights that they have, and both backends agree.
    for size in (256, 1024):
        pictures = [e.synthesize(tuned.code, size, face=tuned).astype(int) for e in (editor, reference)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
        assert np.abs(pictures[0] - editor.synthesize(tuned.code, size)).mean() > 0.5


def test_a_picture_in_quarters_has_the_pixels_and_gradients_of_the_whole(editor, face, monkeypatch):
    monkeypatch.setattr(refine.Refinement, "_precision", lambda self: nullcontext())
    networks = refine.networks(None, "cpu")
    refinement = refine.Refinement(face.portrait, *networks, refine.REFINEMENTS["precise"])
    codes = [torch.from_numpy(face.code)[None].requires_grad_(True) for _ in range(2)]
    whole = networks[0](codes[0], 1024)
    gradient = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    whole.backward(gradient)
    image, backward = refinement._render(networks[0], codes[1], 1024)
    backward(gradient)
    torch.testing.assert_close(image, whole.detach(), atol=1e-4, rtol=0)
    scale = float(codes[0].grad.abs().max())
    torch.testing.assert_close(codes[1].grad, codes[0].grad, atol=2e-3 * scale, rtol=0)


def test_adam_is_pytorchs():
    start, targets = torch.randn(2, 3, 40), torch.randn(3, 40)
    ours, theirs = ([x.clone().requires_grad_(True) for x in start] for _ in range(2))
    adam, reference = refine.Adam(ours), torch.optim.Adam(theirs, betas=(0.9, 0.95))
    for step in range(20):
        reference.param_groups[0]["lr"] = lr = 0.1 / (step + 1)
        sum((x - targets).abs().pow(1.5).sum() for x in ours).backward()
        adam.step(lr)
        reference.zero_grad()
        sum((x - targets).abs().pow(1.5).sum() for x in theirs).backward()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("quality", ["balanced", "precise"])
def test_a_refinement_stays_on_its_device(quality, monkeypatch):
    short = refine.RefineConfig(((128, 4), (256, 1), (1024, 1)), detail_steps=2, tuning_steps=1)
    monkeypatch.setitem(refine.REFINEMENTS, "precise", short)
    monkeypatch.setitem(refine.REFINEMENTS, "balanced", replace(short, tuning_steps=0))
    networks = refine.networks(None, "meta")
    monkeypatch.setattr(refine, "networks", lambda file, device: networks)
    portrait, code = np.zeros((1024, 1024, 3), np.uint8), np.zeros((18, 512), np.float32)
    with OneDevice():
        *_, (share, _, result) = refine.refine(portrait, code, quality, None, "meta")
    assert share == 1 and type(result[0]) is np.ndarray and result[0].shape == (18, 512)
    assert all(type(weight) is np.ndarray for weight in result[1].values())
    assert bool(result[1]) == (quality == "precise")


@pytest.mark.gpu
def test_refinement_on_the_gpu_comes_as_close(editor, reference, astronaut, monkeypatch):
    short = refine.RefineConfig(schedule=((128, 12),), detail_steps=2, tuning_steps=2)
    monkeypatch.setitem(refine.REFINEMENTS, "precise", short)
    # The CPU's bfloat16 ends a few percent further away than float32, on any device.
    monkeypatch.setattr(refine.Refinement, "_precision", lambda self: nullcontext())
    on_gpu = FaceEditor.from_pretrained(device="cuda", backend="torch")
    faces = [e.invert(astronaut, "precise") for e in (editor, on_gpu)]
    errors = [np.abs(reference.synthesize(f.code, face=f).astype(float) - f.portrait).mean() for f in faces]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
    assert refine.networks(None, "cuda")[0].mean_w.is_cuda and not generator(None).mean_w.is_cuda


def test_auto_takes_a_gpu_that_can_be_used(monkeypatch):
    """Device and backend for what is installed, with and without a GPU."""

    def chosen(gpu: bool, *usable: str, backend: str = "auto") -> tuple[str, str]:
        names = ("onnx", "openvino", "cuda", "tensorrt", "tensorrt-rtx")
        for module in (hardware, choice):
            monkeypatch.setattr(module, "runtimes", lambda: {n: "" if n in usable else "no" for n in names})
        monkeypatch.setattr(choice, "has_gpu", lambda: gpu)
        monkeypatch.setattr(choice, "fastest_on_cpu", lambda: "openvino")
        device = choice.auto_device(backend)
        return device, choice.auto_backend(device) if backend == "auto" else backend

    assert chosen(False) == ("cpu", "openvino")
    assert chosen(True) == ("cuda", "torch")  # a GPU Space with requirements.txt
    assert chosen(True, "cuda") == ("cuda", "onnx")
    assert chosen(True, "cuda", "tensorrt-rtx") == ("cuda", "tensorrt")
    assert chosen(True, backend="openvino") == ("cpu", "openvino")
    assert chosen(True, backend="onnx") == ("cpu", "onnx")
    assert chosen(True, "cuda", backend="onnx") == ("cuda", "onnx")
    assert chosen(True, backend="torch") == ("cuda", "torch")
    assert chosen(False, backend="torch") == ("cpu", "torch")


def test_cancelling_a_refinement_stops_it(editor, astronaut):
    class Cancelled(Exception):
        pass

    def progress(fraction: float, message: str) -> None:
        if "Refining" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        editor.invert(astronaut, refine="balanced", progress=progress)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"device": "tpu"}, "device"),
        ({"backend": "jax"}, "backend"),
        ({"method": "magic"}, "method"),
    ],
)
def test_unknown_choices_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        FaceEditor.from_pretrained(**arguments)


def test_bad_values_are_refused(editor, face):
    bad = [
        lambda: editor.edit(face.code, {"beauty": 1}),
        lambda: editor.edit(face.code, {"age": 500}),
        lambda: editor.edit(face.code, {"age": "abc"}),
        lambda: editor.edit(face.code, {"age": "60"}),
        lambda: editor.edit(face.code, {"age": None}),
        lambda: editor.edit(face.code, {"age": 10**400}),
        lambda: editor.edit(face.code, "age=60"),
        lambda: editor.edit(face.code, None),
        lambda: editor.edit("code", {"age": 50}),
        lambda: editor.edit(None, {"age": 50}),
        lambda: editor.mix(face.code, face.code, None),
        lambda: editor.mix(face.code, face.code, 1.5),
        lambda: editor.truncate(face.code, "1"),
        lambda: editor.synthesize(face.code, noise={"conv1": 1e9}),
        lambda: editor.synthesize(face.code, noise={"conv1": -1}),
        lambda: editor.synthesize(face.code, noise={"conv1": "1"}),
        lambda: editor.edit(face.code, {"age": float("nan")}),
        lambda: editor.edit(face.code[:5], {"age": 50}),
        lambda: editor.synthesize(face.code, size=512),
        lambda: editor.measure(np.zeros((40, 40, 3), np.uint8)),
        lambda: editor.measure(np.zeros((256, 256), np.uint8)),
        lambda: editor.sample(-1),
        lambda: editor.sample(None),
        lambda: editor.sample("7"),
        lambda: editor.sample(True),
        lambda: editor.sample(1, truncation=None),
        lambda: editor.sample(1, truncation=2),
        lambda: editor.invert(np.zeros((300, 300, 3), np.uint8)),
        lambda: editor.invert(face.portrait, refine="slow"),
        lambda: editor.invert(face.portrait, index=7),
        lambda: editor.invert(face.portrait, index=None),
        lambda: editor.align(face.portrait, index="0"),
    ]
    for call in bad:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")


def test_fast_inversion_gives_the_person_back(editor):
    encoder_alone = copy.copy(editor)
    encoder_alone._descent = ()
    likeness, less, strangers = [], [], []
    pictures = [editor.synthesize(editor.sample(seed)) for seed in range(300, 306)]
    embeddings = [editor.embed(picture) for picture in pictures]
    for index, picture in enumerate(pictures):
        again, before = (
            editor.embed(editor.synthesize(e.invert(picture).code)) for e in (editor, encoder_alone)
        )
        likeness.append(again @ embeddings[index])
        less.append(before @ embeddings[index])
        strangers.append(again @ embeddings[index - 1])
    assert np.mean(likeness) > 0.8 > np.mean(strangers) + 0.25
    assert np.mean(likeness) > np.mean(less) + 0.01  # what the steps behind the encoder are for
