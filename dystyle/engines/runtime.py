"""Run engines with ONNX Runtime or OpenVINO; build them on first use.

Imports no torch unless an engine is missing.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import onnx
import onnxruntime
from filelock import FileLock

from dystyle.engines.editor_graph import build_editor_graph
from dystyle.errors import InputError
from dystyle.weights import cache_folder, load, resolve

# What an engine is made from: a change in any of these makes a new one.
_CODE = ("generators", "encoders", "knowledge", "engines", "ops")
_WEIGHTS = {
    "generator_1024": ("mobile_stylegan",),
    "generator_256": ("mobile_stylegan", "preview_heads"),
    "generator_128": ("mobile_stylegan", "preview_heads"),
    "encoder": ("encoder",),
    "reader": tuple(
        f"knowledge/{n}" for n in ("facemesh", "iris", "emotion", "age_gender", "calibration", "probe")
    ),
    "identity": ("knowledge/faceres",),
    "detector": ("knowledge/blazeface",),
    "mesh": ("knowledge/facemesh",),
}
# How many stay open. A page never stops to ask for new ones of the last two: configurations of the editor, 15
# to 50 MB each, and generators tuned to one face, two sizes for each of three faces.
GRAPHS_OPEN, EDITORS_OPEN, TUNED_OPEN = 16, 24, 6
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


@cache
def fingerprint(name: str) -> str:
    """Hash over an engine's weights and the code that makes it; part of its file name."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder in _CODE:
        for file in sorted((package / folder).glob("*.py")):
            digest.update(file.read_bytes())
    graph, *choice = name.split(":", 1)
    for weights in choice or _WEIGHTS[graph]:
        with resolve(weights).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def engine_file(name: str) -> Path:
    """The ONNX file of an engine in the user's cache, built if it is not there."""
    graph, *choice = name.split(":", 1)
    # "encoder:e4e" is kept as encoder_e4e, beside the bundled encoder's engine.
    title = "_".join([graph, *(re.sub(r"\W", "_", Path(given).stem)[:60] for given in choice)])
    file = cache_folder() / "engines" / f"{title}-{fingerprint(name)}.onnx"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            from dystyle.engines.graphs import export

            print(f"building engine {name}", flush=True)
            for stale in file.parent.glob(f"{title}-*.onnx"):
                stale.unlink()
            partial = file.with_suffix(".partial")
            export(name, partial)
            partial.replace(file)
    return file


def _digest(name: str, weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(name.encode())
    for weight in weights.values():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


def _tuned_model(file: Path, weights: Mapping[str, np.ndarray]) -> bytes:
    """A generator's engine with other weights, by their names in the generator."""
    model = onnx.load(file)
    for initializer in model.graph.initializer:
        weight = weights.get(initializer.name.removeprefix("generator."))
        if weight is not None:
            initializer.CopyFrom(onnx.numpy_helper.from_array(weight, initializer.name))
    return model.SerializeToString()


Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


class Engines(ABC):
    """All graphs, compiled when first used; safe to share between threads."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[str, Run] = OrderedDict()
        self._editors: OrderedDict[str, Run] = OrderedDict()
        self._tuned: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    @abstractmethod
    def compile(self, name: str, model: Path | bytes) -> Run:
        """Make an ONNX model ready to run: inputs by name -> outputs."""

    def _open(self, opened: OrderedDict[str, Run], most: int, key: str, compile: Callable[[], Run]) -> Run:
        """What is open under this key, compiled if need be; only the `most` used last stay open."""
        with self._lock:
            if key not in opened:
                opened[key] = compile()
                while len(opened) > most:
                    opened.popitem(last=False)
            opened.move_to_end(key)
            return opened[key]

    def run(
        self, name: str, x: np.ndarray, weights: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The outputs of a graph (see `dystyle.engines.graphs`) for a batch.

        Args:
            weights: of a generator tuned to one face, by their names in it.
        """
        opened, most, key = self._graphs, GRAPHS_OPEN, name
        if weights:
            opened, most, key = self._tuned, TUNED_OPEN, _digest(name, weights)

        def compile() -> Run:
            file = engine_file(name)
            return self.compile(name, _tuned_model(file, weights) if weights else file)

        return self._open(opened, most, key, compile)({"input": x})

    def edit(self, codes: np.ndarray, configuration: dict[str, float]) -> np.ndarray:
        """Edited codes (b, 18, 512) for a configuration with at least one attribute, in table order."""
        key = "editor:" + ",".join(configuration)

        def compile() -> Run:
            graph = build_editor_graph(*load("dystyle"), list(configuration))
            return self.compile(key, graph.SerializeToString())

        targets = np.tile(np.float32(list(configuration.values())), (len(codes), 1))
        run = self._open(self._editors, EDITORS_OPEN, key, compile)
        return run({"codes": codes, "targets": targets})[0]


class OnnxBackend(Engines):
    """Engines on ONNX Runtime.

    Args:
        device: "cpu", "cuda" or "tensorrt".

    Raises:
        InputError: ONNX Runtime lacks the device's execution provider.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        wanted = _PROVIDERS[device]
        if wanted[0] not in onnxruntime.get_available_providers():
            raise InputError(
                f"ONNX Runtime here has no {wanted[0]}; install requirements-gpu.txt or use device='cpu'."
            )
        self.providers = list(wanted)

    def compile(self, name: str, model: Path | bytes) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(os.cpu_count() or 1, 8)
        # Spinning workers would take the cores from whatever else serves the page.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=self.providers)
        return lambda feeds: session.run(None, feeds)


class OpenVinoBackend(Engines):
    """Engines on OpenVINO: on CPUs with bfloat16 units, pictures in about half of ONNX Runtime's time.

    Pictures are rendered in bfloat16 where the CPU has it, everything else runs in float32.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import openvino
        except ImportError as error:
            raise InputError("OpenVINO is not installed; pip install openvino, or use 'onnx'.") from error
        self._core = openvino.Core()
        self._bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def compile(self, name: str, model: Path | bytes) -> Run:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if self._bf16 and name.startswith("generator") else "f32",
            "CACHE_DIR": str(cache_folder() / "engines" / "openvino"),
        }
        compiled = self._core.compile_model(self._core.read_model(model), "CPU", options)
        idle: SimpleQueue = SimpleQueue()  # a request serves one thread at a time

        def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            request = idle.get() if not idle.empty() else compiled.create_infer_request()
            try:
                return list(request.infer(feeds).values())
            finally:
                idle.put(request)

        return run


def runtimes() -> dict[str, str]:
    """Why each runtime cannot be used here, by name; an empty reason if it can."""
    providers = onnxruntime.get_available_providers()
    reasons = {"onnx": "", "openvino": "", "cuda": "", "tensorrt": ""}
    if importlib.util.find_spec("openvino") is None:
        reasons["openvino"] = "the package is missing: pip install openvino"
    for name in ("cuda", "tensorrt"):
        if _PROVIDERS[name][0] not in providers:
            reasons[name] = f"ONNX Runtime here has no {_PROVIDERS[name][0]}: install requirements-gpu.txt"
    if not reasons["tensorrt"] and importlib.util.find_spec("tensorrt") is None:
        reasons["tensorrt"] = "the package is missing: install requirements-gpu.txt"
    return reasons


def fastest_on_cpu() -> str:
    """The backend that renders fastest on this machine's CPU, measured once and remembered."""
    candidates = [name for name in ("onnx", "openvino") if not runtimes()[name]]
    if len(candidates) == 1:
        return candidates[0]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "openvino")]
    machine = ", ".join((platform.node(), f"{os.cpu_count()} cores", *versions))
    file = cache_folder() / "engines" / "fastest.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):  # not there yet, or damaged
        known = {}
    if known.get(machine) not in candidates:
        seconds = {name: _render_seconds(CPU_BACKENDS[name]()) for name in candidates}
        known[machine] = min(seconds, key=seconds.get)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=2))
    return known[machine]


def _render_seconds(backend: Engines) -> float:
    """Median of three renders at 1024 px, after a first one."""
    code = np.repeat(load("mobile_stylegan")[0]["mean_w"][None, None], 18, axis=1)
    times = [time.perf_counter()]
    for _ in range(4):
        backend.run("generator_1024", code)
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)[1:]))


CPU_BACKENDS: dict[str, type[Engines]] = {"onnx": OnnxBackend, "openvino": OpenVinoBackend}
