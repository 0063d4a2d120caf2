"""Run engines with ONNX Runtime; build them on first use. Imports no torch unless an engine is missing."""

import hashlib
import os
import re
import threading
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from filelock import FileLock

from dystyle.engines.editor_graph import build_editor_graph
from dystyle.errors import InputError
from dystyle.weights import cache_folder, load, resolve

# What an engine is made from: a change in any of these makes a new one.
_CODE = ("generators", "encoders", "knowledge", "engines")
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


class OnnxBackend:
    """All graphs as ONNX Runtime sessions, opened when first used; safe to share between threads.

    Args:
        device: "cpu", "cuda" or "tensorrt".

    Raises:
        InputError: ONNX Runtime lacks the device's execution provider.
    """

    def __init__(self, device: str = "cpu") -> None:
        wanted = _PROVIDERS[device]
        if wanted[0] not in onnxruntime.get_available_providers():
            raise InputError(
                f"ONNX Runtime here has no {wanted[0]}; install requirements-gpu.txt or use device='cpu'."
            )
        self.providers = list(wanted)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = threading.Lock()

    def _open(self, key: str, model) -> onnxruntime.InferenceSession:
        with self._lock:
            if key not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = min(os.cpu_count() or 1, 8)
                # Spinning workers would take the cores from whatever else serves the page.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                self._sessions[key] = onnxruntime.InferenceSession(model(), options, providers=self.providers)
            return self._sessions[key]

    def run(self, name: str, x: np.ndarray) -> list[np.ndarray]:
        """The outputs of a graph (see `dystyle.engines.graphs`) for a batch."""
        return self._open(name, lambda: str(engine_file(name))).run(None, {"input": x})

    def edit(self, codes: np.ndarray, configuration: dict[str, float]) -> np.ndarray:
        """Edited codes (b, 18, 512) for a configuration with at least one attribute, in table order."""

        def model() -> bytes:
            return build_editor_graph(*load("dystyle"), list(configuration)).SerializeToString()

        targets = np.tile(np.float32(list(configuration.values())), (len(codes), 1))
        session = self._open("editor:" + ",".join(configuration), model)
        return session.run(None, {"codes": codes, "targets": targets})[0]
