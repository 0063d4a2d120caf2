"""Choose the device and the backend: what was asked for, or what is fastest here."""

import importlib.metadata
import platform
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from dystyle.backend import Backend
from dystyle.cores import cores
from dystyle.engines.hardware import has_gpu, runtimes, tensorrt_runtime
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from dystyle.engines.served import ServedBackend
from dystyle.errors import InputError, needed
from dystyle.generators.facts import GeneratorFacts
from dystyle.weights import cache_folder, recall, remember

CPU_BACKENDS: dict[str, type[OnnxBackend]] = {"onnx": OnnxBackend, "openvino": OpenVinoBackend}


def choose_backend(device: str, backend: str, url: str | None = None) -> Backend:
    """What runs the networks.

    Args:
        device: "cpu" or "cuda".
        backend: "onnx", "openvino", "torch", "tensorrt", "serve", or "auto" for the fastest here.
        url: of the server, for "serve".

    Raises:
        InputError: it cannot be used here, or not on this device.
    """
    if backend == "serve":
        return ServedBackend(url)
    backend = auto_backend(device) if backend == "auto" else backend
    if backend == "torch":
        with needed("torch", "backend='torch'"):
            from dystyle.engines.graphs import TorchBackend

        if device == "cuda" and not has_gpu():
            raise InputError("PyTorch finds no CUDA device here; use device='cpu'.")
        return TorchBackend(device)
    if device == "cpu" and backend in CPU_BACKENDS:
        return CPU_BACKENDS[backend]()
    if backend == "openvino":
        raise InputError(f"backend='openvino' runs on the CPU, not on '{device}'.")
    return OnnxBackend((tensorrt_runtime() or "tensorrt") if backend == "tensorrt" else device)


def auto_device(backend: str) -> str:
    """ "cuda" if there is a GPU that the backend, which may be "auto", can use; else "cpu"."""
    can = {
        "onnx": not runtimes()["cuda"],
        "openvino": False,
        "serve": False,
        "torch": has_gpu(),
        "tensorrt": tensorrt_runtime() is not None,
    }
    return "cuda" if can.get(backend, any(can.values())) else "cpu"


def auto_backend(device: str) -> str:
    """The fastest backend that can be used on a device: on a GPU TensorRT, ONNX Runtime, then PyTorch."""
    if device == "cpu":
        return fastest_on_cpu()
    if tensorrt_runtime():
        return "tensorrt"
    return "torch" if runtimes()["cuda"] and has_gpu() else "onnx"


def fastest_on_cpu() -> str:
    """The backend that renders fastest on this kind of machine, measured once and remembered."""
    candidates = [name for name in CPU_BACKENDS if not runtimes()[name]]
    if len(candidates) == 1:
        return candidates[0]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "openvino")]
    machine = ", ".join((_processor(), f"{cores()} cores", *versions))
    file = cache_folder() / "engines" / "fastest.json"
    known = recall(file)
    if known.get(machine) not in candidates:
        seconds = {name: _render_seconds(CPU_BACKENDS[name]()) for name in candidates}
        known[machine] = min(seconds, key=seconds.get)
        remember(file, known)
    return known[machine]


def _processor() -> str:
    """The processor's name. A container's name would be another at every start."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _render_seconds(backend: Backend) -> float:
    """The least of four previews after a first one: other work only makes them longer.

    Full pictures stand in the same proportion, and would take a process's first seconds.
    """
    code = GeneratorFacts.load().sample(0, truncation=0)[None]
    times = [time.perf_counter()]
    for _ in range(5):
        backend.run("decoder_256", *backend.run("features", code), codes=code)
        times.append(time.perf_counter())
    return float(np.diff(times)[1:].min())
