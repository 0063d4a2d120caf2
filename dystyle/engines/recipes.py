"""What every engine is made from, and the fingerprint over all of it that its file carries in its name."""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dystyle.attributes import ATTRIBUTES
from dystyle.weights import digest, load_header, resolve

PACKAGE = Path(__file__).resolve().parent.parent
ASSEMBLED, EXPORTED = ("numpy", "onnx"), ("numpy", "onnx", "torch")
ASSEMBLED_GRAPHS = ("generator_", "features", "decoder_")  # see `dystyle.engines.generator_graph`


@dataclass(frozen=True)
class Traced:
    """A network whose graph PyTorch has traced: the file in `structures` holds all of it but the weights.

    Attributes:
        modules: define the network.
        weights: names of what is put into the graph, by how the network's own names of those tensors begin.
    """

    modules: tuple[str, ...]
    weights: Mapping[str, str]


_READER = ("mesh", "iris", "emotion", "age_gender", "probe")
_KNOWLEDGE = {"mesh": "facemesh"}
_CARRYING = Traced(("dystyle.encoders.carrier",), {"carrier.": "carrier"})
TRACED = {
    "encoder": Traced(("dystyle.encoders.fast",), {"encoder.": "encoder"}),
    "reader": Traced(
        ("dystyle.knowledge.readings",),
        {f"reader.{part}.": f"knowledge/{_KNOWLEDGE.get(part, part)}" for part in _READER}
        | {"reader.": "knowledge/calibration"},
    ),
    "identity": Traced(("dystyle.knowledge.readings",), {"identity.network.": "knowledge/faceres"}),
    "recognition": Traced(
        ("dystyle.metrics.independent_judges",), {"recognition.network.": "judges/face_recognition"}
    ),
    "detector": Traced(("dystyle.knowledge.networks",), {"": "knowledge/blazeface"}),
    "mesh": Traced(("dystyle.knowledge.networks",), {"": "knowledge/facemesh"}),
    "person": Traced(("dystyle.knowledge.networks",), {"network.": "knowledge/selfie"}),
    "residual": Traced(("dystyle.encoders.features",), {"encoder.": "features"}),
    "carrier_start": _CARRYING,
    "carrier_moves": Traced(
        ("dystyle.encoders.carrier", "dystyle.encoders.parser"), {"carrier.": "carrier", "parser.": "parser"}
    ),
    "carrier": _CARRYING,
    "parts": Traced(("dystyle.encoders.parser",), {"parser.": "parser"}),
}
# What reads weights, and so gives no graph its shape.
_READING = ("dystyle.errors", "dystyle.torch_files", "dystyle.weights")


@dataclass(frozen=True)
class Recipe:
    """What an engine is made from: a change in any of these makes another engine.

    Attributes:
        module: makes it. Its source counts, and that of whatever it imports from this package; where this is
            the attribute table, so does what stands in the table.
        weights: names or paths of what is put into it.
        packages: write the file; their versions count.
        structure: the file that holds the graph, if one does.
    """

    module: str
    weights: tuple[str, ...]
    packages: tuple[str, ...]
    structure: Path | None = None


def recipe(name: str) -> Recipe:
    """The recipe of an engine, see `dystyle.engines.graphs`; "editor" is the weight file of one."""
    graph, *choice = name.split(":", 1)
    if graph == "editor":
        return Recipe("dystyle.engines.editor_graph", (*choice,) or ("dystyle",), ASSEMBLED)
    if graph.startswith(ASSEMBLED_GRAPHS) and not choice:
        weights = ("mobile_stylegan", "preview_heads")
        return Recipe("dystyle.engines.generator_graph", weights, ASSEMBLED)
    weights = (*choice,) or tuple(TRACED[graph].weights.values())
    if not choice and is_current(graph):
        file = structures_folder() / f"{graph}.onnx"
        return Recipe("dystyle.engines.structure", weights, ASSEMBLED, file)
    return Recipe("dystyle.engines.graphs", weights, EXPORTED)


def structures_folder() -> Path:
    """Where the traced graphs lie, and what each was traced from: `made_from.json`."""
    return PACKAGE / "engines" / "structures"


def is_current(graph: str) -> bool:
    """Whether the file of a traced graph is what tracing it now would give."""
    return recorded().get(graph) == structure_fingerprint(graph)


def recorded() -> dict[str, str]:
    """What the files of traced graphs were made from, by graph."""
    file = structures_folder() / "made_from.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def structure_fingerprint(graph: str) -> str:
    """Sixteen hexadecimal digits for everything that shapes a traced graph.

    That is the sources of its network, the attribute table where they use it, and the shapes of its weights;
    neither the weights' values nor any package, so that new weights of a network need no new structure.

    Raises:
        InputError: weights are missing.
    """
    traced = TRACED[graph]
    used = {file for module in traced.modules for file in sources(module)}
    files = {_file(TRACER), *used} - {_file(module) for module in _READING}
    parts = [f"{file.relative_to(PACKAGE).as_posix()} {_text_digest(file)}" for file in sorted(files)]
    if _file("dystyle.attributes") in files:
        parts.append(_table())
    for weights in traced.weights.values():
        shapes, metadata = load_header(weights)
        described = {key: metadata[key] for key in ("structure", "graph") if key in metadata}
        parts.append(json.dumps([sorted(shapes.items()), described]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


TRACER = "dystyle.engines.graphs"  # traces the networks, with what it puts around them


def fingerprint(name: str) -> str:
    """Sixteen hexadecimal digits for everything that shapes an engine.

    Raises:
        InputError: weights are missing.
    """
    made_from = recipe(name)
    files = sources(made_from.module)
    parts = [f"{file.relative_to(PACKAGE).as_posix()} {digest(file)}" for file in files]
    if _file("dystyle.attributes") in files:
        parts.append(_table())
    parts += [digest(resolve(weights)) for weights in made_from.weights]
    parts += [digest(made_from.structure)] if made_from.structure else []
    parts += [f"{package} {_version(package)}" for package in made_from.packages]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def sources(module: str) -> tuple[Path, ...]:
    """The files of a module and of all that it imports from this package, directly or not, in order."""
    found, left = set(), [module]
    while left:
        file = _file(left.pop())
        if file is not None and file not in found:
            found.add(file)
            left += _imports(file.read_text(encoding="utf-8"))
    return tuple(sorted(found))


# Read like this because parsing takes a tenth of a second at every start.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(dystyle[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(dystyle[\w.]*))", re.M
)


def _imports(source: str) -> list[str]:
    """Modules of this package that a source imports, and some names that may be modules."""
    modules = []
    for package, names, module in _IMPORT.findall(source):
        modules += [module] if module else [package, *(f"{package}.{n}" for n in re.findall(r"\w+", names))]
    return [module for module in modules if module != "dystyle"]  # which imports nothing by itself


def _file(module: str) -> Path | None:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def _table() -> str:
    """The attribute table as it stands; of functions in it the name."""
    rows = [dataclasses.asdict(row) for row in ATTRIBUTES.values()]
    return json.dumps(rows, default=lambda value: getattr(value, "__qualname__", type(value).__name__))


def _text_digest(file: Path) -> str:
    """As `digest`, whatever a checkout makes of the ends of lines."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
