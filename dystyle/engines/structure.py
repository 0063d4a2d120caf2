"""Networks' graphs as structure only, and how they become engines: with tensors of the weight files put in.

PyTorch traces a network once, in development. In the file that comes of it the weights are inputs, called
FILE:TENSOR after the tensor that belongs there; an engine is that graph with these tensors as constants. So
nobody needs PyTorch to build one, and no weight is there twice.

    python -m dystyle.engines.structure    trace all networks anew, after a change in one (needs PyTorch)
"""

import json

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from dystyle.engines.recipes import TRACED, recipe, structure_fingerprint, structures_folder
from dystyle.weights import load


def filled(name: str) -> ModelProto:
    """The model of a traced graph, whose structure is current, with its weights.

    Raises:
        InputError: weights are missing or damaged.
    """
    model = onnx.load(recipe(name).structure)
    tensors, inputs = {}, []
    for value in model.graph.input:
        weights, colon, key = value.name.partition(":")
        if not colon:
            inputs.append(value)
            continue
        if weights not in tensors:
            tensors[weights] = load(weights)[0]
        tensor = np.asarray(tensors[weights][key], np.float32, order="C")
        model.graph.initializer.append(numpy_helper.from_array(tensor, value.name))
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def main() -> None:
    from dystyle.engines.graphs import trace

    folder = structures_folder()
    folder.mkdir(exist_ok=True)
    for name, network in TRACED.items():
        file = folder / f"{name}.onnx"
        file.write_bytes(trace(name, network.weights).SerializeToString(deterministic=True))
        print(f"{file}: {file.stat().st_size / 1e3:.0f} kB", flush=True)
    made_from = {name: structure_fingerprint(name) for name in TRACED}
    (folder / "made_from.json").write_text(json.dumps(made_from, indent=2) + "\n")


if __name__ == "__main__":
    main()
