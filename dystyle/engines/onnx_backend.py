"""Engines on ONNX Runtime: CPU, CUDA, TensorRT."""

import threading
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnxruntime

from dystyle.cores import cores
from dystyle.engines.cache import editor_weights
from dystyle.engines.compiled import CompiledBackend
from dystyle.engines.editor_graph import EditorWeights
from dystyle.engines.hardware import PICTURES, PRECISIONS, PROVIDERS, runtimes
from dystyle.engines.opened import Run
from dystyle.engines.tensorrt import rtx_devices, rtx_options, tensorrt_options
from dystyle.errors import InputError


class OnnxBackend(CompiledBackend):
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

    def trim(self) -> None:
        """ONNX Runtime's CPU arena has no call for it."""

    def compile(self, name: str, model: Path | bytes) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(cores(), 8)
        # Spinning workers would take the cores from whatever else serves the page.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.device == "cpu":
            # Keeping memory for the next run makes pictures a third faster, and nothing else; planning its
            # places, by the shapes of the first run, would keep it twice.
            options.enable_cpu_mem_arena = name.startswith(PICTURES)
            options.enable_mem_pattern = not options.enable_cpu_mem_arena
        if name.startswith("editor"):
            self._share_weights(options, editor_weights(name.rsplit(":", 1)[0]), isinstance(model, bytes))
        if self.device == "cuda" and self.precision == "fp16" and name.startswith(PICTURES):
            model = halve(model)
        if self.device == "tensorrt-rtx":
            options.add_provider_for_devices(rtx_devices(), rtx_options(model))
            session = onnxruntime.InferenceSession(model, options)
        else:
            providers = _providers(self.device, name, self.precision, model)
            session = onnxruntime.InferenceSession(model, options, providers=providers)
            # ONNX Runtime falls back to the CPU silently.
            if session.get_providers()[0] != PROVIDERS[self.device]:
                raise InputError(f"ONNX Runtime could not start '{self.device}'; check the CUDA libraries.")
        if self.device == "cpu":
            return lambda feeds: session.run(None, feeds)
        return lambda feeds: run_bound(session, feeds, "cuda")

    def _share_weights(
        self, options: onnxruntime.SessionOptions, weights: EditorWeights, in_memory: bool
    ) -> None:
        """Give a session the weights of all configurations, unless its graph holds its own copies."""
        if weights.file is None:
            return
        if in_memory:
            folder = str(weights.file.parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if self.device == "cpu":
            for weight, value in _ort_values(weights).items():
                options.add_initializer(weight, value)


def _ort_values(weights: EditorWeights) -> dict[str, onnxruntime.OrtValue]:
    """An editor's weights by name, once for all sessions, which would each map the file anew."""
    with _making:
        if weights not in _made:
            made = {n: onnxruntime.OrtValue.ortvalue_from_numpy(x) for n, x in weights.tensors.items()}
            _made[weights] = made
        return _made[weights]


_making = threading.Lock()
_made: WeakKeyDictionary[EditorWeights, dict[str, onnxruntime.OrtValue]] = WeakKeyDictionary()


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


def _providers(device: str, name: str, precision: str, model: Path | bytes) -> list:
    """Execution providers, the first choice first, with their options."""
    if device == "cpu":
        return [PROVIDERS["cpu"]]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN where pip has put them
    # By default float32 would mean TF32, which keeps ten bits of the mantissa.
    rest = [(PROVIDERS["cuda"], {"use_tf32": "0"}), PROVIDERS["cpu"]]
    if device == "cuda":
        return rest
    import tensorrt  # opens the libraries for the provider

    return [(PROVIDERS["tensorrt"], tensorrt_options(name, model, precision, tensorrt.__version__)), *rest]
