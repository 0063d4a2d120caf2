"""Engines on OpenVINO."""

import importlib.metadata
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from weakref import WeakSet

import numpy as np
from filelock import FileLock

from dystyle.cores import cores, limited
from dystyle.engines.cache import compiled_folder
from dystyle.engines.hardware import PICTURES, PRECISIONS
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.opened import Run
from dystyle.errors import InputError
from dystyle.memory import forget_mapped, return_freed_memory


class OpenVinoBackend(OnnxBackend):
    """Engines on OpenVINO: on CPUs with bfloat16 units, pictures in about half of ONNX Runtime's time.

    Pictures are rendered in bfloat16 where the CPU has it. Everything else needs float32 and stays with ONNX
    Runtime, which then is as fast, takes half the memory, and opens a new configuration in a fraction of the
    time.

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
        self._listing = threading.Lock()

    def trim(self) -> None:
        with self._listing:
            listed = list(self._compiled)
        for compiled in listed:
            with suppress(RuntimeError):  # it is running, and needs its memory
                compiled.release_memory()
        return_freed_memory()

    def compile(self, name: str, model: Path | bytes) -> Run:
        if not name.startswith(PICTURES):
            return super().compile(name, model)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[self.precision],
        }
        if limited():
            options["INFERENCE_NUM_THREADS"] = cores()
        folder = compiled_folder("openvino", importlib.metadata.version("openvino"), self.precision)
        if folder is not None and isinstance(model, Path):  # a generator tuned to one face is not met again
            options["CACHE_DIR"] = str(folder)
        read = self._core.read_model(model)
        shapes = {value.any_name: value.partial_shape for value in read.inputs}
        batched = [key for key, shape in shapes.items() if shape[0].is_dynamic]
        # For one picture at a time: of shapes that it knows, OpenVINO plans the memory, and takes half of it.
        read.reshape({key: [1, *(side.get_length() for side in list(shapes[key])[1:])] for key in batched})
        # Two processes that write one cached engine would fail.
        with nullcontext() if folder is None else FileLock(folder / "compile.lock"):
            compiled = self._core.compile_model(read, "CPU", options)
        del read
        if folder is not None:  # weights have their copies by now, in the order and precision of the kernels
            forget_mapped(folder)
        with self._listing:
            self._compiled.add(compiled)

        def run_one(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            # A request takes no time to make, and one that is kept would keep its inputs and outputs.
            return list(
                compiled.create_infer_request().infer(feeds, share_inputs=True, share_outputs=True).values()
            )

        def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            count = len(feeds[batched[0]])
            if count == 1:
                return run_one(feeds)
            parts = [
                run_one({key: x[i : i + 1] if key in batched else x for key, x in feeds.items()})
                for i in range(count)
            ]
            return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

        return run
