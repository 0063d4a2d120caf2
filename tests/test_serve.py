"""The server's API and its users: the same results as with engines here; busy, broken and absent servers."""

import io
import json
import runpy
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from PIL import Image

from dystyle import FaceEditor, edit
from dystyle.attributes import ATTRIBUTES
from dystyle.engines import served
from dystyle.engines.generator_graph import ADJUSTABLE
from dystyle.engines.protocol import LENGTH, pack, unpack
from dystyle.engines.served import ServedBackend
from dystyle.errors import InputError
from dystyle.pictures import load_image
from dystyle.serve.api import Busy, build_api
from dystyle.weights import load
from tests.browser.fake_editor import FakeEditor
from webapp.progress import Progress
from webapp.start import load_editor


@contextmanager
def running(editor) -> Iterator[str]:
    """The address at which the API of an editor is served meanwhile."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(build_api(editor), log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(editor) -> Iterator[str]:
    with running(editor) as address:
        yield address


@pytest.fixture(scope="module")
def remote(url) -> FaceEditor:
    return FaceEditor.from_pretrained(backend="serve", url=url)


def send(url: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """POST: the status and the answer."""
    request = urllib.request.Request(url, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def form(url: str, file: tuple[str, bytes], **fields: object) -> tuple[int, bytes]:
    """POST a form with a photo."""
    parts = [f'form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    parts.append(f'form-data; name="photo"; filename="{file[0]}"\r\n\r\n'.encode() + file[1])
    body = b"".join(b"--limit\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--limit--\r\n"
    return send(url, body, Content_Type="multipart/form-data; boundary=limit")


def test_a_photo_comes_back_as_with_engines_here(remote, editor, astronaut):
    target = {"age": 65, "smile": 0}
    pictures = []
    for one in (remote, editor):
        face = one.invert(astronaut)
        picture = one.synthesize(one.edit(face.code, target, face=face), face=face)
        pictures.append(one.paste(picture, face, astronaut))
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert not np.array_equal(pictures[0], astronaut)


def test_attention_noise_and_tuned_weights_go_along(remote, editor):
    code, target = editor.sample(4), {"age": 60, "smile": 1}
    np.testing.assert_allclose(remote.attention(code, target), editor.attention(code, target), atol=1e-6)
    noise = {editor.noise_layers[0]: 0.0}
    for one, other in (
        (one.synthesize(code, 128, noise=noise) for one in (remote, editor)),
        (one.backend.run("generator_128", code[None], tuned())[0] for one in (remote, editor)),
    ):
        assert np.abs(one.astype(int) - other).max() <= 1
    plain = editor.backend.run("generator_128", code[None])[0]
    assert not np.array_equal(plain, remote.backend.run("generator_128", code[None], tuned())[0])


def tuned() -> dict[str, np.ndarray]:
    weights = load("mobile_stylegan")[0]
    name = next(n for n in sorted(weights) if n.endswith("bias") and not n.endswith(ADJUSTABLE))
    return {name: weights[name] + np.float32(0.3)}


def test_the_command_line_needs_nothing_but_the_address(url, editor, tmp_path, monkeypatch, capsys):
    out = tmp_path / "person.png"
    given = ["--sample", "5", "--set", "age=70", "--backend", "serve", "--url", url, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["dystyle.edit", *given])
    edit.main()
    expected = editor.synthesize(editor.edit(editor.sample(5), {"age": 70}))
    assert np.abs(load_image(out).astype(int) - expected).max() <= 1
    monkeypatch.setattr(sys, "argv", ["dystyle.edit", "--sample", "5", "--backend", "serve"])
    with pytest.raises(SystemExit) as stop:
        edit.main()
    assert stop.value.code == 2 and "needs the server's url" in capsys.readouterr().err


def test_a_page_is_told_of_the_server_by_the_environment(url, editor, monkeypatch):
    monkeypatch.setenv("DYSTYLE_BACKEND", "serve")
    monkeypatch.setenv("DYSTYLE_URL", url)
    monkeypatch.delenv("DYSTYLE_ENCODER", raising=False)
    monkeypatch.delenv("DYSTYLE_DEVICE", raising=False)
    assert load_editor(Progress()).backend.url == url


def test_operations_are_the_pages_and_give_what_it_gives():
    editor = FakeEditor()
    pixels = np.full((96, 96, 3), 90, np.uint8)
    pixels[20:80, 20:80] = (230, 20, 20)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    photo, target = ("photo.png", file.getvalue()), json.dumps({"age": 60})
    expected = editor.synthesize(editor.edit(editor.invert(pixels).code, {"age": 60}))
    with running(editor) as url:
        status, saved = form(f"{url}/save_face", photo, keep="true")
        assert status == 200
        for given in (photo, ("face.safetensors", saved)):
            status, picture = form(f"{url}/edit_photo", given, edits=target)
            assert status == 200 and np.array_equal(load_image(picture), expected)
            assert b"Edited by AI (age = 60)" in Image.open(io.BytesIO(picture)).info["xmp"]
            status, whole = form(f"{url}/edit_photo", given, edits=target, paste="true", kind="webp")
            assert Image.open(io.BytesIO(whole)).format == "WEBP" and load_image(whole).shape == pixels.shape
        status, values = form(f"{url}/measure", photo)
        assert status == 200 and json.loads(values)["age"] == 31.7
        person = {"seed": 3, "edits": {"smile": 1}, "kind": "jpeg"}
        status, picture = send(
            f"{url}/edit_person", json.dumps(person).encode(), Content_Type="application/json"
        )
        assert status == 200 and b"A person generated by AI" in Image.open(io.BytesIO(picture)).info["xmp"]
        mixed = json.dumps({"seed": 3, "other": 4, "noise": 0}).encode()
        status, picture = send(f"{url}/mix_people", mixed, Content_Type="application/json")
        assert status == 200 and b"noise = 0" in Image.open(io.BytesIO(picture)).info["xmp"]
        with urllib.request.urlopen(f"{url}/attributes") as answer:
            assert json.load(answer)["age"] == {"kind": "numeric", "low": 5, "high": 80, "unit": "years"}
        for given, fields, sentence in (
            (("photo.png", b"no picture"), {}, "not a picture"),
            (photo, {"edits": '{"age": 600}'}, "out of range"),
            (("face.safetensors", b"no face"), {}, "not a face's file"),
        ):
            status, said = form(f"{url}/edit_photo", given, **fields)
            assert status == 400 and sentence in json.loads(said)["error"]
        with urllib.request.urlopen(f"{url}/openapi.json") as answer:
            served_names = {path.strip("/") for path in json.load(answer)["paths"] if "v2" not in path}
    from webapp import build_page

    page = {name.strip("/") for name in build_page(editor).get_api_info()["named_endpoints"]}
    assert served_names == page


def test_the_protocol_is_the_open_one(url, editor):
    """As curl and other servers' clients write it: JSON alone, or with bytes behind it."""
    code = editor.sample(2)
    tensor = {"name": "codes", "shape": [1, 18, 512], "datatype": "FP32", "data": code.ravel().tolist()}
    targets = {"name": "targets", "shape": [1, 1], "datatype": "FP32", "data": [70]}
    request = json.dumps({"inputs": [tensor, targets]}).encode()
    status, body = send(f"{url}/v2/models/editor-age/infer", request)
    answer = json.loads(body)
    assert status == 200 and answer["model_name"] == "editor-age"
    (output,) = answer["outputs"]
    assert output["name"] == "edited" and output["datatype"] == "FP32" and output["shape"] == [1, 18, 512]
    edited = editor.edit(code, {"age": 70})
    np.testing.assert_allclose(np.reshape(output["data"], edited.shape), edited, atol=1e-5)
    with urllib.request.urlopen(f"{url}/v2/health/ready") as ready:
        assert ready.status == 200


@pytest.mark.parametrize(
    ("model", "inputs", "sentence"),
    [
        ("nonsense", {"input": np.zeros((1, 18, 512))}, "no model 'nonsense'"),
        (
            "editor-smile-age",
            {"codes": np.zeros((1, 18, 512)), "targets": np.zeros((1, 2))},
            "order of the table",
        ),
        ("editor-age", {"codes": np.zeros((1, 18, 512)), "targets": np.zeros((1, 2))}, "takes codes"),
        ("encoder", {"codes": np.zeros((1, 18, 512))}, "lacks 'input'"),
        ("encoder", {"input": np.zeros((65, 1))}, "at most 64"),
        ("decoder_128", {"input": np.zeros((2, 1)), "codes": np.zeros((1, 1))}, "one batch"),
    ],
)
def test_models_that_cannot_run_are_one_sentence(url, model, inputs, sentence):
    body, length = pack("inputs", {key: np.float32(x) for key, x in inputs.items()})
    status, said = send(f"{url}/v2/models/{model}/infer", body, **{LENGTH: str(length)})
    assert status == 400 and sentence in json.loads(said)["error"]


def test_tensors_survive_the_way():
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(2, 3)).astype(np.float32),
        "b": rng.normal(size=(1, 4)).astype(np.float16),
        "c": rng.integers(0, 255, (2, 2, 3), np.uint8),
    }
    for binary in (True, False):
        body, length = pack("outputs", tensors, {"model_name": "x"}, binary)
        found, header = unpack("outputs", body, str(length) if binary else None)
        assert header["model_name"] == "x" and [*found] == [*tensors]
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and np.array_equal(found[name], tensor)
            found[name] *= 1  # it may be changed


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b'{"inputs": 3}',
        b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "a", "shape": [3], "datatype": "FP32", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "data": ["x", 2]}]}',
        b'{"inputs": [{"name": "a", "shape": [-1], "datatype": "FP32", "data": []}]}',
        b'{"inputs": [{"name": "a", "shape": [99999, 99999], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "parameters": {}}]}',
    ],
)
def test_broken_requests_are_refused(broken):
    for length in (None, "x", str(len(broken))):
        with pytest.raises(InputError, match="no input of the Open Inference Protocol"):
            unpack("inputs", broken, length)


def test_who_is_busy_is_asked_again_and_then_said_to_be(editor, monkeypatch):
    tries = []

    def run(name, x, weights=None, **others):
        tries.append(name)
        if len(tries) < busy:
            raise Busy
        return editor.backend.run(name, x, weights, **others)

    pauses = []
    monkeypatch.setattr(served, "time", SimpleNamespace(sleep=pauses.append))
    stand_in = SimpleNamespace(backend=SimpleNamespace(run=run), attributes=ATTRIBUTES)
    with running(stand_in) as url:
        backend, busy = ServedBackend(url), 4
        assert backend.run("reader", np.zeros((1, 256, 256, 3), np.uint8))[0].shape == (1, len(ATTRIBUTES))
        assert len(tries) == 4 and pauses == [*served.PAUSES[:3]]
        tries.clear()
        busy = 99
        with pytest.raises(InputError, match="says: The server is busy; try again in a moment"):
            backend.run("reader", np.zeros((1, 256, 256, 3), np.uint8))
        assert len(tries) == len(served.PAUSES) + 1
    with pytest.raises(InputError, match="does not answer"):
        ServedBackend(url)


def test_what_only_engines_here_can_do_is_said(remote, url):
    codes = np.zeros((1, 18, 512), np.float32)
    with pytest.raises(InputError, match="its own encoder"):
        remote.backend.run("encoder:e4e.pt", codes)
    with pytest.raises(InputError, match="its own editor"):
        remote.backend.edit(codes, {"age": 60}, "editor:other.safetensors")
    for arguments, sentence in (
        ({"backend": "serve"}, "needs the server's url"),
        ({"backend": "serve", "url": "ftp://here"}, "needs the server's url"),
        ({"backend": "onnx", "url": url}, "goes with backend='serve'"),
    ):
        with pytest.raises(InputError, match=sentence):
            FaceEditor.from_pretrained(**arguments)


def test_without_ray_it_is_said_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("dystyle.serve", run_name="__main__")
    assert stop.value.code == 2 and "needs the package ray" in capsys.readouterr().err
