"""Run engines with ONNX Runtime (CPU, CUDA, TensorRT) or OpenVINO; build them on first use.

Imports no torch unless an engine is missing that is exported from it; generators and editors are not.
"""

import ctypes
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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from weakref import WeakSet

import numpy as np
import onnx
import onnxruntime
from filelock import FileLock

from dystyle.engines.editor_graph import build_editor_graph, map_shared_weights, write_shared_weights
from dystyle.engines.generator_graph import ADJUSTABLE, build_generator_graph
from dystyle.errors import InputError
from dystyle.memory import return_freed_memory
from dystyle.weights import cache_folder, load, resolve

# What an engine is made from: a change in any of these makes a new one.
_EXPORTED = ("encoders/*.py", "knowledge/*.py", "engines/graphs.py")
_ASSEMBLED = "engines/onnx_graph.py"
_CODE = {
    "generator": ("engines/generator_graph.py", _ASSEMBLED),
    "editor": ("engines/editor_graph.py", _ASSEMBLED),
    "stylegan2": ("generators/*.py", "ops/*.py", "engines/graphs.py"),
}
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
    "editor": ("dystyle",),
}
# How many stay open. A page never stops to ask for new ones of the last two: configurations of the editor,
# and generators tuned to one face (two sizes) or with inputs for styles and noise (likewise). While they run,
# two sizes take a quarter of a gigabyte.
GRAPHS_OPEN, EDITORS_OPEN, TUNED_OPEN = 16, 8, 4


@cache
def fingerprint(name: str) -> str:
    """Hash over an engine's weights and the code that makes it; part of its file name."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    graph, *choice = name.split(":", 1)
    kind = graph.split("_")[0]
    for pattern in _CODE.get("stylegan2" if kind == "generator" and choice else kind, _EXPORTED):
        for file in sorted(package.glob(pattern)):
            digest.update(file.read_bytes())
    for weights in choice or _WEIGHTS[graph]:
        with resolve(weights).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def engine_file(name: str) -> Path:
    """The file of an engine in the user's cache, built if it is not there.

    ONNX, and for "editor", or "editor:PATH" of a trained one, the weights of all its configurations.
    """
    graph, *choice = name.split(":", 1)
    # "encoder:e4e" is kept as encoder_e4e, beside the bundled encoder's engine.
    title = "_".join([graph, *(re.sub(r"\W", "_", Path(given).stem)[:60] for given in choice)])
    suffix = ".weights" if graph == "editor" else ".onnx"
    file = cache_folder() / "engines" / f"{title}-{fingerprint(name)}{suffix}"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            for stale in file.parent.glob(f"{title}-*"):
                if stale.suffix in (".onnx", ".weights", ".json"):
                    stale.unlink()
            partial = file.with_suffix(".partial")
            if graph == "editor":
                index = write_shared_weights(*load(*choice or ("dystyle",)), partial)
                file.with_suffix(".json").write_text(index)
            elif graph.startswith("generator") and not choice:
                partial.write_bytes(_generator_model(graph, {}).SerializeToString())
            else:
                from dystyle.engines.graphs import export

                print(f"building engine {name}", flush=True)
                export(name, partial)
            partial.replace(file)
    return file


def configuration_file(names: Iterable[str], editor: str = "editor") -> Path:
    """The graph of one attribute configuration in the user's cache, assembled if it is not there."""
    weights = engine_file(editor)
    file = weights.with_name(f"{weights.stem}-{'+'.join(names)}.onnx")
    if not file.exists():
        partial = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        partial.write_bytes(build_editor_graph(weights, list(names)).SerializeToString())
        partial.replace(file)
    return file


@cache
def _shared_weights(file: Path) -> dict[str, onnxruntime.OrtValue]:
    """An editor's weights by name, once for all sessions, which would each map the file anew."""
    tensors = map_shared_weights(file)
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in tensors.items()}


def _generator_model(
    graph: str, tuned: Mapping[str, np.ndarray], adjustable: bool = False
) -> onnx.ModelProto:
    """A generator's ONNX model, with other weights by their names in the generator.

    Args:
        adjustable: with inputs for styles and noise, see `build_generator_graph`.
    """
    if ":" in graph:  # a StyleGAN2, exported from PyTorch
        model = onnx.load(engine_file(graph))
        for initializer in model.graph.initializer:
            weight = tuned.get(initializer.name.removeprefix("generator."))
            if weight is not None:
                initializer.CopyFrom(onnx.numpy_helper.from_array(weight, initializer.name))
        return model
    tensors = load("mobile_stylegan")[0]
    tensors |= {f"previews.{key}": value for key, value in load("preview_heads")[0].items()}
    tensors = {key: np.asarray(value, np.float32) for key, value in (tensors | dict(tuned)).items()}
    return build_generator_graph(tensors, int(graph.removeprefix("generator_")), adjustable)


def _digest(name: str, weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(name.encode())
    for weight in weights.values():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


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

    @abstractmethod
    def _trim(self) -> None:
        """Give back what engines keep between runs, where the runtime lets them; they run as before."""

    def release_memory(self) -> None:
        """Make room for something large: close all engines but the editor's. What runs ends first; the next
        use opens an engine again from the cache, in some tenths of a second, or makes one tuned to a face.
        """
        with self._lock:
            self._graphs.clear()
            self._tuned.clear()
        return_freed_memory()

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
            weights: of the default generator, by their names in it: those tuned to one face, which are
                compiled into an engine of its own, and styles and noise, either all or none of them, which
                are inputs of one engine.
        """
        if not weights:
            run = self._open(self._graphs, GRAPHS_OPEN, name, lambda: self.compile(name, engine_file(name)))
            return run({"input": x})
        inputs = {k: w for k, w in weights.items() if ":" not in name and k.endswith(ADJUSTABLE)}
        tuned = {k: w for k, w in weights.items() if k not in inputs}

        def compile() -> Run:
            model = _generator_model(name, tuned, adjustable=bool(inputs))
            self._trim()  # for one more engine
            used = [value.name for value in model.graph.input]
            run = self.compile(name, model.SerializeToString())
            del model
            return_freed_memory()  # several times the weights' size
            return lambda feeds: run({key: feeds[key] for key in used})

        key = _digest(f"{name}, adjustable" if inputs else name, tuned)
        return self._open(self._tuned, TUNED_OPEN, key, compile)({"input": x, **inputs})

    def edit(self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor") -> np.ndarray:
        """Edited codes (b, 18, 512) for a configuration with at least one attribute, in table order."""
        key = f"{editor}:{','.join(configuration)}"

        def compile() -> Run:
            return self.compile(key, configuration_file(configuration, editor))

        targets = np.tile(np.float32(list(configuration.values())), (len(codes), 1))
        run = self._open(self._editors, EDITORS_OPEN, key, compile)
        return run({"codes": codes, "targets": targets})[0]


class OnnxBackend(Engines):
    """Engines on ONNX Runtime.

    Args:
        device: "cpu", "cuda", "tensorrt" (the `tensorrt` package) or "tensorrt-rtx" (the plug-in).
        precision: "fp32", or for the pictures on a GPU what `PRECISIONS` lists.

    Raises:
        InputError: the device cannot be used here, or not in this precision.
    """

    def __init__(self, device: str = "cpu", precision: str = "fp32") -> None:
        super().__init__()
        if reason := runtimes()["onnx" if device == "cpu" else device]:
            raise InputError(f"'{device}' is not available: {reason}.")
        if precision not in PRECISIONS["onnx" if device == "cpu" else device]:
            raise InputError(f"'{device}' does not compute in {precision}; leave it at fp32.")
        self.device, self.precision = device, precision

    def release_memory(self) -> None:
        if self.device == "cpu":  # a GPU's engines open slowly, and what they take is the GPU's
            super().release_memory()

    def _trim(self) -> None:
        """ONNX Runtime's CPU arena has no call for it."""

    def compile(self, name: str, model: Path | bytes) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(os.cpu_count() or 1, 8)
        # Spinning workers would take the cores from whatever else serves the page.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.device == "cpu" and name.startswith("editor"):
            for weight, value in _shared_weights(engine_file(name.rsplit(":", 1)[0])).items():
                options.add_initializer(weight, value)
        if self.device == "cuda" and self.precision == "fp16" and name.startswith("generator"):
            model = halve(model)
        if self.device == "tensorrt-rtx":
            options.add_provider_for_devices(_rtx_devices(), _rtx_options(name))
            session = onnxruntime.InferenceSession(model, options)
        else:
            providers = _providers(self.device, name, self.precision)
            session = onnxruntime.InferenceSession(model, options, providers=providers)
            # ONNX Runtime falls back to the CPU silently.
            if session.get_providers()[0] != _PROVIDERS[self.device]:
                raise InputError(f"ONNX Runtime could not start '{self.device}'; check the CUDA libraries.")
        if self.device == "cpu":
            return lambda feeds: session.run(None, feeds)
        return lambda feeds: run_bound(session, feeds, "cuda")


def halve(model: Path | bytes) -> bytes:
    """An ONNX model that computes in float16, with inputs and outputs of the types they had."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    loaded = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
    return convert_float_to_float16(loaded, keep_io_types=True).SerializeToString()


def run_bound(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray], device: str
) -> list[np.ndarray]:
    """Run with outputs bound to the device: one copy in, one copy out, none between the nodes."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
LARGEST_BATCH = 8  # of TensorRT's engines
_SHAPES = {"generator": "18x512", "detector": "3x256x256", "mesh": "3x192x192"}


def profile_shapes(name: str) -> dict[str, str]:
    """Smallest, usual and largest input shapes of an engine, as TensorRT's profiles want them."""
    if name.startswith("editor"):
        attributes = name.rsplit(":", 1)[1].count(",") + 1
        inputs = {"codes": "18x512", "targets": str(attributes)}
    else:
        inputs = {"input": _SHAPES.get(re.split("[_:]", name)[0], "256x256x3")}
    batches = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
    return {k: ",".join(f"{i}:{batch}x{s}" for i, s in inputs.items()) for k, batch in batches.items()}


def _providers(device: str, name: str, precision: str) -> list:
    """Execution providers, the first choice first, with their options."""
    if device == "cpu":
        return [_PROVIDERS["cpu"]]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN where pip has put them
    # By default float32 would mean TF32, which keeps ten bits of the mantissa.
    rest = [(_PROVIDERS["cuda"], {"use_tf32": "0"}), _PROVIDERS["cpu"]]
    if device == "cuda":
        return rest
    import tensorrt  # opens the libraries for the provider

    # One folder a version; the provider puts the GPU's architecture into the files' names.
    folder = cache_folder() / "engines" / f"tensorrt-{tensorrt.__version__}-{precision}"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        **{f"trt_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(name).items()},
    }
    if name.startswith("generator") and precision != "fp32":
        options[f"trt_{precision}_enable"] = True
    return [(_PROVIDERS["tensorrt"], options), *rest]


@cache
def _rtx_devices() -> list:
    """The GPUs that the TensorRT-RTX plug-in can use."""
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    try:
        onnxruntime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        reason = str(error).splitlines()[0]
        raise InputError(f"The TensorRT-RTX plug-in could not be opened ({reason}).") from error
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]
    if not devices:
        raise InputError("The TensorRT-RTX plug-in found no GPU that it supports.")
    return devices


def _rtx_options(name: str) -> dict[str, str]:
    version = importlib.metadata.version("onnxruntime-ep-nv-tensorrt-rtx-cu13")
    folder = cache_folder() / "engines" / f"tensorrt-rtx-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {f"nv_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(name).items()}
    return {"nv_runtime_cache_path": str(folder), **shapes}


class OpenVinoBackend(OnnxBackend):
    """Engines on OpenVINO: on CPUs with bfloat16 units, pictures in about half of ONNX Runtime's time.

    Pictures are rendered in bfloat16 where the CPU has it, everything else runs in float32. Editors stay
    with ONNX Runtime, which opens a new configuration in a fraction of the time.

    Args:
        precision: of the pictures: "fp32", "bf16", "fp16", or None for the fastest that this CPU has.

    Raises:
        InputError: OpenVINO is not installed, or this CPU lacks the precision.
    """

    def __init__(self, precision: str | None = None) -> None:
        super().__init__()
        try:
            import openvino
        except ImportError as error:
            raise InputError("OpenVINO is not installed; pip install openvino, or use 'onnx'.") from error
        self._core = openvino.Core()
        units = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = precision or ("bf16" if "BF16" in units else "fp32")
        if precision not in PRECISIONS["openvino"] or precision.upper() not in units:
            raise InputError(f"OpenVINO on this CPU does not compute in {precision}; leave it out.")
        self.precision = precision
        # The first array sets up the binding to NumPy; two threads with a first one each can wait for each
        # other for ever.
        openvino.Tensor(np.zeros(1, np.float32))
        self._compiled: WeakSet = WeakSet()

    def _trim(self) -> None:
        for compiled in list(self._compiled):
            with suppress(RuntimeError):  # it is running, and needs its memory
                compiled.release_memory()
        return_freed_memory()

    def compile(self, name: str, model: Path | bytes) -> Run:
        if name.startswith("editor"):
            return super().compile(name, model)
        hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[self.precision]
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": hint if name.startswith("generator") else "f32",
        }
        folder = cache_folder() / "engines" / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(model, Path):  # a generator tuned to one face is not met again
            options["CACHE_DIR"] = str(folder)
        with FileLock(folder / "compile.lock"):  # two processes that write one cached engine would fail
            compiled = self._core.compile_model(self._core.read_model(model), "CPU", options)
        self._compiled.add(compiled)
        idle: SimpleQueue = SimpleQueue()  # a request serves one thread at a time

        def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            request = idle.get() if not idle.empty() else compiled.create_infer_request()
            try:
                return list(request.infer(feeds).values())
            finally:
                idle.put(request)

        return run


# Precisions in which pictures can be rendered. int8 is none of them: with weights rounded to 8 bits a kernel
# and activations to 8 bits a layer, the preview keeps 30 dB to the float32 one, where 45 are asked for.
PRECISIONS = {
    "onnx": ("fp32",),
    "openvino": ("fp32", "bf16", "fp16"),
    "cuda": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "bf16"),
    "tensorrt-rtx": ("fp32",),
}


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def has_gpu() -> bool:
    """Whether PyTorch can use a CUDA device; without a driver it is not imported for the answer."""
    if not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


@cache
def runtimes() -> dict[str, str]:
    """Why each runtime cannot be used here, by name; an empty reason if it can."""
    reasons = dict.fromkeys(PRECISIONS, "")
    if importlib.util.find_spec("openvino") is None:
        reasons["openvino"] = "the package is missing: pip install openvino"
    for name in ("cuda", "tensorrt"):
        if _PROVIDERS[name] not in onnxruntime.get_available_providers():
            reasons[name] = f"ONNX Runtime here has no {_PROVIDERS[name]}: install requirements-gpu.txt"
    for name, package in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx")):
        if not reasons[name] and importlib.util.find_spec(package) is None:
            reasons[name] = f"the package {package} is missing: install requirements-gpu.txt"
    if not _has_driver():
        driver = "there is no NVIDIA driver (libcuda) and so no CUDA device"
        reasons |= {n: reasons[n] or driver for n in ("cuda", "tensorrt", "tensorrt-rtx")}
    return reasons


def tensorrt_runtime() -> str | None:
    """The TensorRT that can be used here: the package, else the plug-in, else none."""
    return next((name for name in ("tensorrt", "tensorrt-rtx") if not runtimes()[name]), None)


def auto_device(backend: str) -> str:
    """ "cuda" if there is a GPU that the backend, which may be "auto", can use; else "cpu"."""
    if backend == "openvino" or (backend == "onnx" and runtimes()["cuda"]):
        return "cpu"
    return "cuda" if has_gpu() else "cpu"


def auto_backend(device: str) -> str:
    """The fastest backend that can be used on a device: on a GPU TensorRT, ONNX Runtime, then PyTorch."""
    if device == "cpu":
        return fastest_on_cpu()
    if tensorrt_runtime():
        return "tensorrt"
    return "torch" if runtimes()["cuda"] and has_gpu() else "onnx"


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
