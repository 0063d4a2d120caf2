"""Backends: what they have in common, and several visitors on one."""

import inspect
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dystyle import FaceEditor
from dystyle.backend import Backend
from dystyle.engines import compiled, opened
from dystyle.engines.compiled import CompiledBackend
from dystyle.engines.graphs import TorchBackend
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from tests.browser.fake_editor import FakeEditor

LONG = 30  # seconds, after which a test has failed


def public(cls: type) -> dict[str, inspect.Signature]:
    """The public methods of a class."""
    functions = inspect.getmembers(cls, inspect.isfunction)
    return {name: inspect.signature(method) for name, method in functions if not name.startswith("_")}


def parameters(signature: inspect.Signature) -> list[tuple]:
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


@pytest.mark.parametrize("backend", [OnnxBackend, OpenVinoBackend, TorchBackend])
def test_every_backend_is_called_alike(backend):
    for name, signature in public(Backend).items():
        assert parameters(public(backend)[name]) == parameters(signature), name
    assert backend().precision in ("fp32", "bf16", "fp16")


def test_the_pages_stand_in_is_called_as_the_editor(editor):
    """And has all that the page asks of an editor."""
    real, fake = public(FaceEditor), public(FakeEditor)
    for name in fake.keys() & real.keys():
        assert [p[0] for p in parameters(fake[name])] == [p[0] for p in parameters(real[name])], name
    # start.py makes the real one, and warms it up.
    files = [path for path in Path("webapp").glob("*.py") if path.name != "start.py"]
    sources = "".join(path.read_text() for path in files)
    asked = set(re.findall(r"\beditor\.(\w+)", sources))
    assert {"edit", "synthesize", "attributes"} <= asked
    assert not [name for name in asked if not hasattr(FakeEditor, name) or not hasattr(editor, name)]


def test_nobody_reads_what_is_private_to_the_editor():
    for file in (
        f for folder in ("dystyle", "webapp", "export", "tests") for f in Path(folder).rglob("*.py")
    ):
        found = re.findall(r"(?<!self)\.(?:_backend|_aligner|_encode|_method)\b", file.read_text())
        assert not found, file


class Scripted(CompiledBackend):
    """Engines that give their name's length. What is named in `held` opens when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, threading.Event] = {}
        self.began: dict[str, threading.Event] = {}
        self.compiled: list[str] = []

    def trim(self) -> None:
        pass

    def compile(self, name, model):
        self.compiled.append(name)
        if name in self.held:
            self.began[name].set()
            assert self.held[name].wait(LONG)
        return lambda feeds: [np.array(len(name))]

    @contextmanager
    def opening(self, name: str):
        """Another visitor asks for this engine, and waits for its compilation until the end of the block."""
        self.held[name], self.began[name] = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(self.run, name, None)
            try:
                assert self.began[name].wait(LONG)
                yield other
            finally:
                self.held[name].set()
            assert int(other.result(LONG)[0]) == len(name)


@pytest.fixture
def backend(monkeypatch) -> Scripted:
    monkeypatch.setattr(compiled, "engine_model", lambda name: b"")
    monkeypatch.setattr(compiled, "configuration_model", lambda names, editor: b"")
    return Scripted()


def within(call, *arguments):
    """The result of a call that must not wait for anybody."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call, *arguments).result(LONG)
    finally:
        pool.shutdown(wait=False)


def test_an_open_engine_answers_while_another_compiles(backend):
    backend.run("reader", None)
    with backend.opening("identity") as other:
        assert int(within(backend.run, "reader", None)[0]) == len("reader")
        assert int(within(backend.run, "mesh", None)[0]) == len("mesh")  # and another one opens
        within(backend.edit, np.zeros((1, 18, 512)), {"age": 60.0})
        assert not other.done()


def test_two_visitors_open_an_engine_once(backend, monkeypatch):
    asked = threading.Semaphore(0)
    monkeypatch.setattr(opened.time, "monotonic", lambda: asked.release() or 0.0)
    with ThreadPoolExecutor(1) as pool, backend.opening("reader"):
        second = pool.submit(backend.run, "reader", None)
        assert asked.acquire(timeout=LONG) and asked.acquire(timeout=LONG)  # both have
    assert second.result(LONG) and backend.compiled == ["reader"]


def test_an_engine_that_failed_to_open_is_tried_again(backend, monkeypatch):
    monkeypatch.setattr(backend, "compile", lambda name, model: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            backend.run("reader", None)
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "engine_model", lambda name: b"")
    assert int(backend.run("reader", None)[0]) == len("reader")


def test_making_room_leaves_others_their_engines(backend, monkeypatch):
    now = 0.0
    monkeypatch.setattr(opened.time, "monotonic", lambda: now)
    for name in ("mine", "theirs", "both"):
        if name != "theirs":
            backend.run(name, None)
        if name != "mine":
            within(backend.run, name, None)
    codes = np.zeros((1, 18, 512))
    backend.edit(codes, {"age": 60.0})
    now = compiled.IN_USE - 1
    backend.release_memory()
    backend.compiled.clear()
    for name in ("theirs", "both", "mine"):
        backend.run(name, None)
    backend.edit(codes, {"age": 60.0})
    assert backend.compiled == ["mine"]
    now = 2 * compiled.IN_USE  # the others have gone
    backend.release_memory()
    backend.compiled.clear()
    backend.run("theirs", None)
    assert backend.compiled == ["theirs"]
