"""Assemble the ONNX graph of one attribute configuration straight from the editor's weight file.

The graph holds the experts of its attributes and nothing else, and of those only the structure: the
weights of all configurations lie in one file, which every graph refers to (ONNX external data) and the
runtimes map into memory. So 1,023 configurations are one copy, on disk and in memory. Needs neither torch
nor an export: a configuration never seen before is there in milliseconds. The arithmetic is that of
`dystyle.editors.dystyle.DyStyle`, where the equations are explained.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.structure import ANGLES, DIM, SLOPE, Structure
from dystyle.engines.onnx_graph import Graph

ALIGNMENT = 4096  # ONNX's advice for weights that are mapped into memory


def shared_weights(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, dict]:
    """The weight file of all configurations, float32, and its index.

    Args:
        tensors, metadata: of an editor's weight file, as from `dystyle.weights.load`.
    """
    index, content = {}, io.BytesIO()
    for name, tensor in sorted(tensors.items()):
        content.write(bytes(-content.tell() % ALIGNMENT))
        index[name] = {"shape": tensor.shape, "offset": content.tell()}
        content.write(np.ascontiguousarray(tensor, "<f4"))
    return content.getvalue(), {"metadata": dict(metadata), "tensors": index}


@dataclass(frozen=True, eq=False)
class EditorWeights:
    """An editor's weights, as all its graphs share them.

    Attributes:
        tensors: float32 by name.
        file: that they are mapped from, at these `offsets`; without one, graphs hold their own copies.
    """

    structure: Structure
    tensors: Mapping[str, np.ndarray]
    file: Path | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, buffer, index: Mapping, file: Path | None = None) -> "EditorWeights":
        """From what `shared_weights` made: the bytes, or an array that maps the file."""
        places = index["tensors"]
        tensors = {n: np.ndarray(p["shape"], "<f4", buffer, p["offset"]) for n, p in places.items()}
        offsets = {n: p["offset"] for n, p in places.items()}
        return cls(Structure.read(index["metadata"], file), tensors, file, offsets)

    @classmethod
    def map(cls, file: Path, index: Mapping) -> "EditorWeights":
        """From the file, which is read as it is used."""
        return cls.of(np.memmap(file, "<f4", "r"), index, file)


def build_editor_graph(weights: EditorWeights, names: Sequence[str]) -> ModelProto:
    """The graph for the attributes `names`.

    Args:
        weights: the model belongs into the folder of their file, if they have one.
        names: at least one attribute the editor knows.

    Returns:
        A model with inputs `codes` (b, 18, 512) and `targets` (b, len(names)), in the attributes' units
        and in the table's order, and output `edited` (b, 18, 512); for n > 1 attributes also `attention`
        (rows, b, n, n), what each expert (third axis) takes from each.
    """
    return _Editor(weights, [name for name in ATTRIBUTES if name in names]).build()


class _Editor(Graph):
    def __init__(self, weights: EditorWeights, names: list[str]) -> None:
        super().__init__()
        self.weights, self.names, self.structure = weights, names, weights.structure
        self.shared: dict[str, str] = {}

    def build(self) -> ModelProto:
        rows = self.structure.rows
        mean, std = self.weight("mean_w"), self.weight("std_w")
        head = self.slice("codes", 0, rows)
        x = self.node("Div", self.node("Sub", head, mean), std)
        x = self.node("Transpose", x, perm=[1, 0, 2])
        proxies = []
        for position, name in enumerate(self.names):
            value = self.embed(self.slice("targets", position, position + 1), name)
            proxy = self.linear(f"experts.{name}.input", self.node("Concat", x, value, axis=2))
            proxy = self.linear(f"experts.{name}.output", self.node("LeakyRelu", proxy, alpha=SLOPE))
            proxies.append(self.node("LeakyRelu", proxy, alpha=SLOPE))
        fused, attention = self.attend(proxies)
        scaled = self.node("Mul", x, self.linear("scale", fused))
        x = self.node("Add", self.node("Add", x, scaled), self.linear("shift", fused))
        x = self.node("Transpose", x, perm=[1, 0, 2])
        x = self.node("Add", self.node("Mul", x, std), mean)
        edited = self.node("Concat", x, self.slice("codes", rows, 18), axis=1)
        code, count = ["batch", 18, DIM], len(self.names)
        outputs = {"edited": (edited, TensorProto.FLOAT, code)}
        if attention:
            outputs["attention"] = (attention, TensorProto.FLOAT, [rows, "batch", count, count])
        inputs = {"codes": code, "targets": ["batch", count]}
        return self.model("dystyle-" + "-".join(self.names), inputs, outputs)

    def weight(self, name: str) -> str:
        if name not in self.shared:
            tensor, file = self.weights.tensors[name], self.weights.file
            if file is None:
                self.shared[name] = self.constant(tensor)
            else:
                place = file.name, self.weights.offsets[name]
                self.shared[name] = self.external(name, tensor.shape, *place)
        return self.shared[name]

    def linear(self, layer: str, x: str) -> str:
        product = self.node("MatMul", x, self.weight(f"{layer}.weight"))
        return self.node("Add", product, self.weight(f"{layer}.bias"))

    def embed(self, target: str, name: str) -> str:
        """Target values (b, 1) -> (rows, b, 7), as `dystyle.editors.dystyle.embed` does."""
        row = ATTRIBUTES[name]
        gain, zero = 2 / (row.high - row.low), -(row.low + row.high) / (row.high - row.low)
        value = self.node("Add", self.node("Mul", target, self.constant(gain)), self.constant(zero))
        angles = self.node("Mul", value, self.constant(ANGLES))
        value = self.node("Concat", value, self.node("Sin", angles), self.node("Cos", angles), axis=1)
        value = self.node("Unsqueeze", value, self.constant([0], np.int64))
        # Repeated by adding zeros: broadcasting knows the batch size, a constant shape would not.
        return self.node("Add", value, self.constant(np.zeros((self.structure.rows, 1, 1))))

    def attend(self, proxies: list[str]) -> tuple[str, str | None]:
        """The proxy codes' sum after attention over them, and the attention; one alone is just V."""
        values = [self.linear("attention.value", p) for p in proxies]
        if len(proxies) == 1:
            return values[0], None
        axis = self.constant([2], np.int64)

        def stack(items: list[str]) -> str:
            return self.node("Concat", *(self.node("Unsqueeze", item, axis) for item in items), axis=2)

        queries, keys = (
            stack([self.linear(f"attention.{layer}", p) for p in proxies]) for layer in ("query", "key")
        )
        keys = self.node("Transpose", keys, perm=[0, 1, 3, 2])
        scale = self.constant(self.structure.attention_scale)
        attention = self.node("Softmax", self.node("Mul", self.node("MatMul", queries, keys), scale), axis=3)
        mixed = self.node("MatMul", attention, stack(values))
        return self.node("ReduceSum", mixed, axis, keepdims=0), attention
