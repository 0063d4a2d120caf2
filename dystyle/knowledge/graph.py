"""A frozen convolutional network read from a file: its operations and its weights.

The networks come from four training frameworks and have nothing in common but a dozen
operations. So none of them is written out as a class: each file holds the list of operations beside the
tensors, and `Graph` runs the list.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dystyle.errors import InputError
from dystyle.weights import load


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels innermost for kernels: on a CPU that saves a tenth to a half of the time, both ways."""
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


def _padded(x: Tensor, padding: list[int], value: float = 0.0) -> tuple[Tensor, int]:
    """Apply (left, right, top, bottom) unless the convolution can do it itself, at no cost.

    TensorFlow's SAME puts the odd row and column at the bottom and the right, which `conv2d` cannot.
    """
    if len(set(padding)) == 1:
        return x, padding[0]
    return F.pad(x, padding, value=value), 0


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: list[int], groups: int
) -> Tensor:
    x, symmetric = _padded(x, padding)
    return F.conv2d(x, weight, bias, stride, symmetric, groups=groups)


def _max_pool(x: Tensor, kernel: int, stride: int, padding: list[int]) -> Tensor:
    x, symmetric = _padded(x, padding, value=-torch.inf)
    return F.max_pool2d(x, kernel, stride, symmetric)


def _append_channels(x: Tensor, count: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, count))


def _append_pixels(x: Tensor, count: int) -> Tensor:
    return F.pad(x, (0, count, 0, count))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x * weight[:, None, None] + bias[:, None, None]


def _reshape(x: Tensor, shape: list[int]) -> Tensor:
    return x.reshape(x.shape[0], *shape)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "convolution": _convolution,
    "linear": F.linear,
    "affine": _affine,
    "prelu": F.prelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": lambda x, sixth: x * F.relu6(x + 3) * sixth,
    "sigmoid": torch.sigmoid,
    "add": torch.add,
    "multiply": torch.mul,
    "upsample": _upsample,
    "double": lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride=2),
    "max_pool": _max_pool,
    "average_pool": lambda x, kernel, stride: F.avg_pool2d(x, kernel, stride),
    "append_channels": _append_channels,
    "append_pixels": _append_pixels,
    "mean": lambda x: x.mean((2, 3)),
    "concatenate": lambda *x: torch.cat(x, 1),
    "channels_last": lambda x: x.permute(0, 2, 3, 1),
    "reshape": _reshape,
}


class Graph(nn.Module):
    """Runs a list of operations on a batch; differentiable with respect to its input.

    An operation is a mapping `{"kind", "inputs", "output", "tensors", "options"}`: `kind` is a key of
    `OPERATIONS`, `inputs` and `output` name values (the network's own input is `"input"`), `tensors` gives
    the weights by argument name, and `options` the remaining arguments.

    The weights are float32 buffers: they move with `.to(device)` and never require a gradient.
    """

    def __init__(self, operations: list[dict[str, Any]], outputs: list[str], tensors: dict[str, Tensor]):
        super().__init__()
        self.operations = operations
        self.outputs = outputs
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float().contiguous(memory_format=_memory_format(tensor)))
        last_use = {name: index for index, op in enumerate(operations) for name in op["inputs"]}
        self.finished = [
            [name for name in dict.fromkeys(op["inputs"]) if last_use[name] == index and name not in outputs]
            for index, op in enumerate(operations)
        ]
        self.eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map float32 (b, c, h, w) to the network's output, or to a tuple when it has several."""
        values = {"input": x.contiguous(memory_format=torch.channels_last)}
        for op, finished in zip(self.operations, self.finished, strict=True):
            inputs = [values[name] for name in op["inputs"]]
            tensors = {slot: getattr(self, name) for slot, name in op["tensors"].items()}
            values[op["output"]] = OPERATIONS[op["kind"]](*inputs, **tensors, **op["options"])
            for name in finished:  # without autograd this frees the memory; with it, autograd keeps its own
                del values[name]
        outputs = tuple(values[name] for name in self.outputs)
        return outputs if len(outputs) > 1 else outputs[0]


def load_graph(path: Path) -> Graph:
    """Read a graph that `dystyle.knowledge.convert` wrote; InputError when the file is not such a graph."""
    try:
        arrays, metadata = load(path)
        description = json.loads(metadata["graph"])
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Graph(description["operations"], description["outputs"], tensors)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a readable network file; fetch it again.") from error
