"""Tell ONNX Runtime to run engines on TensorRT: the `tensorrt` package, or the TensorRT-RTX plug-in."""

import importlib.metadata
import re
from functools import cache

import onnxruntime

from dystyle.engines.cache import compiled_folder
from dystyle.errors import InputError

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


def tensorrt_options(name: str, precision: str, version: str, in_file: bool) -> dict[str, str | bool]:
    """Options of the execution provider for an engine.

    Args:
        version: of TensorRT; the provider puts the GPU's architecture into the files' names.
        in_file: whether the model lies in a file. The provider tells models apart by their files' names and
            their nodes, not by their weights: what has no file must not be kept, or one face's generator
            would be taken for another's.
    """
    folder = compiled_folder("tensorrt", version, precision)
    options: dict[str, str | bool] = {
        f"trt_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(name).items()
    }
    if folder is not None:
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(folder)}
    if folder is not None and in_file:
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
    if name.startswith("generator") and precision != "fp32":
        options[f"trt_{precision}_enable"] = True
    return options


@cache
def rtx_devices() -> list:
    """The GPUs that the TensorRT-RTX plug-in can use.

    Raises:
        InputError: the plug-in does not open, or finds none.
    """
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


def rtx_options(name: str) -> dict[str, str]:
    """Options of the plug-in for an engine."""
    version = importlib.metadata.version("onnxruntime-ep-nv-tensorrt-rtx-cu13")
    folder = compiled_folder("tensorrt-rtx", version, "fp32")
    kept = {} if folder is None else {"nv_runtime_cache_path": str(folder)}
    return kept | {f"nv_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(name).items()}
