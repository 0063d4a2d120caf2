"""Tell ONNX Runtime to run engines on TensorRT: the `tensorrt` package, or the TensorRT-RTX plug-in."""

import importlib.metadata
from functools import cache
from pathlib import Path

import onnx
import onnxruntime

from dystyle.engines.cache import compiled_folder
from dystyle.engines.hardware import PICTURES
from dystyle.errors import InputError

LARGEST_BATCH = 8  # of TensorRT's engines


def profile_shapes(model: Path | bytes) -> dict[str, str]:
    """Smallest, usual and largest shapes of a model's inputs that have a batch, for TensorRT's profiles."""
    opened = (
        onnx.load(model, load_external_data=False)
        if isinstance(model, Path)
        else onnx.load_from_string(model)
    )
    inputs = {}
    for value in opened.graph.input:
        batch, *shape = value.type.tensor_type.shape.dim
        if batch.dim_param:
            inputs[value.name] = "x".join(str(dim.dim_value) for dim in shape)
    batches = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
    return {k: ",".join(f"{i}:{batch}x{s}" for i, s in inputs.items()) for k, batch in batches.items()}


def tensorrt_options(name: str, model: Path | bytes, precision: str, version: str) -> dict[str, str | bool]:
    """Options of the execution provider for an engine.

    Args:
        model: its file or contents. The provider tells models apart by their files' names and their nodes,
            not by their weights: what has no file is not kept, or one face's generator would be taken for
            another's.
        version: of TensorRT; the provider puts the GPU's architecture into the files' names.
    """
    folder = compiled_folder("tensorrt", version, precision)
    options: dict[str, str | bool] = {
        f"trt_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(model).items()
    }
    if folder is not None:
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(folder)}
    if folder is not None and isinstance(model, Path):
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
    if name.startswith(PICTURES) and precision != "fp32":
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


def rtx_options(model: Path | bytes) -> dict[str, str]:
    """Options of the plug-in for an engine's model."""
    version = importlib.metadata.version("onnxruntime-ep-nv-tensorrt-rtx-cu13")
    folder = compiled_folder("tensorrt-rtx", version, "fp32")
    kept = {} if folder is None else {"nv_runtime_cache_path": str(folder)}
    return kept | {f"nv_profile_{kind}_shapes": shapes for kind, shapes in profile_shapes(model).items()}
