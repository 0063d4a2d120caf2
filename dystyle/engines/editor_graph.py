"""Assemble the ONNX graph of one attribute configuration straight from the editor's weight file.

The graph holds the experts of its attributes and nothing else. Needs neither torch nor an export: a
configuration never seen before is there in milliseconds. The arithmetic is that of
`dystyle.editors.dystyle.DyStyle`, where the equations are explained.
"""

import json
import math
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dystyle.attributes import ATTRIBUTES

OPSET, IR_VERSION = 17, 8


class _Graph:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes, self.constants, self.count = [], [], 0

    def node(self, op: str, *inputs: str, **attributes) -> str:
        self.count += 1
        name = f"{op}_{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value, dtype=np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def slice(self, x: str, start: int, stop: int) -> str:
        """Along the second axis."""
        bounds = [self.constant([n], np.int64) for n in (start, stop, 1)]
        return self.node("Slice", x, *bounds)


def build_editor_graph(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], names: Sequence[str]
) -> ModelProto:
    """The graph for the attributes `names`.

    Args:
        tensors, metadata: of an editor's weight file, as from `dystyle.weights.load`.
        names: at least one attribute the editor knows.

    Returns:
        A model with inputs `codes` (b, 18, 512) and `targets` (b, len(names)), in the attributes' units
        and in the table's order, and output `edited` (b, 18, 512).
    """
    structure = json.loads(metadata["structure"])
    rows, names = structure["rows"], [name for name in ATTRIBUTES if name in names]
    graph = _Graph()

    def linear(layer: str, x: str) -> str:
        weight, bias = (graph.constant(tensors[f"{layer}.{part}"]) for part in ("weight", "bias"))
        return graph.node("Add", graph.node("MatMul", x, weight), bias)

    mean, std = graph.constant(tensors["mean_w"]), graph.constant(tensors["std_w"])
    head = graph.slice("codes", 0, rows)
    x = graph.node("Div", graph.node("Sub", head, mean), std)
    x = graph.node("Transpose", x, perm=[1, 0, 2])
    proxies = []
    for index, name in enumerate(names):
        value = _embed(graph, graph.slice("targets", index, index + 1), name, rows)
        hidden = linear(f"experts.{name}.input", graph.node("Concat", x, value, axis=2))
        hidden = linear(f"experts.{name}.output", graph.node("LeakyRelu", hidden, alpha=0.2))
        proxies.append(graph.node("LeakyRelu", hidden, alpha=0.2))
    fused = _attend(graph, linear, proxies, structure["hidden"])
    scaled = graph.node("Mul", x, linear("scale", fused))
    x = graph.node("Add", graph.node("Add", x, scaled), linear("shift", fused))
    x = graph.node("Transpose", x, perm=[1, 0, 2])
    x = graph.node("Add", graph.node("Mul", x, std), mean)
    tail = graph.slice("codes", rows, 18)
    graph.nodes.append(helper.make_node("Concat", [x, tail], ["edited"], axis=1))
    return _model(graph, names)


def _embed(graph: _Graph, target: str, name: str, rows: int) -> str:
    """Target values (b, 1) -> (rows, b, 7), as `embed` does."""
    row = ATTRIBUTES[name]
    gain, zero = 2 / (row.high - row.low), -(row.low + row.high) / (row.high - row.low)
    value = graph.node("Add", graph.node("Mul", target, graph.constant(gain)), graph.constant(zero))
    angles = graph.node("Mul", value, graph.constant(math.pi / 2 * 2.0 ** np.arange(3)))
    value = graph.node("Concat", value, graph.node("Sin", angles), graph.node("Cos", angles), axis=1)
    value = graph.node("Unsqueeze", value, graph.constant([0], np.int64))
    # Repeated by adding zeros: broadcasting knows the batch size, a constant shape would not.
    return graph.node("Add", value, graph.constant(np.zeros((rows, 1, 1))))


def _attend(graph: _Graph, linear, proxies: list[str], hidden: int) -> str:
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


def _model(graph: _Graph, names: Sequence[str]) -> ModelProto:
    code = ["batch", 18, 512]
    proto = helper.make_graph(
        graph.nodes,
        "dystyle-" + "-".join(names),
        [
            helper.make_tensor_value_info("codes", TensorProto.FLOAT, code),
            helper.make_tensor_value_info("targets", TensorProto.FLOAT, ["batch", len(names)]),
        ],
        [helper.make_tensor_value_info("edited", TensorProto.FLOAT, code)],
        graph.constants,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
