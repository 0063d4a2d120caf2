"""The server on Ray: batches, replicas that are killed and replaced under load, and too many at once.

Ray is not among what the tests install: pip install "ray[serve]", and run this file.
"""

import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

ray = pytest.importorskip("ray")

from ray import serve  # noqa: E402

from dystyle import FaceEditor  # noqa: E402
from dystyle.engines import served  # noqa: E402
from dystyle.errors import InputError  # noqa: E402
from dystyle.serve.deployments import APP, RENDERING, Call, ServeConfig, answer, application  # noqa: E402

CONFIG = ServeConfig(backend="onnx", least=1, most=1, batch=4, queue=64)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port, metrics = free_port(), free_port()
    ray.init(num_cpus=4, include_dashboard=False, _metrics_export_port=metrics, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(CONFIG), name=APP, route_prefix="/")
    os.environ["METRICS"] = str(metrics)
    yield f"http://127.0.0.1:{port}"
    os.environ.pop("METRICS")
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def remote(url) -> FaceEditor:
    return FaceEditor.from_pretrained(backend="serve", url=url)


def test_calls_of_one_kind_run_together_and_each_gets_its_own(editor):
    ran, backend = [], editor.backend

    def run(name, x, weights=None, **others):
        ran.append((name, len(x)))
        return backend.run(name, x, weights, **others)

    codes = np.stack([editor.sample(seed) for seed in range(4)])
    renders = [Call("run", "generator_128", codes[i : i + n]) for i, n in ((0, 1), (1, 2), (3, 1))]
    reads = [Call("run", "reader", np.zeros((1, 256, 256, 3), np.uint8))]
    wrong = [Call("run", "reader", np.zeros((1, 9, 9, 3), np.uint8))]
    ages = [Call("edit", "editor", codes[i : i + 1], {"age": np.float32([20 * i + 10])}) for i in range(3)]
    calls = [renders[0], *reads, *wrong, renders[1], *ages, renders[2]]
    answers = answer(SimpleNamespace(run=run, edit=backend.edit), calls)
    assert sorted(ran) == [("generator_128", 4), ("reader", 1), ("reader", 1)]
    assert isinstance(answers[2], InputError)
    whole = backend.run("generator_128", codes)[0]
    parts = np.concatenate([answers[i][0] for i in (0, 3, 7)])
    assert np.abs(parts.astype(int) - whole).max() <= 1
    for i in range(3):
        edited = editor.edit(codes[i], {"age": 20 * i + 10})
        np.testing.assert_allclose(answers[4 + i][0][0], edited, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"least": 0}, {"least": 3, "most": 2}, {"batch": 0}, {"queue": -1}, {"backend": "torch"}]
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="takes? "):
        ServeConfig(**wrong).check()


def test_a_served_edit_is_the_same(remote, editor):
    code = editor.sample(9)
    edited = remote.edit(code, {"age": 60, "smile": 1})
    np.testing.assert_allclose(edited, editor.edit(code, {"age": 60, "smile": 1}), atol=1e-5)
    difference = remote.synthesize(edited, 256).astype(int) - editor.synthesize(edited, 256)
    assert np.abs(difference).max() <= 1


def under_load(remote, disturb, least: int) -> int:
    """Ask for pictures with four clients until `disturb` is over; how many came, none of them a failure."""
    over, come = threading.Event(), []

    def ask(client: int) -> None:
        while not over.is_set() or len(come) < least:
            come.append(remote.synthesize(remote.sample(client), 128).shape)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, client) for client in range(4)]
        try:
            disturb()
        finally:
            over.set()
        for future in asking:
            future.result()
    return len(come)


def replica(part: str) -> psutil.Process:
    """A running replica's process."""
    children = psutil.Process().children(recursive=True)
    return next(p for p in children if any(f"ServeReplica:{APP}:{part}" in word for word in p.cmdline()))


def test_a_killed_replica_costs_no_request(remote):
    before = replica(RENDERING)

    def kill() -> None:
        before.kill()
        before.wait()
        remote.synthesize(remote.sample(0), 128)

    assert under_load(remote, kill, 20) >= 20
    assert replica(RENDERING).pid != before.pid


def test_new_weights_take_over_while_people_work(remote):
    before = replica(RENDERING)
    assert under_load(remote, lambda: serve.run(application(CONFIG), name=APP, route_prefix="/"), 20) >= 20
    assert replica(RENDERING).pid != before.pid


def test_too_many_at_once_are_told_so(remote, url, monkeypatch):
    small = ServeConfig(backend="onnx", batch=1, queue=1)
    serve.run(application(small), name=APP, route_prefix="/")
    monkeypatch.setattr(served, "PAUSES", ())
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(remote.synthesize, remote.sample(seed), 1024) for seed in range(24)]
    said = [str(future.exception()) for future in asked if future.exception()]
    assert 0 < len(said) < 24
    assert all("busy" in text or "backpressure" in text for text in said)
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['METRICS']}/metrics") as metrics:
        assert b"ray_serve_deployment_request_counter" in metrics.read()
