"""How long everything takes: each stage, slider to picture, cold start; memory; and the machine's floor.

The yardsticks are timed in the same rounds, one after the other, so that a machine that is slower for a
while is slower for all of them: the `random-face` wheel's own graph on OpenVINO (at its default precision
and in float32) for the picture, and PyTorch eager.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import onnx

from dystyle.engines.cache import configuration_file, engine_file
from dystyle.engines.choice import fastest_on_cpu
from dystyle.engines.hardware import runtimes
from dystyle.errors import InputError
from dystyle.pipeline import FaceEditor
from dystyle.weights import resolve

YARDSTICK = "random-face, OpenVINO"
FIVE = {"yaw": 20.0, "age": 60.0, "smile": 1.0, "eyeglasses": 1.0, "black_hair": 1.0}
# Children, each in a fresh process on prebuilt engines; they print one line of JSON.
_COLD = """
import time; started = time.perf_counter()
import json, sys
from dystyle import FaceEditor
editor = FaceEditor.from_pretrained(backend=sys.argv[1])
editor.synthesize(editor.edit(editor.sample(0), {"age": 60}), 256)
print(json.dumps({"seconds": time.perf_counter() - started, "torch": "torch" in sys.modules}))
"""
_PAGE = """
import importlib, itertools, json, pathlib, re, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy
from dystyle import FaceEditor
from dystyle.memory import share_freed_memory
share_freed_memory()

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss counts what the parent held when it started this process
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def visit(refine):
    face = editor.invert(photo, refine)
    for names in itertools.islice(itertools.combinations(editor.attributes, 5), 24):
        edited = editor.edit(face.code, {name: editor.attributes[name].high for name in names})
        editor.synthesize(edited, 256, face)
        portrait = editor.synthesize(edited, face=face)
    editor.measure(portrait), editor.paste(portrait, face, photo)
    return peak()

def edit_until(done):
    for _ in iter(done.is_set, True):
        edited = editor.edit(editor.sample(1), {"age": 60})
        editor.synthesize(edited, 256), editor.synthesize(edited)

def visit_beside(refine):
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        somebody_else = pool.submit(edit_until, done)
        try:
            return visit(refine)
        finally:
            done.set(), somebody_else.result()

editor = FaceEditor.from_pretrained(backend=sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
editor.warm_up((1024, 256))
photo = numpy.tile(editor.synthesize(editor.sample(0)), (3, 4, 1))  # 12 megapixels
peaks, torch = {"fast": visit("fast")}, "torch" in sys.modules
peaks |= {refine: visit(refine) for refine in ("balanced", "precise")}
peaks["beside"] = visit_beside("precise")
print(json.dumps({"peak_bytes": peaks, "torch": torch}))
"""


@dataclass(frozen=True)
class LatencyConfig:
    """What is timed.

    Attributes:
        backend: what runs the engines: "auto", "onnx" or "openvino".
        repeats: rounds; every round times everything once.
        cold_starts: fresh processes for the cold start.
        beside: modules that the process whose memory is measured holds beside the package, as the page's does
            ("webapp.page").
    """

    backend: str = "auto"
    repeats: int = 40
    cold_starts: int = 5
    beside: tuple[str, ...] = ()


def evaluate_latency(config: LatencyConfig, plots: Path | None = None) -> dict:
    """Time everything; see `table` for what comes out.

    Raises:
        InputError: the backend is not a CPU's, or less than one repetition.
    """
    if config.backend not in ("auto", "onnx", "openvino"):
        raise InputError(f"backend = '{config.backend}' is not timed here; choose auto, onnx or openvino.")
    if config.repeats < 1 or config.cold_starts < 1:
        raise InputError("Give at least one repetition and one cold start.")
    backend = fastest_on_cpu() if config.backend == "auto" else config.backend
    editor = FaceEditor.from_pretrained(backend=backend)
    editor.warm_up()
    work = _stages(editor) | _fresh(editor) | _yardsticks(editor.sample(0)) | _eager()
    seconds = time_work(work, config.repeats)
    base = np.median(seconds[YARDSTICK]) if YARDSTICK in seconds else None
    stages = {
        name: {
            "median": float(np.median(s)),
            "p95": float(np.percentile(s, 95)),
            "ratio": None if base is None else float(np.median(s) / base),
        }
        for name, s in seconds.items()
    }
    cold = [_child(_COLD, backend) for _ in range(config.cold_starts)]
    page = _child(_PAGE, backend, *config.beside)
    result = {
        "machine": describe_machine(),
        "versions": {n: _version(n) for n in ("onnxruntime", "openvino", "torch")},
        "backend": backend,
        "repeats": config.repeats,
        "stages": stages,
        "cold_start": {"median": float(np.median([c["seconds"] for c in cold]))},
        "page": {"peak_bytes": page["peak_bytes"], "beside": config.beside},
        "imports_torch": page["torch"] or any(c["torch"] for c in cold),
        "floor": floor(editor.backend.precision),
    }
    if plots is not None:
        _plot(result, plots / "latency.png")
    return result


def _stages(editor: FaceEditor) -> dict[str, Callable]:
    """Each stage of the pipeline, and what a slider sets off."""
    code = editor.sample(0)
    photo = editor.synthesize(code)
    face = editor.invert(photo)
    return {
        "align": lambda: editor.align(photo),
        "encode": lambda: editor.encode(face.portrait),
        "edit, 1 attribute": lambda: editor.edit(code, {"age": 60}),
        "edit, 5 attributes": lambda: editor.edit(code, FIVE),
        "edit, 5 attributes, a look": lambda: editor.edit(code, FIVE, looks=1),
        "preview, 256 px": lambda: editor.synthesize(code, 256),
        "full, 1024 px": lambda: editor.synthesize(code),
        "measure": lambda: editor.measure(photo),
        "paste": lambda: editor.paste(photo, face, photo),
        "slider to preview": lambda: editor.synthesize(editor.edit(code, FIVE), 256),
        "slider to full": lambda: editor.synthesize(editor.edit(code, FIVE)),
    }


def _fresh(editor: FaceEditor) -> dict[str, Callable]:
    """The first edit with a configuration that was never seen before: its graph is assembled and opened."""
    code = editor.sample(0)
    unseen = itertools.cycle(itertools.combinations(editor.attributes, 4))

    def first_edit() -> None:
        editor.edit(code, {name: editor.attributes[name].high for name in names})

    def forget() -> Callable:
        nonlocal names
        names = next(unseen)
        configuration_file(names).unlink()
        return first_edit

    names: tuple[str, ...] = ()
    first_edit.prepare = forget
    return {"first edit, new configuration": first_edit}


def _yardsticks(code: np.ndarray) -> dict[str, Callable]:
    """The wheel's synthesis network, untouched, as its users run it."""
    if reason := runtimes()["openvino"]:
        print(f"the random-face graph is left out: {reason}")
        return {}
    import openvino

    core, found = openvino.Core(), {}
    for name, options in ((YARDSTICK, {}), (f"{YARDSTICK} float32", {"INFERENCE_PRECISION_HINT": "f32"})):
        compiled = core.compile_model(
            core.read_model(resolve("random_face") / "SynthesisNetwork.xml"), "CPU", options
        )
        request = compiled.create_infer_request()
        found[name] = lambda request=request: request.infer({"style": code[:1]})
    return found


def _eager() -> dict[str, Callable]:
    editor = FaceEditor.from_pretrained(backend="torch")
    code = editor.sample(0)
    return {
        "PyTorch eager: edit, 5 attributes": lambda: editor.edit(code, FIVE),
        "PyTorch eager: preview, 256 px": lambda: editor.synthesize(code, 256),
        "PyTorch eager: full, 1024 px": lambda: editor.synthesize(code),
    }


def time_work(work: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repetition, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, run in work.items():
            getattr(run, "prepare", lambda: None)()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: s[1:] for name, s in seconds.items()}


def _child(code: str, *arguments: str) -> dict:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"A fresh process failed: {done.stderr.strip().splitlines()[-1]}.")
    return json.loads(done.stdout.splitlines()[-1])


def floor(precision: str = "fp32") -> dict:
    """The least time for pictures: operations and bytes over what this machine reaches in both.

    Operations are those of convolutions and matrix products; bytes their weights, inputs and outputs, each
    moved once, in the precision of the pictures.
    """
    width = 4 if precision == "fp32" else 2
    speed = _operations_per_second(precision)
    copied = _bytes_per_second()
    result = {"operations_per_second": speed, "bytes_per_second": copied, "precision": precision}
    for size in (256, 1024):
        operations, values = count(onnx.load(engine_file(f"generator_{size}")))
        result[f"{size}"] = {
            "operations": operations,
            "bytes": values * width,
            "seconds": max(operations / speed, values * width / copied),
        }
    return result


def count(model: onnx.ModelProto) -> tuple[int, int]:
    """Floating-point operations of a model's convolutions and matrix products, and the values they touch."""
    for axis in (v.type.tensor_type.shape.dim[0] for v in (*model.graph.input, *model.graph.output)):
        axis.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    operations = values = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        x, weight, out = (shapes[n] for n in (node.input[0], node.input[1], node.output[0]))
        inner = np.prod(weight[1:]) if node.op_type == "Conv" else x[-1]
        operations += int(2 * np.prod(out) * inner)
        values += sum(int(np.prod(shapes[n])) for n in (*node.input, *node.output))
    return operations, values


def _operations_per_second(precision: str) -> float:
    """In a product of square matrices, the best of five."""
    import torch

    side, kind = 2048, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    a, b = (torch.randn(side, side).to(kind) for _ in range(2))
    return 2 * side**3 / min(time_work({"": lambda: a @ b}, 5)[""])


def _bytes_per_second() -> float:
    """Read and written in a copy of 256 MB, the best of five."""
    source = np.ones(1 << 26, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / min(time_work({"": lambda: np.copyto(target, source)}, 5)[""])


def describe_machine() -> str:
    """The processor and its number of logical cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical cores"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(result: dict) -> str:
    """The result as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    lines = [
        f"{result['machine']}; engines on {result['backend']}; {versions}; {result['repeats']} rounds.",
        "",
        "| stage | median, ms | 95th percentile, ms | x random-face graph |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["stages"].items():
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        lines.append(f"| {name} | {1e3 * row['median']:.1f} | {1e3 * row['p95']:.1f} | {ratio} |")
    bound = result["floor"]
    beside = " and ".join(result["page"].get("beside", ()))
    process = f"a process with {beside}" if beside else "a process of the package"
    peaks = {refine: peak / 1e9 for refine, peak in result["page"]["peak_bytes"].items()}
    lines += [
        "",
        f"Cold start on prebuilt engines, from a new process to the first edited preview: "
        f"{result['cold_start']['median']:.2f} s (median). Peak memory of {process} after the "
        f"upload of a 12 megapixel photo, edits and full renders in 24 configurations and the paste: "
        f"{peaks['fast']:.2f} GB; PyTorch was {'' if result['imports_torch'] else 'not '}imported. After the "
        f"same with a balanced refinement, which needs it: {peaks['balanced']:.2f} GB; and then with a "
        f"precise one: {peaks['precise']:.2f} GB; with another precise one, while somebody else edits "
        f"without a pause: {peaks['beside']:.2f} GB.",
        "",
        f"Floor in {bound['precision']}: this machine reaches {bound['operations_per_second'] / 1e9:.0f} "
        f"GFLOP/s in a matrix product and {bound['bytes_per_second'] / 1e9:.1f} GB/s in a copy.",
        "",
        "| picture | GFLOP | MB | floor, ms | measured / floor |",
        "|---|---:|---:|---:|---:|",
    ]
    for size, stage in (("256", "preview, 256 px"), ("1024", "full, 1024 px")):
        row, measured = bound[size], result["stages"][stage]["median"]
        lines.append(
            f"| {size} px | {row['operations'] / 1e9:.2f} | {row['bytes'] / 1e6:.0f} | "
            f"{1e3 * row['seconds']:.1f} | {measured / row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def _plot(result: dict, path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(result["stages"])
    medians, late = (np.array([1e3 * result["stages"][n][k] for n in names]) for k in ("median", "p95"))
    figure, axes = pyplot.subplots(figsize=(8, 6), constrained_layout=True)
    own = [not name.startswith(("random-face", "PyTorch")) for name in names]
    axes.barh(
        names,
        medians,
        xerr=(0 * late, np.maximum(late - medians, 0)),
        height=0.6,
        color=["#2a6fb0" if mine else "#b8b8b8" for mine in own],
        ecolor="#555555",
    )
    for size, style in (("256", ":"), ("1024", "--")):
        bound = 1e3 * result["floor"][size]["seconds"]
        axes.axvline(bound, color="#c0392b", linestyle=style, linewidth=1, label=f"floor, {size} px")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds: median, whisker to the 95th percentile")
    axes.invert_yaxis()
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
