"""Assemble ONNX graphs node by node, without PyTorch."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8


class Graph:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes):
        """A node's output; with `outputs` > 1 the list of them."""
        names = [f"{op}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, dtype=np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def external(self, name: str, shape: Sequence[int], location: str, offset: int) -> str:
        """A float32 constant of that name that lies in the file `location`, beside the model."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": location, "offset": offset, "length": 4 * int(np.prod(shape))}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.constants.append(tensor)
        return tensor.name

    def slice(self, x: str, start: int, stop: int) -> str:
        """Along the second axis."""
        bounds = [self.constant([n], np.int64) for n in (start, stop, 1)]
        return self.node("Slice", x, *bounds)

    def model(self, name: str, inputs: Mapping[str, Sequence], outputs: Mapping[str, tuple]) -> ModelProto:
        """The finished model.

        Args:
            inputs: shapes by name, all float32; a string stands for an axis of any length.
            outputs: what they are, by name: (a node's output, its ONNX type, its shape).
        """
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
        results = []
        for output, (value, kind, shape) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [output]))
            results.append(helper.make_tensor_value_info(output, kind, shape))
        proto = helper.make_graph(self.nodes, name, given, results, self.constants)
        return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
