"""Models for inference servers: every one loads and gives what FaceEditor's own engines give."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dystyle import export
from dystyle.engines.cache import configuration_file, engine_file
from dystyle.engines.recipes import TRACED
from dystyle.engines.repository import KINDS, editor_name, pbtxt, write_model
from dystyle.errors import InputError
from dystyle.export import BuildConfig, build, example

CONFIGURATIONS = (("age",), ("age", "smile"))
TYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


@pytest.fixture(scope="module")
def triton(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    build(BuildConfig(configurations=("age", "age,smile"), layout=("triton", folder)))
    return folder


def parse(text: str) -> dict[str, list]:
    """Protobuf's text format as lists of values by key."""
    tokens = iter(re.findall(r'[{}]|[\w]+(?=[ :])|"[^"]*"|\[[^]]*\]|[\w-]+', text))

    def block() -> dict[str, list]:
        found: dict[str, list] = {}
        for key in tokens:
            if key == "}":
                break
            value = next(tokens)
            found.setdefault(key, []).append(block() if value == "{" else _value(value))
        return found

    return block()


def _value(token: str):
    return token if re.fullmatch(r"[A-Z_\d]*[A-Z][A-Z_\d]*", token) else json.loads(token)


def session(folder: Path, name: str) -> onnxruntime.InferenceSession:
    file = folder / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def feeds(editor):
    """Inputs of a model, of two people."""
    codes = np.stack([editor.sample(seed) for seed in (3, 4)])
    faces, features = (editor.backend.run(name, codes)[0] for name in ("generator_256", "features"))
    return lambda name: example(name, faces, codes, features)


def expected(editor, name: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    others = {key: value for key, value in given.items() if key != "input"}
    return editor.backend.run(name, given["input"], **others)


def test_every_model_of_tritons_repository_gives_what_the_engines_give(triton, editor, feeds):
    names = {path.parent.name for path in triton.glob("*/config.pbtxt")}
    editors = {editor_name(configuration) for configuration in CONFIGURATIONS}
    ensembles = {name.replace("editor", "portrait") for name in editors}
    assert names > {"generator_1024", "features", "decoder_256", *TRACED} | editors | ensembles
    for name in names - editors - ensembles:
        given, config = feeds(name), parse((triton / name / "config.pbtxt").read_text())
        assert config["name"] == [name] and config["max_batch_size"][0] > 1 and config["dynamic_batching"]
        outputs = session(triton, name).run([tensor["name"][0] for tensor in config["output"]], given)
        assert [*given] == [tensor["name"][0] for tensor in config["input"]]
        for tensor, array in zip(
            config["input"] + config["output"], [*given.values(), *outputs], strict=True
        ):
            assert TYPES[tensor["data_type"][0].removeprefix("TYPE_")] == array.dtype, name
            sides = zip(tensor["dims"][0], array.shape[1:], strict=True)
            assert all(told in (-1, side) for told, side in sides), (name, tensor)
        for output, wanted in zip(outputs, expected(editor, name, given), strict=True):
            np.testing.assert_allclose(
                output.astype(float), wanted, atol=1 if output.dtype == np.uint8 else 2e-3
            )


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_ensembles_lead_from_a_portrait_to_what_face_editor_shows(triton, editor, configuration):
    name = "-".join(("portrait", *configuration))
    config = parse((triton / name / "config.pbtxt").read_text())
    assert (triton / name / "1").is_dir() and config["platform"] == ["ensemble"]
    portrait = editor.synthesize(editor.sample(5), 256)
    target = {"age": 70.0, "smile": 0.0}
    target = {attribute: target[attribute] for attribute in configuration}
    tensors = {"portrait": portrait[None], "targets": np.array([[*target.values()]], np.float32)}
    assert {*tensors} == {tensor["name"][0] for tensor in config["input"]}
    for step in config["ensemble_scheduling"][0]["step"]:
        taken = {pair["key"][0]: tensors[pair["value"][0]] for pair in step["input_map"]}
        given = [pair["key"][0] for pair in step["output_map"]]
        results = session(triton, step["model_name"][0]).run(given, taken)
        tensors |= {pair["value"][0]: x for pair, x in zip(step["output_map"], results, strict=True)}
    assert {tensor["name"][0] for tensor in config["output"]} <= {*tensors}
    code = editor.backend.run("encoder", portrait[None])[0][0]
    edited = editor.edit(code, target)
    np.testing.assert_allclose(tensors["code"][0], code, atol=2e-3)
    np.testing.assert_allclose(tensors["edited"][0], edited, atol=5e-3)
    difference = tensors["picture"][0].astype(int) - editor.synthesize(edited)
    assert np.abs(difference).mean() < 0.1


def test_others_get_the_open_inference_protocols_metadata(editor, tmp_path):
    write_model("kserve", tmp_path, "encoder", engine_file("encoder"))
    write_model("kserve", tmp_path, "editor-age-smile", configuration_file(("age", "smile")))
    assert json.loads((tmp_path / "encoder" / "metadata.json").read_text()) == {
        "name": "encoder",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 256, 256, 3]}],
        "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, 18, 512]}],
    }
    codes = np.stack([editor.sample(seed) for seed in (1, 2)])
    given = {"codes": codes, "targets": np.array([[60, 1], [20, 0]], np.float32)}
    (edited,) = session(tmp_path, "editor-age-smile").run(None, given)
    for code, target, result in zip(codes, given["targets"].tolist(), edited, strict=True):
        wanted = editor.edit(code, dict(zip(("age", "smile"), target, strict=True)))
        np.testing.assert_allclose(result, wanted, atol=1e-4)


def test_protobufs_text_format():
    config = {"name": 'a "b"', "kind": "TYPE_X", "dims": [1, -1], "step": [{"n": 1}, {"n": 2}]}
    lines = [
        'name: "a \\"b\\""',
        "kind: TYPE_X",
        "dims: [1, -1]",
        "step {",
        "  n: 1",
        "}",
        "step {",
        "  n: 2",
    ]
    assert pbtxt(config) == "\n".join([*lines, "}", ""])
    assert {*TYPES} == {*KINDS.values()}


def test_where_models_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(export, "example", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(InputError, match="could not be written"):
        build(BuildConfig(layout=("kserve", tmp_path / "file")))
    monkeypatch.setattr(sys, "argv", ["export", "--layout", "triton", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stop:
        export.main()
    assert stop.value.code == 2 and "could not be written" in capsys.readouterr().err
