"""Engines as models for inference servers: folders that Triton and KServe's runtimes load.

Every model lies in `NAME/1/model.onnx` with its weights in it. Beside the versions stands what it takes and
gives: for Triton `config.pbtxt`, with requests put together to batches, and for others `metadata.json`, in
the words of the Open Inference Protocol, which answers it to `GET v2/models/NAME`.

For each configuration of attributes Triton gets an ensemble, too, "portrait-age-smile": an aligned portrait
goes in; its code, the edited code and the picture come out. What `FaceEditor` does in NumPy (finding the
face, what a photo has beside its code, blending) is no graph, and not in it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime

from dystyle.pictures import write_file

MOST_AT_ONCE, LONGEST_WAIT = 8, 2000  # models in a batch; microseconds for which the first waits for others
# Names of the types that engines have, in the Open Inference Protocol.
KINDS = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(uint8)": "UINT8"}


def editor_name(names: Sequence[str]) -> str:
    """What an editor's model is called: "editor-age-smile"."""
    return "-".join(("editor", *names))


def write_model(layout: str, folder: Path, name: str, file: Path) -> None:
    """Put an engine into a repository.

    Args:
        layout: "triton" or "kserve".
        file: of the engine, beside the weights that it refers to.

    Raises:
        InputError: the folder cannot be written to.
    """
    model = onnx.load(file)  # with these weights in it
    outputs = [value for value in model.graph.output if value.type.tensor_type.shape.dim[0].dim_param]
    del model.graph.output[:]  # what has no batch in front cannot be shared out again: an editor's attention
    model.graph.output.extend(outputs)
    content = model.SerializeToString()
    write_file(content, folder / name / "1" / "model.onnx")
    opened = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    tensors = {"input": describe(opened.get_inputs()), "output": describe(opened.get_outputs())}
    if layout == "triton":
        batching = {"dynamic_batching": {"max_queue_delay_microseconds": LONGEST_WAIT}}
        config = _config(name, "onnxruntime", tensors) | batching
        write_file(pbtxt(config).encode(), folder / name / "config.pbtxt")
    else:
        metadata = {"name": name, "versions": ["1"], "platform": "onnx_onnxv1"}
        metadata |= {f"{part}s": listed for part, listed in tensors.items()}
        write_file(f"{json.dumps(metadata, indent=2)}\n".encode(), folder / name / "metadata.json")


def write_ensemble(folder: Path, names: Sequence[str], size: int) -> None:
    """Put the way from a portrait to its edited picture of `size` px into Triton's repository.

    Raises:
        InputError: the folder cannot be written to.
    """
    editor, generator = editor_name(names), f"generator_{size}"
    tensors = {
        "input": [_tensor("portrait", "UINT8", 256, 256, 3), _tensor("targets", "FP32", len(names))],
        "output": [
            _tensor("code", "FP32", 18, 512),
            _tensor("edited", "FP32", 18, 512),
            _tensor("picture", "UINT8", size, size, 3),
        ],
    }
    steps = [
        _step("encoder", {"input": "portrait"}, {"output0": "code"}),
        _step(editor, {"codes": "code", "targets": "targets"}, {"edited": "edited"}),
        _step(generator, {"input": "edited"}, {"output0": "picture"}),
    ]
    name = "-".join(("portrait", *names))
    config = _config(name, "", tensors) | {"ensemble_scheduling": {"step": steps}}
    write_file(pbtxt(config).encode(), folder / name / "config.pbtxt")
    write_file(b"", folder / name / "1" / ".keep")  # a version, which Triton asks of every model


def describe(values: Sequence[onnxruntime.NodeArg]) -> list[dict]:
    """Inputs or outputs, batch in front, in the words of the Open Inference Protocol; -1 is any length."""
    return [
        _tensor(value.name, KINDS[value.type], *(x if isinstance(x, int) else -1 for x in value.shape[1:]))
        for value in values
    ]


def pbtxt(config: Mapping, indent: str = "") -> str:
    """A mapping in protobuf's text format; words in capitals are its constants."""
    lines = []
    for key, value in config.items():
        many = value if isinstance(value, list) else [value]
        if all(isinstance(item, int) for item in many):
            lines.append(f"{key}: {value}")
            continue
        for item in many:
            if isinstance(item, Mapping):
                lines.append(f"{key} {{\n{pbtxt(item, indent + '  ')}{indent}}}")
            else:
                lines.append(f"{key}: {item if item.isupper() else json.dumps(item)}")
    return "".join(f"{indent}{line}\n" for line in lines)


def _tensor(name: str, kind: str, *shape: int) -> dict:
    return {"name": name, "datatype": kind, "shape": [-1, *shape]}


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict:
    """One model of an ensemble, and what its tensors are called there."""
    maps = {"input_map": inputs, "output_map": outputs}
    listed = {k: [{"key": a, "value": b} for a, b in tensors.items()] for k, tensors in maps.items()}
    return {"model_name": model, "model_version": -1} | listed


def _config(name: str, backend: str, tensors: Mapping[str, list[dict]]) -> dict:
    """What Triton has to know of a model, or of an ensemble, which has no backend; the batch goes unsaid."""
    run = {"backend": backend} if backend else {"platform": "ensemble"}
    sides = {
        part: [
            {"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"][1:]} for t in listed
        ]
        for part, listed in tensors.items()
    }
    return {"name": name, **run, "max_batch_size": MOST_AT_ONCE, **sides}
