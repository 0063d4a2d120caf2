"""Engines: parity before rounding, no torch, shared weights, absent runtimes, what is built and timed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dystyle import FaceEditor, InputError
from dystyle.editors import open_method
from dystyle.engines import hardware, onnx_backend, openvino_backend, tensorrt
from dystyle.engines.cache import configuration_file, engine_file
from dystyle.engines.generator_graph import ADJUSTABLE, default_generator_graph
from dystyle.engines.graphs import GRAPHS, TorchBackend, module
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from dystyle.evaluation import latency, neighbours, speed
from dystyle.evaluation.speed import EngineSpeedConfig
from dystyle.export import LIMITS, compare_pictures, describe, example, expand, open_backend, parity


@pytest.fixture(scope="module")
def codes(editor) -> np.ndarray:
    """Two people whose rows differ, so that a wrong row shows."""
    rng = np.random.default_rng(0)
    people = np.stack([editor.sample(seed) for seed in range(2)])
    return people + rng.normal(0, 0.1, people.shape).astype(np.float32)


@pytest.mark.parametrize(
    "name", ["generator_256", "generator_128", "generator_1024", "decoder_128", "decoder_1024"]
)
def test_pictures_before_rounding_equal_torch(name, codes):
    feeds = {"input": codes}
    if name.startswith("decoder"):
        feeds = {"input": OnnxBackend().run("features", codes)[0], "codes": codes}
    pictures, expected = compare_pictures(OnnxBackend(), name, feeds)
    assert parity(name, [pictures], [expected], LIMITS["generator"])["passed"]
    wrong = pictures.copy()
    wrong[0, 3, 5, 1] += 3e-3
    assert not parity(name, [wrong], [expected], LIMITS["generator"])["passed"]


@pytest.mark.parametrize("name", GRAPHS)
def test_verifying_knows_every_engine(name, codes):
    """Its limit, and inputs of the types and shapes that it takes."""
    faces, features = np.zeros((2, 256, 256, 3), np.uint8), np.zeros((2, 512, 64, 64), np.float32)
    feeds, made = example(name, faces, codes, features), GRAPHS[name]
    assert LIMITS[name.split("_")[0]] > 0
    kinds = {"input": made.dtype} | {
        key: torch.float16 if key in made.halves else torch.float32 for key in made.others
    }
    assert {key: torch.from_numpy(x).dtype for key, x in feeds.items()} == kinds
    assert {key: x.shape[1:] for key, x in feeds.items()} == {"input": made.shape, **made.others}


def test_features_and_their_decoder_are_the_whole_generator(codes):
    backend = OnnxBackend()
    for size in (1024, 256, 128):
        (halves,) = backend.run(f"decoder_{size}", *backend.run("features", codes), codes=codes)
        (whole,) = backend.run(f"generator_{size}", codes)
        assert np.abs(halves.astype(int) - whole).max() <= 1


def test_reduced_precision_is_held_to_a_psnr(codes):
    pictures, expected = compare_pictures(OpenVinoBackend(), "generator_256", {"input": codes})
    assert parity("generator_256", [pictures], [expected], 0, reduced=True)["passed"]
    noisy = pictures + np.random.default_rng(1).normal(0, 0.02, pictures.shape)  # 40 dB
    assert not parity("generator_256", [noisy], [expected], 0, reduced=True)["passed"]


def test_a_halved_generator_computes_in_float16_and_keeps_the_picture(codes):
    halved = onnx_backend.halve(engine_file("generator_128"))
    weights = {tensor.data_type for tensor in onnx.load_from_string(halved).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights and onnx.TensorProto.FLOAT not in weights
    picture, expected = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": codes})[0]
        for model in (halved, engine_file("generator_128"))
    )
    assert np.square(picture.astype(int) - expected).mean() < 255**2 / 10**4.5  # 45 dB


def test_speed_of_engines_comes_with_their_exactness():
    config = EngineSpeedConfig(device="cpu", sizes=(128,), batches=(2,), compare=False, seconds=0)
    result = speed.evaluate_engines(config)
    rows = {(row["method"], row["precision"]): row for row in result["rows"]}
    for method in ("onnx", "openvino", "PyTorch eager"):
        row = rows[method, "fp32"]
        assert row["psnr"] > 75 and row["seconds"] > 0
        assert f"| {2 / row['seconds']:.0f} | {row['psnr']:.1f} |" in speed.engines_table(result)
    measured = {*rows, *((name.split()[0], name.split()[-1]) for name in result["absent"])}
    assert {("openvino", precision) for precision in hardware.PRECISIONS["openvino"]} <= measured
    for wrong, said in (({"sizes": (512,)}, "no pictures of 512 px"), ({"batches": (0,)}, "at least one")):
        with pytest.raises(InputError, match=said):
            speed.evaluate_engines(replace(config, **wrong))


def test_a_page_on_prebuilt_engines_imports_no_torch(editor):
    editor.warm_up()
    code = """
import json, sys
from dystyle import FaceEditor
from webapp import build_page
editor = FaceEditor.from_pretrained(backend="onnx")
build_page(editor)
face = editor.invert(editor.synthesize(editor.sample(0)))
edited = editor.edit(face.code, {"age": 60, "pitch": 5, "beard": 0})
for name in ("interfacegan", "ganspace", "stylespace"):
    editor.with_method(name)
editor.measure(editor.synthesize(edited, 256))
print(json.dumps([name for name in sys.modules if name.split(".")[0] == "torch"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_configurations_hold_no_weights_of_their_own(editor, codes, monkeypatch, tmp_path):
    """Their graphs are small and read one file: what is changed there changes the edits of all."""
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path))
    configurations = (
        {"age": 60.0},
        {"yaw": 10.0, "smile": 1.0},
        {n: r.low for n, r in editor.attributes.items()},
    )
    expected = [OnnxBackend().edit(codes, target) for target in configurations]
    files = [configuration_file(target) for target in configurations]
    assert all(file.stat().st_size < 40_000 for file in files)
    assert [file.suffix for file in tmp_path.glob("engines/*.weights")] == [".weights"]
    weights = engine_file("editor")
    index = json.loads(weights.with_suffix(".json").read_text())["tensors"]["shift.bias"]
    with weights.open("r+b") as file:
        file.seek(index["offset"])
        bias = np.frombuffer(file.read(4 * int(np.prod(index["shape"]))), "<f4") + np.float32(1)
        file.seek(index["offset"])
        file.write(bias.tobytes())
    std = json.loads(weights.with_suffix(".json").read_text())["tensors"]["std_w"]
    std = np.fromfile(weights, "<f4", 512, offset=std["offset"])
    rows = index["shape"][0]
    for target, before in zip(configurations, expected, strict=True):
        change = OnnxBackend().edit(codes, target) - before
        np.testing.assert_allclose(change[:, :rows], np.broadcast_to(std, change[:, :rows].shape), atol=1e-4)
        assert not change[:, rows:].any()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system lists no mapped files")
def test_open_configurations_share_one_mapping(editor, codes):
    backend = OnnxBackend()
    for name, row in editor.attributes.items():
        backend.edit(codes, {name: row.high})
    mapped = Path("/proc/self/maps").read_text().count(str(engine_file("editor")))
    assert mapped == 1


def test_compiled_generators_hold_one_noise_image_a_layer(codes, monkeypatch, tmp_path):
    """OpenVINO folds constants: with a noise image a channel this file would nearly double."""
    model = engine_file("generator_128")
    monkeypatch.setattr(openvino_backend, "compiled_folder", lambda *_: tmp_path)
    OpenVinoBackend("fp32").compile("generator_128", model)
    (compiled,) = tmp_path.rglob("*.blob")
    assert compiled.stat().st_size < 1.1 * model.stat().st_size


@pytest.mark.parametrize("name", ["encoder", "reader", "identity", "recognition"])
def test_batches_are_read_as_single_pictures_are(name, codes):
    faces = OnnxBackend().run("generator_256", codes)[0]
    (expected,) = TorchBackend().run(name, faces)
    for backend in (OnnxBackend(), OpenVinoBackend()):
        assert np.abs(backend.run(name, faces)[0] - expected).max() < 1e-3


def test_beside_openvino_whatever_is_no_picture_is_onnx_runtimes(codes):
    """Which takes half of the memory for it."""
    faces = OnnxBackend().run("generator_128", codes)[0].repeat(2, 1).repeat(2, 2)
    for name in ("reader", "identity"):
        outputs = [backend.run(name, faces)[0] for backend in (OnnxBackend(), OpenVinoBackend())]
        np.testing.assert_array_equal(*outputs)


def test_openvino_renders_several_pictures_as_single_ones(codes):
    backend, weights = OpenVinoBackend(), FaceEditor.from_pretrained(backend="onnx")._weights
    for name, given in (("features", None), ("generator_128", None), ("features", weights)):
        singles = [backend.run(name, code[None], given)[0] for code in codes]
        np.testing.assert_array_equal(backend.run(name, codes, given)[0], np.concatenate(singles))


def test_weights_of_a_tuned_generator_stand_in(codes):
    """Kernels are stored in another order in the engine, and factors are folded."""
    rng = np.random.default_rng(0)
    state = module("generator_128").generator.state_dict()
    names = ("conv1.weight", "blocks.1.conv2.bias", "blocks.2.up.weight", "blocks.3.conv2.weight")
    tuned = {name: state[name].numpy() for name in names}
    tuned = {k: (w * (1 + 0.1 * rng.standard_normal(w.shape))).astype(np.float32) for k, w in tuned.items()}
    (plain,), (own,) = (OnnxBackend().run("generator_128", codes, weights) for weights in (None, tuned))
    (expected,) = TorchBackend().run("generator_128", codes, tuned)
    assert np.abs(own.astype(int) - expected).max() <= 1
    assert np.abs(own.astype(int) - plain).mean() > 1


@pytest.mark.parametrize("backend", [OnnxBackend, lambda: OpenVinoBackend("fp32")])
def test_styles_and_noise_are_inputs_of_one_engine(codes, backend):
    rng = np.random.default_rng(1)
    state = module("generator_128").generator.state_dict()
    usual = {name: w.numpy() for name, w in state.items() if name.endswith(ADJUSTABLE)}
    engines, pictures = backend(), []
    for _ in range(2):
        weights = {n: (w * (1 + rng.standard_normal(w.shape))).astype(np.float32) for n, w in usual.items()}
        pictures.append(engines.run("generator_128", codes, weights)[0].astype(int))
        (expected,) = TorchBackend().run("generator_128", codes, weights)
        assert np.abs(pictures[-1] - expected).max() <= 1
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    assert len(engines.tuned) == 1


def test_bound_outputs_are_the_same(codes):
    session = onnxruntime.InferenceSession(engine_file("generator_128"), providers=["CPUExecutionProvider"])
    feeds = {"input": codes}
    (bound,), (plain,) = onnx_backend.run_bound(session, feeds, "cpu"), session.run(None, feeds)
    assert bound.shape == (2, 128, 128, 3) and np.array_equal(bound, plain)


def test_tensorrt_profiles_name_every_input_that_has_a_batch(codes):
    def largest(model) -> str:
        return tensorrt.profile_shapes(model)["max"]

    assert tensorrt.profile_shapes(engine_file("generator_256")) == {
        "min": "input:1x18x512",
        "opt": "input:1x18x512",
        "max": "input:8x18x512",
    }
    assert largest(configuration_file({"age": 60.0, "yaw": 1.0})) == "codes:8x18x512,targets:8x2"
    assert largest(engine_file("decoder_128")) == "input:8x512x64x64,codes:8x18x512"
    features = "input:8x512x64x64,sampled:8x128x64x64,after:8x512x64x64,restored:8x512x64x64"
    known = "flow:8x2x32x32,stay:8x1x64x64,lasts:8x1x64x64"
    assert largest(engine_file("carrier").read_bytes()) == f"{features},{known}"
    styled = default_generator_graph("generator_128", adjustable=True)  # styles and noise have none
    assert largest(styled.SerializeToString()) == "input:8x18x512"


def test_absent_runtimes_have_a_reason(monkeypatch):
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(hardware.ctypes, "CDLL", refuse)
    reasons = hardware.runtimes.__wrapped__()
    assert {name for name, reason in reasons.items() if not reason} == {"onnx", "openvino"}
    assert all("driver" in reasons[name] for name in ("cuda", "tensorrt", "tensorrt-rtx"))
    devices = 0

    def count(found):
        found._obj.value = devices
        return 0

    driver = SimpleNamespace(nvmlInit_v2=lambda: 0, nvmlDeviceGetCount_v2=count)
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: driver)
    assert "no CUDA device" in hardware.runtimes.__wrapped__()["cuda"]
    devices = 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not any(hardware.runtimes.__wrapped__().values())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "no CUDA device" in hardware.runtimes.__wrapped__()["cuda"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    reasons = hardware.runtimes.__wrapped__()
    assert "tensorrt is missing" in reasons["tensorrt"] and not reasons["cuda"]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_silent_fall_back_to_the_cpu_is_refused(monkeypatch, codes):
    """ONNX Runtime runs on the CPU when a provider does not start; nobody would notice but by the clock."""
    monkeypatch.setattr(onnx_backend, "runtimes", lambda: dict.fromkeys(hardware.PRECISIONS, ""))
    with pytest.raises(InputError, match="could not start 'cuda'"):
        OnnxBackend("cuda").run("generator_128", codes)


@pytest.mark.parametrize(
    ("backend", "precision"), [("onnx", "fp16"), ("onnx", "int8"), ("openvino", "int8"), ("tensorrt", "int8")]
)
def test_precisions_that_make_no_sense_are_refused(backend, precision):
    with pytest.raises(InputError, match=precision) as caught:
        open_backend(backend, precision)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_configurations_are_expanded():
    names = ("yaw", "age", "smile")
    assert expand(names, ("age,yaw", "singles")) == [("yaw", "age"), ("yaw",), ("age",), ("smile",)]
    assert len(expand(names, ("pairs",))) == 3 and len(expand(names, ("all", "pairs"))) == 7
    with pytest.raises(InputError, match="beauty"):
        expand(names, ("age,beauty",))


def test_the_manifest_describes_shapes_with_a_free_batch():
    entry = describe(engine_file("generator_128"))
    assert entry["input"] == {"input": ["batch", 18, 512]}
    assert entry["output"] == {"output0": ["batch", 128, 128, 3]} and len(entry["sha256"]) == 64


def test_operations_are_counted_as_torch_counts_them(codes):
    operations, values = latency.count(onnx.load(engine_file("generator_128")))
    with FlopCounterMode(display=False) as counter:
        module("generator_128")(torch.from_numpy(codes[:1]))
    assert operations == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert values > 1e6


def test_neighbours_are_busy_while_they_are_measured(monkeypatch):
    started, seen, popen = [], [], subprocess.Popen

    def start(*arguments, **options) -> subprocess.Popen:
        started.append(popen(*arguments, **options))
        return started[-1]

    def time_work(work, repeats: int) -> dict[str, list[float]]:
        seen.append(sum(process.poll() is None for process in started))
        return {name: [1e-3 * (1 + seen[-1])] * repeats for name in work}

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(neighbours, "time_work", time_work)
    config = neighbours.NeighboursConfig("onnx", busy=2, turns=2, repeats=3, refine=("fast",))
    text = neighbours.table(neighbours.evaluate_neighbours(config))
    assert seen == [0, 2, 0, 2] and all(process.poll() is not None for process in started)
    assert "beside 2 processes" in text and "6 rounds" in text
    for stage in ("slider to preview", "slider to full, photo", "inversion, fast"):
        assert f"| {stage} | 1 | 3 | 3.0 |" in text
    with pytest.raises(InputError, match="turn"):
        neighbours.evaluate_neighbours(neighbours.NeighboursConfig(turns=0))


def test_latency_reports_every_stage(monkeypatch, tmp_path):
    children = {
        latency._COLD: {"seconds": 2.5, "torch": False},
        latency._PAGE: {
            "peak_bytes": {"fast": 9e8, "balanced": 1.2e9, "precise": 1.3e9, "beside": 1.4e9},
            "torch": False,
        },
    }
    monkeypatch.setattr(latency, "_child", lambda code, backend: children[code])
    config = latency.LatencyConfig(backend="onnx", repeats=1, cold_starts=1)
    result = latency.evaluate_latency(config, tmp_path)
    json.dumps(result)
    stages = result["stages"]
    assert all(row["median"] > 0 for row in stages.values())
    assert stages[latency.YARDSTICK]["ratio"] == 1
    text = latency.table(result)
    for stage in ("align", "encode", "edit", "preview", "full", "measure", "paste", "slider to preview"):
        assert f"| {stage}" in text
    assert "2.50 s" in text and "not imported" in text
    assert all(f"{peak} GB" in text for peak in ("0.90", "1.20", "1.30", "1.40"))
    assert (tmp_path / "latency.png").stat().st_size > 10_000
    with pytest.raises(InputError):
        latency.evaluate_latency(latency.LatencyConfig(backend="torch"))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("device", "precision"),
    [(d, p) for d in ("cuda", "tensorrt", "tensorrt-rtx") for p in hardware.PRECISIONS[d]],
)
def test_gpu_engines_give_the_same_people(device, precision, editor, codes):
    if reason := hardware.runtimes()[device]:
        pytest.skip(reason)
    backend = OnnxBackend(device, precision)
    other = FaceEditor(backend, open_method("dystyle", backend))
    for code in codes:
        edited = editor.edit(code, {"age": 60, "smile": 1})
        np.testing.assert_allclose(other.edit(code, {"age": 60, "smile": 1}), edited, atol=1e-3)
        difference = other.synthesize(edited).astype(int) - editor.synthesize(edited)
        assert np.square(difference).mean() < 255**2 / 10**4.5  # 45 dB
