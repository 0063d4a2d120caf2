"""Which runtimes, devices and precisions there are on this machine."""

import ctypes
import importlib.util
import os
from functools import cache

import onnxruntime

onnxruntime.disable_telemetry_events()  # what people do with their photos is nobody's business

# How the names of those graphs begin that make pictures, in their precision. Readings and codes need 32 bits.
PICTURES = ("generator", "features", "decoder", "residual", "carrier", "parts")
# Precisions in which pictures can be rendered. int8 is none of them: with weights rounded to 8 bits a kernel
# and activations to 8 bits a layer, the preview keeps 30 dB to the float32 one, where 45 are asked for.
PRECISIONS = {
    "onnx": ("fp32",),
    "openvino": ("fp32", "bf16", "fp16"),
    "cuda": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "bf16"),
    "tensorrt-rtx": ("fp32",),
}
# ONNX Runtime's names.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def _has_device() -> bool:
    """Whether NVIDIA's driver is here and has a GPU for this process.

    The driver's management library says so: CUDA, once asked, does not start in forked processes any more.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        driver = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return False
    count = ctypes.c_uint()
    return (
        driver.nvmlInit_v2() == 0
        and driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
        and count.value > 0
    )


@cache
def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported for the answer."""
    return importlib.util.find_spec("torch") is not None


@cache
def has_gpu() -> bool:
    """Whether PyTorch can use a CUDA device; without one it is not imported for the answer."""
    if not (_has_device() and has_torch()):
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
        if PROVIDERS[name] not in onnxruntime.get_available_providers():
            reasons[name] = f"ONNX Runtime here has no {PROVIDERS[name]}: install requirements-gpu.txt"
    for name, package in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx")):
        if not reasons[name] and importlib.util.find_spec(package) is None:
            reasons[name] = f"the package {package} is missing: install requirements-gpu.txt"
    if not _has_device():
        device = "there is no NVIDIA driver, or it has no CUDA device"
        reasons |= {n: reasons[n] or device for n in ("cuda", "tensorrt", "tensorrt-rtx")}
    return reasons


def tensorrt_runtime() -> str | None:
    """The TensorRT that can be used here: the package, else the plug-in, else none."""
    return next((name for name in ("tensorrt", "tensorrt-rtx") if not runtimes()[name]), None)
