"""The networks behind `FaceEditor` as PyTorch modules with plain arrays in and out, and their export.

The only module of this package that imports torch: it is needed to build engines and to run the
reference backend, not to run engines.

| graph | input | output |
|---|---|---|
| `generator_1024`, `_256`, `_128` | codes (b, 18, 512) float32 | pictures (b, size, size, 3) uint8 RGB |
| `generator_SIZE:PATH` | codes (b, 18, 512) float32 | pictures (b, size, size, 3) uint8 RGB |
| `encoder`, `encoder:NAME_OR_PATH` | portraits (b, 256, 256, 3) uint8 | codes (b, 18, 512) float32 |
| `reader` | portraits (b, 256, 256, 3) uint8 | values (b, len(ATTRIBUTES)) float32 |
| `identity` | portraits (b, 256, 256, 3) uint8 | unit embeddings (b, 1024) float32 |
| `detector` | (b, 3, 256, 256) float32 in [-1, 1] | scores (b, 896), boxes (b, 896, 16) |
| `mesh` | (b, 3, 192, 192) float32 in [0, 1] | points (b, 468, 3) |

`encoder` is the bundled one; behind the colon stands another: "e4e", or the file of one. `generator_SIZE`
likewise: behind the colon stands the file of a StyleGAN2 (`dystyle.generators.checkpoints.save`).
"""

import copy
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.dystyle import DyStyle
from dystyle.encoders.fast import FastEncoder
from dystyle.encoders.psp import PspEncoder
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.networks import load_network
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.weights import resolve

if TYPE_CHECKING:
    from dystyle.generators.stylegan2 import StyleGAN2


@cache
def generator(file: str | Path | None = None) -> "MobileStyleGAN | StyleGAN2":
    """The default generator with its preview heads, or the StyleGAN2 in a file, shared and frozen."""
    return open_generator(file)


def open_generator(file: str | Path | None = None) -> "MobileStyleGAN | StyleGAN2":
    """As `generator`, but the caller's own."""
    if file is not None:
        from dystyle.generators.checkpoints import read_generator  # brings PyTorch's compiler along

        return read_generator(file)
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), resolve("preview_heads"))


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

    def forward(self, codes: Tensor) -> Tensor:
        return to_uint8(self.generator(codes, self.size))


class Encoding(nn.Module):
    """Portraits to codes, by a fast encoder (.safetensors) or a checkpoint of e4e or pSp."""

    def __init__(self, name_or_path: str = "encoder") -> None:
        super().__init__()
        fast = resolve(name_or_path).suffix == ".safetensors"
        self.encoder = (FastEncoder if fast else PspEncoder).load(name_or_path)

    def forward(self, portraits: Tensor) -> Tensor:
        return self.encoder(to_float(portraits))


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


GRAPHS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], torch.dtype]] = {
    **{f"generator_{s}": (lambda s=s: Synthesis(s), (18, 512), torch.float32) for s in (1024, 256, 128)},
    "encoder": (Encoding, (256, 256, 3), torch.uint8),
    "reader": (Measuring, (256, 256, 3), torch.uint8),
    "identity": (Embedding, (256, 256, 3), torch.uint8),
    "detector": (lambda: load_network("blazeface"), (3, 256, 256), torch.float32),
    "mesh": (lambda: load_network("facemesh"), (3, 192, 192), torch.float32),
}


@cache
def module(name: str) -> nn.Module:
    """The PyTorch module behind a graph's name."""
    graph, *choice = name.split(":", 1)
    if choice and graph.startswith("generator_"):
        return Synthesis(int(graph.removeprefix("generator_")), *choice).eval()
    return GRAPHS[graph][0](*choice).eval().requires_grad_(False)


def export(name: str, destination: Path) -> None:
    """Write a graph as ONNX with a dynamic batch axis."""
    is_generator = name.startswith("generator_")
    _, shape, dtype = GRAPHS["generator_1024" if is_generator else name.split(":")[0]]
    example = torch.zeros((2, *shape), dtype=dtype)
    outputs = module(name)(example)
    labels = [f"output{i}" for i in range(len(outputs) if isinstance(outputs, tuple) else 1)]
    with warnings.catch_warnings():
        # The tracing exporter's notices about Python numbers concern shapes that are fixed here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module(name),
            (example,),
            destination,
            input_names=["input"],
            output_names=labels,
            dynamic_axes={label: {0: "batch"} for label in ("input", *labels)},
            opset_version=17,
            # Weights tuned to a face are put in by name, so what depends on a generator's is folded later.
            do_constant_folding=not is_generator,
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
    """The reference backend: every graph as its PyTorch module."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def run(
        self, name: str, x: np.ndarray, weights: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The outputs of a graph for a batch; `weights` stand in for the generator's, by name."""
        graph, x = _on(self.device, module, name), torch.from_numpy(x).to(self.device)
        own = {f"generator.{k}": torch.from_numpy(w).to(self.device) for k, w in (weights or {}).items()}
        with _running:
            outputs = torch.func.functional_call(graph, own, (x,))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.cpu().numpy() for output in outputs]

    def release_memory(self) -> None:
        """Nothing is kept between runs."""

    @torch.no_grad()
    def edit(self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor") -> np.ndarray:
        """Edited codes (b, 18, 512) for one configuration, by the bundled editor or "editor:PATH"."""
        editor = _on(self.device, _editor, *editor.split(":", 1)[1:])
        targets = {n: torch.full((len(codes),), v, device=self.device) for n, v in configuration.items()}
        return editor(torch.from_numpy(codes).to(self.device), targets).cpu().numpy()


@cache
def _editor(name_or_path: str = "dystyle") -> DyStyle:
    return DyStyle.load(name_or_path)
