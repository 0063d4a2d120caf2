"""Refinement through ZeroGPU, with a stand-in for Hugging Face's `spaces`."""

import multiprocessing
import pickle
import sys
from types import ModuleType, SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch

from dystyle import FaceEditor, InputError
from dystyle.encoders import refine
from tests.browser.fake_editor import FakeEditor
from webapp import zero_gpu
from webapp.callbacks import Callbacks, Cancelled
from webapp.language import LANGUAGES
from webapp.layout import Layout
from webapp.start import open_page
from webapp.visit import Photo, Visit

CHINESE = next(language for language in LANGUAGES if language.code == "zh")

FORK = multiprocessing.get_context("fork")


class FakeSpaces(ModuleType):
    """`GPU` runs a generator function in a forked process, as the real one does; all that passes is pickled.

    `decorated` has the functions with their durations, `workers` the processes; `quota`: why no GPU is lent.
    """

    def __init__(self) -> None:
        super().__init__("spaces")
        self.decorated, self.workers, self.quota = [], [], ""

    def GPU(self, duration):
        def decorate(task):
            self.decorated.append((task, duration))

            def handler(*args):
                if self.quota:
                    raise gr.Error(self.quota, title="ZeroGPU quota exceeded", print_exception=False)
                here, there = FORK.Pipe()
                stop = FORK.Event()
                worker = FORK.Process(target=self.work, args=(task, pickle.dumps(args), there, stop))
                self.workers.append(worker)
                worker.start()
                there.close()  # so that the end of the process is the end of its messages
                try:
                    while (message := here.recv())[0] == "yield":
                        yield message[1]
                    if message[0] == "raise":
                        raise gr.Error(message[1], title="ZeroGPU worker error", print_exception=False)
                finally:
                    stop.set()
                    here.close()
                    worker.join(60)

            return handler

        return decorate

    @staticmethod
    def work(task, args, connection, stop) -> None:
        steps = task(*pickle.loads(args))
        try:
            for step in steps:
                if stop.is_set():
                    return
                connection.send(("yield", step))
            connection.send(("end", None))
        except BrokenPipeError:
            steps.close()
        except Exception as error:
            connection.send(("raise", type(error).__name__))


@pytest.fixture
def spaces(monkeypatch) -> FakeSpaces:
    """A ZeroGPU Space, whose GPU is the CPU."""
    fake = FakeSpaces()
    monkeypatch.setitem(sys.modules, "spaces", fake)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(zero_gpu, "DEVICE", "cpu")
    short = refine.RefineConfig(schedule=((128, 4),), detail_steps=2, tuning_steps=1)
    monkeypatch.setitem(refine.REFINEMENTS, "precise", short)
    return fake


@pytest.fixture
def lent(spaces, editor) -> FaceEditor:
    """The editor of such a Space."""
    return editor.with_refiner(zero_gpu.lent_refiner())


@pytest.fixture
def two_threads():
    """OpenMP's threads are there before a process is forked, as on a page that has run for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1 << 20).exp().sum()
    yield
    torch.set_num_threads(before)


VISITOR = SimpleNamespace(session_hash="a visitor")


def page(editor) -> Callbacks:
    """The callbacks of the page in Chinese."""
    with gr.Blocks():
        return Callbacks(editor, Layout(editor.attributes, CHINESE, editor.noise_layers))


def fit(callbacks: Callbacks, photo: np.ndarray, progress=lambda share, desc: None) -> Visit:
    with callbacks.at_work(VISITOR, progress) as report:
        seen = Photo.of(b"", photo)
        return Visit.of_photo(callbacks.editor, seen, photo, "photo.png", "precise", 0, report)


def test_the_page_gets_the_same_code_from_a_lent_gpu(spaces, lent, editor, astronaut, two_threads):
    seen = []
    visit = fit(page(lent), astronaut, lambda share, desc: seen.append((share, desc)))
    assert [seconds for _, seconds in spaces.decorated] == [zero_gpu.SECONDS]
    assert [worker.exitcode for worker in spaces.workers] == [0]
    shares, messages = zip(*seen, strict=True)
    assert list(shares) == sorted(shares) and len(set(shares)) > 6 and shares[-1] == 1
    assert "正在寻找人脸" in messages and not any("Refining" in message for message in messages)

    torch.set_num_threads(1)  # as in the worker: sums are then made in the same order
    usual = fit(page(editor), astronaut)
    assert np.array_equal(visit.code, usual.code)
    assert visit.face.tuned.keys() == usual.face.tuned.keys() != set()
    assert all(np.array_equal(visit.face.tuned[name], usual.face.tuned[name]) for name in usual.face.tuned)
    assert len(spaces.workers) == 1


def test_a_visitor_who_cancels_gives_the_gpu_back(spaces, lent, astronaut):
    callbacks = page(lent)
    seen = []

    def progress(share: float, desc: str) -> None:
        seen.append(share)
        if share > 0:
            callbacks.stop(VISITOR)

    with pytest.raises(Cancelled):
        fit(callbacks, astronaut, progress)
    assert len(seen) == 2  # finding the face, one step
    assert [worker.exitcode for worker in spaces.workers] == [0]


def test_without_a_gpu_to_lend_the_page_says_so(spaces, lent, astronaut):
    spaces.quota = "You have exceeded your quota."
    with pytest.raises(InputError, match="You have exceeded your quota") as caught:
        fit(page(lent), astronaut)
    assert "GPU" in CHINESE.sentence(str(caught.value)) != str(caught.value)
    spaces.quota = ""
    refine.REFINEMENTS["precise"] = None  # restored by the fixture
    with pytest.raises(InputError, match="AttributeError"):
        fit(page(lent), astronaut)
    assert lent.invert(astronaut, "fast").tuned == {}


@pytest.fixture
def started(monkeypatch):
    """Start the page with an editor that draws cartoons; returns what it asked for."""

    def start() -> dict:
        asked, editor = {}, FakeEditor()
        editor.warm_up = lambda sizes, progress: asked.update(warm=True)
        editor.with_refiner = lambda refiner: asked.update(refiner=refiner, built="warm" in asked) or editor
        monkeypatch.setattr(FaceEditor, "from_pretrained", lambda **given: asked.update(given) or editor)
        open_page()
        return asked

    for name in (
        "DYSTYLE_BACKEND",
        "DYSTYLE_DEVICE",
        "DYSTYLE_ENCODER",
        "DYSTYLE_GPU_SECONDS",
        "DYSTYLE_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    return start


def test_on_zero_gpu_the_page_starts_on_the_cpu_with_one_decorated_function(spaces, started, monkeypatch):
    monkeypatch.setenv("DYSTYLE_GPU_SECONDS", "45")
    monkeypatch.setenv("DYSTYLE_DEVICE", "cuda")
    asked = started()
    assert asked["device"] == "cpu" and asked["backend"] == "auto" and callable(asked["refiner"])
    assert asked["built"]  # before `spaces` was imported
    assert [seconds for _, seconds in spaces.decorated] == [45]
    for wrong in ("soon", "0", "-3"):
        monkeypatch.setenv("DYSTYLE_GPU_SECONDS", wrong)
        with pytest.raises(InputError, match="DYSTYLE_GPU_SECONDS"):
            zero_gpu.lent_refiner()


@pytest.mark.parametrize("flag", [None, "", "false"])
def test_elsewhere_spaces_is_not_needed(flag, started, monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it would fail
    if flag is None:
        monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    else:
        monkeypatch.setenv("SPACES_ZERO_GPU", flag)
    settings = {"backend": "auto", "encoder": "fast", "device": "auto", "url": None}
    assert started() == settings | {"warm": True}
