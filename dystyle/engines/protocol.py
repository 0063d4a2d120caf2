"""The Open Inference Protocol over HTTP: how tensors are written into requests and answers, and read again.

https://github.com/kserve/open-inference-protocol, with its extension for binary data: a JSON header, behind
it the tensors' bytes, and in the HTTP header `LENGTH` how long the JSON is.
"""

import json
import math
from collections.abc import Mapping

import numpy as np

from dystyle.errors import InputError

LENGTH = "Inference-Header-Content-Length"
KINDS = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "UINT8": np.dtype("u1")}
MOST_BYTES = 2**30  # of a tensor


def pack(
    part: str, tensors: Mapping[str, np.ndarray], about: Mapping | None = None, binary: bool = True
) -> tuple[bytes, int]:
    """The body of a request or an answer, and how long its JSON is.

    Args:
        part: "inputs" or "outputs".
        tensors: float32, float16 or uint8, by name.
        about: what else stands in the JSON.
        binary: whether numbers follow as bytes, or stand in the JSON.
    """
    names = {kind: name for name, kind in KINDS.items()}
    listed, contents = [], []
    for name, tensor in tensors.items():
        entry = {"name": name, "shape": list(tensor.shape), "datatype": names[tensor.dtype]}
        if binary:
            contents.append(tensor.tobytes())
            entry["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            entry["data"] = tensor.ravel().tolist()
        listed.append(entry)
    header = json.dumps({**(about or {}), part: listed}).encode()
    return b"".join((header, *contents)), len(header)


def unpack(part: str, body: bytes, length: str | None) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors in the body of a request or an answer, by name, and the JSON.

    Args:
        part: "inputs" or "outputs".
        length: the HTTP header of that name; without it, the body is JSON alone.

    Raises:
        InputError: it is not what the protocol says.
    """
    try:
        at = len(body) if length is None else int(length)
        header, tensors = json.loads(body[:at]), {}
        for entry in header[part]:
            kind, shape = KINDS[entry["datatype"]], [int(side) for side in entry["shape"]]
            if min(shape, default=0) < 1 or math.prod(shape) * kind.itemsize > MOST_BYTES:
                raise ValueError(f"a tensor of shape {shape}")
            if "data" in entry:
                tensors[str(entry["name"])] = np.array(entry["data"], kind).reshape(shape)
                continue
            size = entry["parameters"]["binary_data_size"]
            tensors[str(entry["name"])] = np.frombuffer(body[at : at + size], kind).reshape(shape).copy()
            at += size
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"This is no {part[:-1]} of the Open Inference Protocol ({error}).") from error
    return tensors, header
