"""Build the engines ahead of the first start: python -m dystyle.export [--verify].

Engines go to the user's cache, where `FaceEditor` finds them, with a manifest of what was built. All
configurations of an editor share one weight file; of a configuration only its graph is written, some
kilobytes. With --verify every engine is compared with PyTorch in float32; nothing else here needs PyTorch.
"""

import hashlib
import importlib.metadata
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import tyro

from dystyle.attributes import ATTRIBUTES, validate_configuration
from dystyle.editors.structure import Structure
from dystyle.encoders import SAMPLED, SIZE
from dystyle.engines.cache import configuration_file, engine_file
from dystyle.engines.generator_graph import BLOCKS
from dystyle.engines.hardware import PICTURES, PRECISIONS, tensorrt_runtime
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from dystyle.engines.recipes import TRACED
from dystyle.engines.repository import editor_name, write_ensemble, write_model
from dystyle.errors import InputError, needed
from dystyle.generators.facts import DEFAULT, GeneratorFacts
from dystyle.pictures import check_writable
from dystyle.pipeline import encoder_graph
from dystyle.weights import cache_folder, load, resolve

# Largest difference allowed. Pictures: levels before rounding, in the range [-1, 1].
LIMITS = {
    "generator": 2e-3,
    "features": 5e-3,
    "decoder": 2e-3,
    "encoder": 2e-3,
    "reader": 5e-2,
    "identity": 1e-3,
    "recognition": 1e-3,
    "detector": 5e-2,
    "mesh": 5e-2,
    "residual": 5e-2,
    "carrier": 5e-2,
    "parts": 1e-2,
    "person": 2e-2,
}
EDITOR_LIMIT = 1e-4
SIDES = {"detector": 256, "mesh": 192}  # px of these networks' pictures
PSNR_LIMIT = 45.0  # decibels, of pictures in reduced precision


@dataclass(frozen=True)
class BuildConfig:
    """Build and check engines.

    Attributes:
        configurations: attributes separated by commas, "singles", "pairs" or "all".
        backend: "onnx" or "openvino" on the CPU, "cuda" (ONNX Runtime's) or "tensorrt" on a GPU.
        precision: of the pictures; without it the backend's default. Everything else computes in fp32.
        generator: "mobile_stylegan", or a StyleGAN2 (a name or a path) to build engines of instead.
        encoder: "fast", "e4e", or the path of an encoder.
        editor: "dystyle", or the path of an editor trained here (.safetensors).
        verify: compare every engine with PyTorch and fail beyond the stated limits.
        report: a Markdown file for the comparison, editors by their number of attributes.
        layout: put the models into a folder for an inference server, too: "triton DIR" is a model repository
            with batching and ensembles, "kserve DIR" has the Open Inference Protocol's metadata instead.
    """

    configurations: tuple[str, ...] = ("singles",)
    backend: Literal["onnx", "openvino", "cuda", "tensorrt"] = "onnx"
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    generator: str = DEFAULT
    encoder: str = "fast"
    editor: str = "dystyle"
    verify: bool = False
    report: Path | None = None
    layout: tuple[Literal["triton", "kserve"], Path] | None = None


def expand(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What "singles", "pairs", "all" and "age,smile" mean for an editor of the attributes `names`.

    Raises:
        InputError: an attribute the editor does not know.
    """
    sizes = {"singles": (1,), "pairs": (2,), "all": range(1, len(names) + 1)}
    found: list[tuple[str, ...]] = []
    for item in wanted:
        if item in sizes:
            found += [c for size in sizes[item] for c in itertools.combinations(names, size)]
        else:
            parts = dict.fromkeys(item.split(","), 0.5)
            if unknown := [name for name in parts if name not in names]:
                raise InputError(f"The editor has no '{unknown[0]}'; choose from {', '.join(names)}.")
            found.append(tuple(name for name in names if name in parts))
    return list(dict.fromkeys(found))


def open_backend(backend: str, precision: str | None) -> OnnxBackend:
    """What runs the engines.

    Raises:
        InputError: the backend is not available here, or not in this precision.
    """
    runtime = (tensorrt_runtime() or "tensorrt") if backend == "tensorrt" else backend
    if precision not in (None, *PRECISIONS[runtime]):
        known = ", ".join(PRECISIONS[runtime])
        raise InputError(f"{runtime} renders pictures in {known}, not in {precision}; choose one of these.")
    if backend == "openvino":
        return OpenVinoBackend(precision)
    return OnnxBackend("cpu" if backend == "onnx" else runtime, precision or "fp32")


def example(name: str, faces: np.ndarray, codes: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
    """Realistic inputs of a graph by name: codes, portraits, pictures in the network's range, features."""
    if name.startswith(("generator", "features")):
        return {"input": codes}
    if name.startswith("decoder"):
        return {"input": features, "codes": codes}
    nowhere = np.zeros((len(features), 1, SIZE, SIZE), np.float32)
    if name == "residual":
        known = {"codes": codes, "features": features, "renders": faces.astype(np.float32)}
        return {"input": faces.repeat(2, 1).repeat(2, 2), **known}
    if name == "carrier_start":
        return {"input": features}
    flow = 0.01 * features[:, :2, :32, :32]
    if name == "carrier_moves":
        return {"input": features, "read": 0.1 * features[:, :32], "unmoved": flow, "faces": nowhere}
    if name == "carrier":
        residuals = 0.3 * features
        others = {
            "sampled": features[:, ::SAMPLED].copy(),
            "after": features[::-1].copy(),
            "restored": (features + residuals).astype(np.float16),
            "flow": flow,
            "stay": nowhere,
            "lasts": 1 - nowhere,
        }
        return {"input": residuals, **others}
    if name == "parts":
        return {"input": features, "faces": nowhere}
    if name in ("detector", "mesh"):
        side = SIDES[name]
        pictures = faces[:, :side, :side].transpose(0, 3, 1, 2).astype(np.float32) / 255
        return {"input": pictures * 2 - 1 if name == "detector" else pictures}
    return {"input": faces}


def unrounded(model: onnx.ModelProto) -> bytes:
    """A generator's engine that ends before rounding to bytes: levels in [0, 255], float32."""
    source = next(node.input[0] for node in reversed(model.graph.node) if node.op_type == "Clip")
    cut = onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(cut)
    return model.SerializeToString()


def compare_pictures(
    backend: OnnxBackend, name: str, feeds: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(the engine's pictures before rounding, PyTorch's), (b, s, s, 3) about [-1, 1].

    One after the other: a StyleGAN2 takes gigabytes for each picture of 1024 px.
    """
    import torch

    from dystyle.engines.graphs import module

    run = backend.compile(name, unrounded(onnx.load(engine_file(name))))
    single = [{key: x[i : i + 1] for key, x in feeds.items()} for i in range(len(feeds["input"]))]
    levels = np.concatenate([run(feed)[0] for feed in single])
    if ":" not in name:  # assembled by `generator_graph`: the quarters of every 2 x 2 pixels side by side
        b, _, half, _ = levels.shape
        quarters = levels.reshape(b, 2, 2, 3, half, half).transpose(0, 4, 1, 5, 2, 3)
        levels = quarters.reshape(b, 2 * half, 2 * half, 3)
    else:
        levels = levels.transpose(0, 2, 3, 1)
    with torch.no_grad():
        images = [module(name).images(*map(torch.from_numpy, feed.values())) for feed in single]
    pictures = (levels / 127.5 - 1).clip(-1, 1)
    return pictures, torch.cat(images).clamp(-1, 1).permute(0, 2, 3, 1).numpy()


def parity(name: str, outputs, expected, limit: float, reduced: bool = False) -> dict:
    """Differences of an engine's outputs from PyTorch's; what is computed in reduced precision is held to
    a PSNR, of the range of what is expected."""
    differences = [np.abs(a.astype(float) - b) for a, b in zip(outputs, expected, strict=True)]
    result = {
        "largest": float(max(d.max() for d in differences)),
        "mean": float(np.mean([d.mean() for d in differences])),
    }
    if name.startswith(PICTURES):
        worst = max(np.square(d).mean() / np.ptp(b) ** 2 for d, b in zip(differences, expected, strict=True))
        result["psnr"] = float(-10 * np.log10(max(worst, 1e-20)))
    good = result["psnr"] >= PSNR_LIMIT if reduced else result["largest"] <= limit
    return result | {"limit": f">= {PSNR_LIMIT:g} dB" if reduced else f"{limit:.0e}", "passed": bool(good)}


def line(name: str, row: dict) -> str:
    """A line of the parity table."""
    psnr = f"{row['psnr']:8.1f}" if "psnr" in row else " " * 8
    failed = "" if row["passed"] else "FAILED"
    return f"{name:44} {row['largest']:10.2e} {row['mean']:10.2e} {psnr} {row['limit']:>9} {failed}"


def table(manifest: dict) -> str:
    """A manifest's parity as Markdown; of editors with the same number of attributes the worst."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    lines = [
        f"Backend {manifest['backend']}, pictures in {manifest['precision']}; {versions}.",
        "",
        "| engine | largest | mean | PSNR, dB | limit | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    groups: dict[str, list[dict]] = {}
    for name, entry in manifest["engines"].items():
        if name.startswith("editor:"):
            count = name.count(",") + 1
            name = f"editor, {count} attribute{'s'[: count > 1]}"
        if "parity" in entry:
            groups.setdefault(name, []).append(entry["parity"])
    for name, rows in groups.items():
        name = f"{name} ({len(rows)} configurations)" if len(rows) > 1 else name
        largest, mean = (max(row[k] for row in rows) for k in ("largest", "mean"))
        psnr = f"{min(row['psnr'] for row in rows):.1f}" if "psnr" in rows[0] else ""
        good = "passed" if all(row["passed"] for row in rows) else "FAILED"
        lines.append(f"| {name} | {largest:.1e} | {mean:.1e} | {psnr} | {rows[0]['limit']} | {good} |")
    return "\n".join(lines) + "\n"


def describe(file: Path) -> dict:
    """A manifest's entry for an engine's file."""
    content = file.read_bytes()
    entry = {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if file.suffix == ".onnx":
        graph = onnx.load(file, load_external_data=False).graph
        for part in ("input", "output"):
            entry[part] = {
                value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                for value in getattr(graph, part)
            }
    return entry


def build(config: BuildConfig) -> bool:
    """Build, print one line an engine, write the manifest; whether all are within the limits."""
    backend = open_backend(config.backend, config.precision)
    if config.layout:
        check_writable(config.layout[1] / "model.onnx")
    if config.verify:
        with needed("torch", "--verify"):
            from dystyle.engines.graphs import TorchBackend

        reference = TorchBackend()
    precision = backend.precision
    editor = "editor" if config.editor == "dystyle" else f"editor:{resolve(config.editor).absolute()}"
    structure = Structure.read(load(config.editor)[1], config.editor)
    rng = np.random.default_rng(0)
    people = GeneratorFacts.load()
    codes = np.stack([people.sample(seed, truncation=0.7) for seed in range(3)])
    faces, features = backend.run("generator_256", codes)[0], backend.run("features", codes)[0]
    generator = GeneratorFacts.load(config.generator)
    graphs = [generator.graph(size) for size in generator.sizes]
    graphs += ["features", *(f"decoder_{size}" for size in BLOCKS), *TRACED]
    entries = {}
    if config.verify:
        print(f"{'engine':44} {'largest':>10} {'mean':>10} {'PSNR, dB':>8} {'limit':>9}")

    def record(name: str, model: str, file: Path, row: dict | None) -> None:
        entries[name] = describe(file) | ({"parity": row} if row else {})
        if config.layout:
            write_model(*config.layout, model, file)
        print(line(name, row) if row else name, flush=True)

    for graph in graphs:
        name = encoder_graph(config.encoder) if graph == "encoder" else graph
        feeds, row = example(graph, faces, codes, features), None
        x, others = feeds["input"], {key: value for key, value in feeds.items() if key != "input"}
        outputs = backend.run(name, x, **others)
        if config.verify:
            expected = reference.run(name, x, **others)
            if graph.startswith(("generator", "decoder")):
                outputs, expected = ([picture] for picture in compare_pictures(backend, name, feeds))
            reduced = precision != "fp32" and graph.startswith(PICTURES)
            row = parity(name, outputs, expected, LIMITS[graph.split("_")[0]], reduced)
        record(name, graph.split(":")[0], engine_file(name), row)
    entries["editor weights"] = describe(engine_file(editor))
    for names in expand(structure.names, config.configurations):
        rows = [ATTRIBUTES[name] for name in names]
        target = validate_configuration({row.name: rng.uniform(row.low, row.high) for row in rows})
        edited, row = backend.edit(codes, target, editor), None
        if config.verify:
            row = parity("editor", [edited], [reference.edit(codes, target, editor)], EDITOR_LIMIT)
        record("editor:" + ",".join(names), editor_name(names), configuration_file(names, editor), row)
        if config.layout and config.layout[0] == "triton":
            write_ensemble(config.layout[1], names, generator.sizes[0])
    packages = ("onnx", "openvino", "torch", "numpy")
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    manifest = {
        "backend": config.backend,
        "precision": precision,
        "versions": {name: installed[name] for name in packages if name in installed}
        | {"onnxruntime": onnxruntime.__version__},  # of onnxruntime-gpu, too
        "engines": entries,
    }
    file = cache_folder() / "engines" / f"manifest-{config.backend}-{precision}.json"
    _write(file, json.dumps(manifest, indent=2) + "\n")
    print(f"The manifest is {file}")
    if config.report:
        _write(config.report, table(manifest))
    return all(entry.get("parity", {}).get("passed", True) for entry in entries.values())


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise InputError(f"'{file}' cannot be written ({error.strerror}); free some space there.") from error


def main() -> None:
    try:
        good = build(tyro.cli(BuildConfig, prog="python -m dystyle.export"))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if not good:
        print("Some engines differ from PyTorch by more than the limit.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
