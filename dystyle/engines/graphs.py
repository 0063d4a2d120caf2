"""The networks behind `FaceEditor` as PyTorch modules with plain arrays in and out, and their export.

The only module of this package that imports torch: it is needed to run the reference backend, to write the
`dystyle.engines.structure` of the bundled networks, and to build engines of networks that users bring.

| graph | input | output |
|---|---|---|
| `generator_1024`, `_256`, `_128` | codes (b, 18, 512) float32 | pictures (b, size, size, 3) uint8 RGB |
| `features` | codes (b, 18, 512) float32 | activations (b, 512, 64, 64) float32 |
| `decoder_1024`, ... | activations (b, 512, 64, 64) float32 and their `codes` (b, 18, 512) | pictures |
| `generator_SIZE:PATH` | codes (b, 18, 512) float32 | pictures (b, size, size, 3) uint8 RGB |
| `encoder`, `encoder:NAME_OR_PATH` | portraits (b, 256, 256, 3) uint8 | codes (b, 18, 512) float32 |
| `reader` | portraits (b, 256, 256, 3) uint8 | values (b, len(ATTRIBUTES)) float32 |
| `identity` | portraits (b, 256, 256, 3) uint8 | unit embeddings (b, 1024) float32 |
| `recognition` | portraits (b, 256, 256, 3) uint8 | a judge's descriptors (b, 128) float32 |
| `detector` | (b, 3, 256, 256) float32 in [-1, 1] | scores (b, 896), boxes (b, 896, 16) |
| `mesh` | (b, 3, 192, 192) float32 in [0, 1] | points (b, 468, 3) |
| `residual` | portraits (b, 512, 512, 3) uint8, `codes` (b, 18, 512), their `features` (b, 512, 64, 64), \
and `renders` (b, 256, 256, 3) float32 of both in 0..255 | what the features lack, (b, 512, 64, 64) float32 |
| `carrier_start` | features (b, 512, 64, 64) float32 | what the carrier knows of them: what it reads, \
(b, 32, 64, 64), and its flow where nothing moves, (b, 2, 32, 32) |
| `carrier_moves` | features (b, 512, 64, 64) float32 after an edit; what `carrier_start` says of those \
before, `read` and `unmoved`; `faces` before it, (b, 1, 64, 64) float32 | the flow, (b, 2, 32, 32); ground \
and hair after, (b, 1, 64, 64) |
| `carrier` | residuals (b, 512, 64, 64) and every fourth channel of the features before an edit, `sampled` \
(b, 128, 64, 64), both moved by the `flow`; features `after` it, and with the residual before it, `restored` \
float16, (b, 512, 64, 64); where these `stay`, and which share of the residual `lasts`, (b, 1, 64, 64); \
float32 | features with their residuals after; which places the edit touches, (b, 1, 64, 64) |
| `person` | portraits (b, 256, 256, 3) uint8 | how much of a person, (b, 256, 256) float32 in 0..1 |
| `parts` | activations (b, 512, 64, 64) float32 and `faces` (b, 1, 64, 64) | ground, the things of it, \
hair, (b, 1, 64, 64) each |
| `translator:NAME_OR_PATH` | portraits (b, size, size, 3) uint8, `source` and `target` (b, n) float32 \
in -0.5..0.5, their attributes and those asked for | portraits (b, size, size, 3) uint8 |

`encoder` is the bundled one; behind the colon stands another: "e4e", or the file of one. `generator_SIZE`
likewise: behind the colon stands the file of a StyleGAN2 (`dystyle.generators.checkpoints.save`).
"""

import copy
import io
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.encoders import CHANNELS, PHOTO, RENDER, SAMPLED, SIZE
from dystyle.encoders.carrier import Carrier, warp
from dystyle.encoders.fast import FastEncoder
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.parser import FeatureParser
from dystyle.encoders.psp import PspEncoder
from dystyle.generators.mobile_stylegan import SIZES
from dystyle.generators.opening import open_generator
from dystyle.knowledge.networks import load_network
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.metrics.independent_judges import Recognition
from dystyle.translators.network import load_network as load_translator
from dystyle.translators.structure import Structure
from dystyle.weights import load, load_header, resolve

if TYPE_CHECKING:
    from dystyle.generators.mobile_stylegan import MobileStyleGAN
    from dystyle.generators.stylegan2 import StyleGAN2


@cache
def generator(file: str | Path | None = None) -> "MobileStyleGAN | StyleGAN2":
    """The default generator with its preview heads, or the StyleGAN2 in a file, shared and frozen."""
    return open_generator(file)


@cache
def identity() -> IdentityNetwork:
    """The identity network, shared and frozen."""
    return IdentityNetwork().eval().requires_grad_(False)


@cache
def reader() -> FaceReader:
    """The attribute reader, shared and frozen."""
    return FaceReader().eval().requires_grad_(False)


def to_float(pictures: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) -> float32 (b, 3, h, w) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """(b, 3, h, w) about [-1, 1] -> uint8 (b, h, w, 3)."""
    return (images * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)


class Synthesis(nn.Module):
    """Codes to pictures of one size."""

    def __init__(self, size: int, file: str | None = None) -> None:
        super().__init__()
        self.generator, self.size = generator(file), size

    def images(self, codes: Tensor) -> Tensor:
        """(b, 3, size, size) about [-1, 1]."""
        return self.generator(codes, self.size)

    def forward(self, codes: Tensor) -> Tensor:
        return to_uint8(self.images(codes))


class Features(nn.Module):
    """Codes to the default generator's activations at 64 px."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = generator()

    def forward(self, codes: Tensor) -> Tensor:
        return self.generator.features(codes, SIZE)


class Decoding(nn.Module):
    """The default generator's activations at 64 px to pictures of one size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.generator, self.size = generator(), size

    def images(self, features: Tensor, codes: Tensor) -> Tensor:
        """(b, 3, size, size) about [-1, 1]."""
        return self.generator.decode(features, codes, self.size)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        return to_uint8(self.images(features, codes))


class Restoring(nn.Module):
    """Portraits, and what the generator makes of their codes, to residuals, by the bundled encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = FeatureEncoder.load("features")

    def forward(self, portraits: Tensor, codes: Tensor, features: Tensor, renders: Tensor) -> Tensor:
        return self.encoder(to_float(portraits), to_float(renders), features, codes)


class Parsing(nn.Module):
    """Activations to what is neither face nor hair, what of it are things, and hair, by the parser."""

    def __init__(self) -> None:
        super().__init__()
        self.parser = FeatureParser.load("parser")

    def forward(self, features: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.parser.parts(features, faces)


class Starting(nn.Module):
    """Features to what the carrier has to know of them before an edit."""

    def __init__(self) -> None:
        super().__init__()
        self.carrier = Carrier.load("carrier")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.carrier.start(features)


class Moving(nn.Module):
    """Features after an edit to how they have moved, and what is ground and hair in them, by the bundled
    carrier and parser."""

    def __init__(self) -> None:
        super().__init__()
        self.carrier, self.parser = Carrier.load("carrier"), FeatureParser.load("parser")

    def forward(self, after: Tensor, read: Tensor, unmoved: Tensor, faces: Tensor) -> tuple[Tensor, ...]:
        flow = self.carrier.moves(read, unmoved, after)
        ground, _, hair = self.parser.parts(after, warp(faces, flow))
        return flow, ground, hair


class Carrying(nn.Module):
    """Residuals through an edit, by the bundled carrier."""

    def __init__(self) -> None:
        super().__init__()
        self.carrier = Carrier.load("carrier")

    def forward(
        self,
        residuals: Tensor,
        sampled: Tensor,
        after: Tensor,
        restored: Tensor,
        flow: Tensor,
        stay: Tensor,
        lasts: Tensor,
    ) -> tuple[Tensor, ...]:
        fade, touched = self.carrier.faded(sampled, after, flow)
        carried = fade * residuals
        carried = carried + stay * (restored.float() - after - carried)
        return after + lasts * carried, touched


class Encoding(nn.Module):
    """Portraits to codes, by a fast encoder (.safetensors) or a checkpoint of e4e or pSp."""

    def __init__(self, name_or_path: str = "encoder") -> None:
        super().__init__()
        fast = resolve(name_or_path).suffix == ".safetensors"
        self.encoder = (FastEncoder if fast else PspEncoder).load(name_or_path)

    def forward(self, portraits: Tensor) -> Tensor:
        return self.encoder(to_float(portraits))


class Translating(nn.Module):
    """Portraits with their attributes changed, by a translator."""

    def __init__(self, name_or_path: str) -> None:
        super().__init__()
        self.translator = load_translator(name_or_path)

    def forward(self, portraits: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return to_uint8(self.translator(to_float(portraits), source, target))


class Measuring(nn.Module):
    """Portraits to attribute values, in the order of `ATTRIBUTES`."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = reader()

    def forward(self, portraits: Tensor) -> Tensor:
        scores = self.reader(to_float(portraits))
        return torch.stack([row.score_to_value(scores[name]) for name, row in ATTRIBUTES.items()], 1)


class Embedding(nn.Module):
    """Portraits to identity embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = identity()

    def forward(self, portraits: Tensor) -> Tensor:
        return self.identity(to_float(portraits))


class Recognising(nn.Module):
    """Portraits to descriptors of a network that has taught nothing here."""

    def __init__(self) -> None:
        super().__init__()
        self.recognition = Recognition()

    def forward(self, portraits: Tensor) -> Tensor:
        return self.recognition(portraits.permute(0, 3, 1, 2).float())[0]


class Segmenting(nn.Module):
    """Portraits to where they show a person."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network("selfie")

    def forward(self, portraits: Tensor) -> Tensor:
        return self.network(portraits.permute(0, 3, 1, 2).float() / 255)[:, 0]


class Graph(NamedTuple):
    """A graph: what makes its module, the shape (without the batch) and type of its input, the shapes of
    further inputs by name, and which of these are float16 and not float32."""

    load: Callable[..., nn.Module]
    shape: tuple[int, ...]
    dtype: torch.dtype
    others: Mapping[str, tuple[int, ...]] = {}
    halves: frozenset[str] = frozenset()


CODES, FEATURES, PLACES = (18, 512), (CHANNELS, SIZE, SIZE), (1, SIZE, SIZE)
MOVES = {"read": (32, SIZE, SIZE), "unmoved": (2, 32, 32), "faces": PLACES}
CARRIED = (
    FEATURES,
    torch.float32,
    {
        "sampled": (CHANNELS // SAMPLED, SIZE, SIZE),
        "after": FEATURES,
        "restored": FEATURES,
        "flow": (2, 32, 32),
        "stay": PLACES,
        "lasts": PLACES,
    },
    frozenset({"restored"}),
)
GRAPHS: dict[str, Graph] = {
    **{f"generator_{s}": Graph(partial(Synthesis, s), CODES, torch.float32) for s in SIZES},
    "features": Graph(Features, CODES, torch.float32),
    **{f"decoder_{s}": Graph(partial(Decoding, s), FEATURES, torch.float32, {"codes": CODES}) for s in SIZES},
    "encoder": Graph(Encoding, (256, 256, 3), torch.uint8),
    "reader": Graph(Measuring, (256, 256, 3), torch.uint8),
    "identity": Graph(Embedding, (256, 256, 3), torch.uint8),
    "recognition": Graph(Recognising, (256, 256, 3), torch.uint8),
    "detector": Graph(lambda: load_network("blazeface"), (3, 256, 256), torch.float32),
    "mesh": Graph(lambda: load_network("facemesh"), (3, 192, 192), torch.float32),
    "residual": Graph(
        Restoring,
        (PHOTO, PHOTO, 3),
        torch.uint8,
        {"codes": CODES, "features": FEATURES, "renders": (RENDER, RENDER, 3)},
    ),
    "carrier_start": Graph(Starting, FEATURES, torch.float32),
    "carrier_moves": Graph(Moving, FEATURES, torch.float32, MOVES),
    "carrier": Graph(Carrying, *CARRIED),
    "person": Graph(Segmenting, (256, 256, 3), torch.uint8),
    "parts": Graph(Parsing, FEATURES, torch.float32, {"faces": PLACES}),
}


def graph(name: str) -> Graph:
    """The graph behind an engine's name."""
    base, *choice = name.split(":", 1)
    if choice and base.startswith("generator_"):
        return Graph(partial(Synthesis, int(base.removeprefix("generator_"))), CODES, torch.float32)
    if base == "translator":
        structure = Structure.read(load_header(*choice)[1], *choice)
        attributes = (len(structure.names),)
        picture = (structure.size, structure.size, 3)
        return Graph(Translating, picture, torch.uint8, {"source": attributes, "target": attributes})
    return GRAPHS[base]


@cache
def module(name: str) -> nn.Module:
    """The PyTorch module behind a graph's name."""
    return graph(name).load(*name.split(":", 1)[1:]).eval().requires_grad_(False)


def export(name: str, destination: BinaryIO) -> None:
    """Write a graph as ONNX with a dynamic batch axis."""
    # Weights tuned to a face are put in by name, so what depends on a generator's is folded later.
    _write(name, module(name), (), destination, fold=not name.startswith("generator_"))


def trace(name: str, weights: Mapping[str, str]) -> onnx.ModelProto:
    """A graph whose weights are inputs, see `dystyle.engines.structure`.

    Args:
        weights: names of the weight files, by how the module's own names of their tensors begin.
    """
    network, tensors = module(name), {file: load(file)[0] for file in weights.values()}
    places = {}
    for key in network.state_dict():
        for prefix, file in weights.items():
            if key.startswith(prefix) and key.removeprefix(prefix) in tensors[file]:
                places[key] = f"{file}:{key.removeprefix(prefix)}"
                break
    content = io.BytesIO()
    _write(name, _Open(copy.deepcopy(network), tuple(places)), tuple(places.values()), content)
    return onnx.load_from_string(content.getvalue())


class _Open(nn.Module):
    """A module, its own from now on, whose weights of these names are given behind its inputs."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        count = len(inputs) - len(self.names)
        # By hand: `torch.func.functional_call` cannot be traced.
        for name, tensor in zip(self.names, inputs[count:], strict=True):
            path, _, key = name.rpartition(".")
            owner = self.network.get_submodule(path)
            (owner._parameters if key in owner._parameters else owner._buffers)[key] = tensor
        return self.network(*inputs[:count])


def _write(
    name: str, network: nn.Module, weights: tuple[str, ...], destination: BinaryIO, fold: bool = True
) -> None:
    """Write a graph's module as ONNX; the last of its inputs are weights of these names."""
    made = graph(name)
    examples = [torch.zeros((2, *made.shape), dtype=made.dtype)]
    kinds = {key: torch.float16 if key in made.halves else torch.float32 for key in made.others}
    examples += [torch.zeros((2, *shape), dtype=kinds[key]) for key, shape in made.others.items()]
    inputs = ["input", *made.others]
    if isinstance(network, _Open):
        state = network.network.state_dict()
        examples += [state[key] for key in network.names]
    outputs = network(*examples)
    labels = [f"output{i}" for i in range(len(outputs) if isinstance(outputs, tuple) else 1)]
    with warnings.catch_warnings():
        # The tracing exporter's notices about Python numbers concern shapes that are fixed here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(examples),
            destination,
            input_names=[*inputs, *weights],
            output_names=labels,
            dynamic_axes={label: {0: "batch"} for label in (*inputs, *labels)},
            opset_version=17,
            do_constant_folding=fold,
            dynamo=False,
        )


# A module holds the weights it is called with for the time of a call, and threads share modules.
_running = threading.Lock()


def _on(device: str, load: Callable[..., nn.Module], *names: str) -> nn.Module:
    """The module that `load` keeps on the CPU, on a device."""
    return load(*names) if device == "cpu" else _copy(device, load, *names)


@cache
def _copy(device: str, load: Callable[..., nn.Module], *names: str) -> nn.Module:
    return copy.deepcopy(load(*names)).to(device)


class TorchBackend:
    """The reference backend: every graph as its PyTorch module. A `Backend`."""

    precision = "fp32"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def run(
        self,
        name: str,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray,
    ) -> list[np.ndarray]:
        """See `Backend.run`."""
        network, inputs = _on(self.device, module, name), (x, *(others[key] for key in graph(name).others))
        inputs = tuple(torch.from_numpy(array).to(self.device) for array in inputs)
        own = {f"generator.{k}": torch.from_numpy(w).to(self.device) for k, w in (weights or {}).items()}
        with _running:
            outputs = torch.func.functional_call(network, own, inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.cpu().numpy() for output in outputs]

    def release_memory(self) -> None:
        """Nothing is kept between runs."""

    @torch.no_grad()
    def edit(self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor") -> np.ndarray:
        """See `Backend.edit`."""
        return self._editor(editor)(*self._asked(codes, configuration)).cpu().numpy()

    @torch.no_grad()
    def attention(
        self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor"
    ) -> np.ndarray:
        """See `Backend.attention`."""
        model = self._editor(editor)
        return model.attention.weights(model.proxies(*self._asked(codes, configuration))).cpu().numpy()

    def _editor(self, editor: str) -> DyStyle:
        return _on(self.device, _editor, *editor.split(":", 1)[1:])

    def _asked(self, codes: np.ndarray, configuration: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        targets = {n: torch.full((len(codes),), v, device=self.device) for n, v in configuration.items()}
        return torch.from_numpy(codes).to(self.device), targets


@cache
def _editor(name_or_path: str = "dystyle") -> DyStyle:
    return DyStyle.load(name_or_path)
