"""Assemble the ONNX graph of one attribute configuration straight from the editor's weight file.

The graph holds the experts of its attributes and nothing else, and of those only the structure: the
weights of all configurations lie in one file, which every graph refers to (ONNX external data) and the
runtimes map into memory. So 1,023 configurations are one copy, on disk and in memory. Needs neither torch
nor an export: a configuration never seen before is there in milliseconds. The arithmetic is that of
`dystyle.editors.dystyle.DyStyle`, where the equations are explained.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from dystyle.attributes import ATTRIBUTES
from dystyle.engines.onnx_graph import Graph

ALIGNMENT = 4096  # ONNX's advice for weights that are mapped into memory


def write_shared_weights(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], file: Path) -> str:
    """Write the weight file of all configurations, float32.

    Args:
        tensors, metadata: of an editor's weight file, as from `dystyle.weights.load`.

    Returns:
        Its index, to be kept beside it with the ending `.json`.
    """
    index, offset = {}, 0
    with file.open("wb") as out:
        for name, tensor in sorted(tensors.items()):
            out.write(bytes(offset - out.tell()))
            index[name] = {"shape": tensor.shape, "offset": offset}
            out.write(np.ascontiguousarray(tensor, "<f4"))
            offset = -(-out.tell() // ALIGNMENT) * ALIGNMENT
    return json.dumps({"structure": json.loads(metadata["structure"]), "tensors": index})


def map_shared_weights(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of `write_shared_weights`, mapped into memory."""
    mapped, index = np.memmap(file, "<f4", "r"), json.loads(file.with_suffix(".json").read_text())
    return {
        name: np.ndarray(place["shape"], "<f4", mapped, place["offset"])
        for name, place in index["tensors"].items()
    }


def build_editor_graph(weights: Path, names: Sequence[str]) -> ModelProto:
    """The graph for the attributes `names`.

    Args:
        weights: a file of `write_shared_weights` with its index; the model belongs into the same folder.
        names: at least one attribute the editor knows.

    Returns:
        A model with inputs `codes` (b, 18, 512) and `targets` (b, len(names)), in the attributes' units
        and in the table's order, and output `edited` (b, 18, 512).
    """
    index = json.loads(weights.with_suffix(".json").read_text())
    rows, hidden = index["structure"]["rows"], index["structure"]["hidden"]
    names = [name for name in ATTRIBUTES if name in names]
    graph, shared = Graph(), {}

    def weight(name: str) -> str:
        if name not in shared:
            place = index["tensors"][name]
            shared[name] = graph.external(name, place["shape"], weights.name, place["offset"])
        return shared[name]

    def linear(layer: str, x: str) -> str:
        return graph.node("Add", graph.node("MatMul", x, weight(f"{layer}.weight")), weight(f"{layer}.bias"))

    mean, std = weight("mean_w"), weight("std_w")
    head = graph.slice("codes", 0, rows)
    x = graph.node("Div", graph.node("Sub", head, mean), std)
    x = graph.node("Transpose", x, perm=[1, 0, 2])
    proxies = []
    for position, name in enumerate(names):
        value = _embed(graph, graph.slice("targets", position, position + 1), name, rows)
        proxy = linear(f"experts.{name}.input", graph.node("Concat", x, value, axis=2))
        proxy = linear(f"experts.{name}.output", graph.node("LeakyRelu", proxy, alpha=0.2))
        proxies.append(graph.node("LeakyRelu", proxy, alpha=0.2))
    fused = _attend(graph, linear, proxies, hidden)
    scaled = graph.node("Mul", x, linear("scale", fused))
    x = graph.node("Add", graph.node("Add", x, scaled), linear("shift", fused))
    x = graph.node("Transpose", x, perm=[1, 0, 2])
    x = graph.node("Add", graph.node("Mul", x, std), mean)
    edited = graph.node("Concat", x, graph.slice("codes", rows, 18), axis=1)
    code = ["batch", 18, 512]
    inputs = {"codes": code, "targets": ["batch", len(names)]}
    return graph.model("dystyle-" + "-".join(names), inputs, "edited", (edited, TensorProto.FLOAT, code))


def _embed(graph: Graph, target: str, name: str, rows: int) -> str:
    """Target values (b, 1) -> (rows, b, 7), as `embed` does."""
    row = ATTRIBUTES[name]
    gain, zero = 2 / (row.high - row.low), -(row.low + row.high) / (row.high - row.low)
    value = graph.node("Add", graph.node("Mul", target, graph.constant(gain)), graph.constant(zero))
    angles = graph.node("Mul", value, graph.constant(math.pi / 2 * 2.0 ** np.arange(3)))
    value = graph.node("Concat", value, graph.node("Sin", angles), graph.node("Cos", angles), axis=1)
    value = graph.node("Unsqueeze", value, graph.constant([0], np.int64))
    # Repeated by adding zeros: broadcasting knows the batch size, a constant shape would not.
    return graph.node("Add", value, graph.constant(np.zeros((rows, 1, 1))))


def _attend(graph: Graph, linear, proxies: list[str], hidden: int) -> str:
    """Attention over the proxy codes and their sum; one proxy code alone is just V."""
    values = [linear("attention.value", p) for p in proxies]
    if len(proxies) == 1:
        return values[0]
    axis = graph.constant([2], np.int64)

    def stack(items: list[str]) -> str:
        return graph.node("Concat", *(graph.node("Unsqueeze", item, axis) for item in items), axis=2)

    queries = stack([linear("attention.query", p) for p in proxies])
    keys = graph.node("Transpose", stack([linear("attention.key", p) for p in proxies]), perm=[0, 1, 3, 2])
    logits = graph.node("Mul", graph.node("MatMul", queries, keys), graph.constant(hidden**-0.5))
    mixed = graph.node("MatMul", graph.node("Softmax", logits, axis=3), stack(values))
    return graph.node("ReduceSum", mixed, axis, keepdims=0)
