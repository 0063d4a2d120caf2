"""Speed of StyleGAN2's ops and generator: compiled, reference, torch.compile, and what memory allows;
of the default generator: every runtime's engine beside PyTorch."""

import copy
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from cuda_ext import build
from dystyle.backend import Backend
from dystyle.engines.graphs import TorchBackend, module
from dystyle.engines.hardware import PRECISIONS, runtimes
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from dystyle.errors import InputError
from dystyle.generators.facts import GeneratorFacts
from dystyle.generators.stylegan2 import FILTER, StyledConv, StyleGAN2, ToRGB
from dystyle.ops import bias_act, conv2d_resample, fold_style, modulated_conv2d, setup_filter, upfirdn2d
from dystyle.ops.compiled import load
from dystyle.ops.upfirdn2d import SYM6

COPIED = 2**28  # bytes, more than any cache holds
ROUNDS = 5  # at least, of which the median counts
METHODS = ("compiled", "reference", "torch.compile")
HEADING = """\
# {title}

Made by `python -m dystyle.evaluate {command}` on {device} ({threads} threads) with PyTorch {torch}.
Milliseconds, the median of repeated runs after a warm-up{clock}. "reference" is the plain PyTorch of
`dystyle/ops`, "torch.compile" that compiled by PyTorch{missing}. "limit": the time in which the measured
copy bandwidth, {bandwidth:.1f} GB/s, reads everything that comes in and writes everything that comes out;
"of the limit": its share of the compiled op's time. Above 100 % caches were at work, and convolutions are
bound by arithmetic instead.
"""


@dataclass(frozen=True)
class OpsConfig:
    """Speed of the ops.

    Attributes:
        sizes: pixels of square feature maps. channels: of a map; batch: maps.
        dtypes: names of PyTorch's floating-point types.
        compare: also run torch.compile of the reference; compiling takes most of the time.
        seconds: of each measurement, after the warm-up.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    sizes: tuple[int, ...] = (64, 256, 1024)
    channels: int = 64
    batch: int = 4
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    compare: bool = True
    seconds: float = 0.3


@dataclass(frozen=True)
class GeneratorSpeedConfig:
    """Speed of a StyleGAN2 with random weights.

    Attributes:
        size: pixels. channel_base, channel_max: structure, see `StyleGAN2`.
        batches: pictures at once, one row each.
        dtypes: float32; float16 (all blocks, GPUs only); bfloat16 (autocast).
        forms: how convolutions are modulated, see `modulated_conv2d`.
        compare: also run torch.compile of the reference; compiling takes most of the time.
        seconds: of each measurement, after the warm-up.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    size: int = 1024
    channel_base: int = 32768
    channel_max: int = 512
    batches: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("float32", "float16") if torch.cuda.is_available() else ("float32",)
    forms: tuple[str, ...] = ("activations", "grouped")
    compare: bool = True
    seconds: float = 1.0


@dataclass(frozen=True)
class EngineSpeedConfig:
    """Speed of the default generator's engines.

    Attributes:
        sizes: pixels. batches: pictures at once.
        compare: also run torch.compile; compiling takes most of the time.
        seconds: of each measurement, after the warm-up.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    sizes: tuple[int, ...] = (1024, 256)
    batches: tuple[int, ...] = (1, 8)
    compare: bool = True
    seconds: float = 1.0


def measure(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median seconds of a call, after a warm-up; on GPUs between CUDA events around several calls."""
    calls = 10 if device.type == "cuda" else 1
    for _ in range(3):
        call()
    times, started = [], time.perf_counter()
    while len(times) < ROUNDS or time.perf_counter() - started < seconds:
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000 / calls)
        else:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes a second that copying a large tensor reads and writes."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / measure(lambda: target.copy_(source), device, seconds)


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Case:
    """A call of an op: its result of tensors, of which all get gradients."""

    name: str
    run: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    linear: bool = False

    def moved(self, backward: bool) -> int:
        """Bytes of inputs and result; backward, of their gradients, too.

        Unless the op is linear its gradients need the inputs again, which caches have forgotten by then.
        """
        with torch.no_grad():
            result = bytes_of(self.run(*self.inputs))
        if not backward:
            return bytes_of(*self.inputs) + result
        return (2 if self.linear else 3) * bytes_of(*self.inputs) + 2 * result


def op_cases(batch: int, channels: int, size: int, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """Every op as StyleGAN2 calls it on maps (batch, channels, size, size)."""
    random = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device).to(dtype).requires_grad_(True)

    x, half = draw(batch, channels, size, size), draw(batch, channels, size // 2, size // 2)
    w, s, b = draw(channels, channels, 3, 3), draw(batch, channels), draw(channels)
    plain, symlet = setup_filter(FILTER, device=device), setup_filter(SYM6, device=device, separable=True)
    cases = [
        Case("bias_act lrelu", partial(bias_act, act="lrelu", clamp=256.0), (x, b)),
        Case("upfirdn2d filter 4x4", partial(upfirdn2d, f=plain, padding=(2, 1)), (x,), True),
        Case("upfirdn2d up 2, 4x4", partial(upfirdn2d, f=plain, up=2, padding=(2, 1), gain=4), (half,), True),
        Case("upfirdn2d down 2, 4x4", partial(upfirdn2d, f=plain, down=2, padding=1), (x,), True),
        Case("upfirdn2d filter 12 separable", partial(upfirdn2d, f=symlet, padding=(6, 5)), (x,), True),
    ]
    up = {"up": 2, "padding": 1, "resample_filter": plain}
    for form in ("activations", "grouped"):
        conv = partial(modulated_conv2d, form=form)
        cases.append(Case(f"modulated conv, {form}", partial(conv, padding=1), (x, w, s)))
        cases.append(Case(f"modulated conv up 2, {form}", partial(conv, **up), (half, w, s)))
    with torch.no_grad():
        folded = fold_style(w, s[0]).requires_grad_(True)
    cases.append(Case("modulated conv, folded", partial(conv2d_resample, padding=1), (x, folded)))
    resample = partial(conv2d_resample, f=plain, up=2, padding=1)
    return [*cases, Case("modulated conv up 2, folded", resample, (half, folded))]


def evaluate_ops(config: OpsConfig) -> dict:
    """Measure every op.

    Returns:
        "device", "threads", "torch", "bandwidth" (bytes a second), and "rows": each with "op", "dtype",
        "size", "pass" ("forward", or "both": with the gradients of all inputs), "bytes", "limit" (seconds),
        and seconds by method, None where there is none.

    Raises:
        InputError: an unknown device or type.
    """
    device, result = _describe_ops(config.device, config.seconds)
    dtypes = [_dtype(name) for name in config.dtypes]
    for dtype in tqdm(dtypes, desc="types", mininterval=10):
        for size in config.sizes:
            for case in op_cases(config.batch, config.channels, size, dtype, device):
                for backward in (False, True):
                    row = {"op": case.name, "dtype": str(dtype).split(".")[1], "size": size}
                    row |= {"pass": "both" if backward else "forward", "bytes": case.moved(backward)}
                    row |= {"limit": row["bytes"] / result["bandwidth"]}
                    call = partial(_forward_and_gradients if backward else _forward, case)
                    row |= _by_method(call, case.run, device, config.seconds, config.compare)
                    result["rows"].append(row)
    return result | {"batch": config.batch, "channels": config.channels}


def _forward(case: Case, run: Callable[..., Tensor]) -> None:
    with torch.no_grad():
        run(*case.inputs)


def _forward_and_gradients(case: Case, run: Callable[..., Tensor]) -> None:
    y = run(*case.inputs)
    torch.autograd.grad(y, case.inputs, y.detach())


def evaluate_generator(config: GeneratorSpeedConfig) -> dict:
    """Measure the generator.

    Returns:
        As `evaluate_ops`; the rows have "form", "dtype", "batch", "bytes", "limit", "flops" and seconds by
        method.

    Raises:
        InputError: an unknown device or type, or float16 without a GPU.
    """
    device, result = _describe_ops(config.device, config.seconds)
    torch.manual_seed(0)
    structure = {"channel_base": config.channel_base, "channel_max": config.channel_max, "clamp": 256.0}
    generator = StyleGAN2(config.size, **structure).to(device).requires_grad_(False)
    for name in config.dtypes:
        dtype = _dtype(name)
        if dtype == torch.float16 and device.type != "cuda":
            raise InputError("The generator computes in float16 on GPUs only; leave it out of --dtypes.")
        generator.half = len(generator.blocks) if dtype == torch.float16 else 0
        for batch in config.batches:
            codes = generator.map(torch.randn(batch, 512, device=device))
            for form in config.forms:
                generator.form = form
                row = {"form": form, "dtype": name, "batch": batch} | traffic(generator, codes, dtype)
                row |= {"limit": row["bytes"] / result["bandwidth"]}

                def call(
                    run: Callable[..., Tensor], codes: Tensor = codes, dtype: torch.dtype = dtype
                ) -> None:
                    autocast = torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16)
                    with torch.no_grad(), autocast:
                        run(codes)

                row |= _by_method(call, generator, device, config.seconds, config.compare)
                result["rows"].append(row)
    return result | {"size": config.size}


def traffic(generator: StyleGAN2, codes: Tensor, dtype: torch.dtype) -> dict[str, int]:
    """What a picture takes: "bytes" that its convolutions must read and write, and "flops"."""
    width, total = torch.finfo(dtype).bits // 8, 0

    def count(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        total += width * (inputs[0].numel() + output.numel() + layer.weight.numel())

    layers = [layer for layer in generator.modules() if isinstance(layer, StyledConv | ToRGB)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        generator(codes)
    for hook in hooks:
        hook.remove()
    return {"bytes": total, "flops": counter.get_total_flops()}


def _by_method(
    call: Callable[[Callable], None],
    run: Callable[..., Tensor],
    device: torch.device,
    seconds: float,
    compare: bool,
) -> dict[str, float | None]:
    """Seconds of `call(run)` by method."""
    compiled = measure(partial(call, run), device, seconds) if device.type in load() else None
    with reference_ops():
        reference = measure(partial(call, run), device, seconds)
        torch.compiler.reset()
        by_torch = measure(partial(call, torch.compile(run)), device, seconds) if compare else None
    return dict(zip(METHODS, (compiled, reference, by_torch), strict=True))


def evaluate_engines(config: EngineSpeedConfig) -> dict:
    """Measure every runtime of a device: codes from NumPy to finished pictures in NumPy.

    Returns:
        "device", "threads", "torch" and "onnxruntime" (versions), "absent" (reasons by runtime), and "rows":
        each with "method", "precision", "size", "batch", "seconds", and "psnr" (decibels, to PyTorch in
        float32 on the CPU).

    Raises:
        InputError: an unknown device, a size that the generator does not have, or an empty batch.
    """
    people, rows = GeneratorFacts.load(), []
    if wrong := set(config.sizes) - set(people.sizes):
        raise InputError(f"There are no pictures of {min(wrong)} px; choose from {people.sizes}.")
    if min(config.batches) < 1:
        raise InputError("A batch has at least one picture.")
    device, about = _describe(config.device)
    runs, absent = _engine_runs(device, config.compare)
    for size in config.sizes:
        name = f"generator_{size}"
        for batch in config.batches:
            codes = np.stack([people.sample(seed, truncation=0.7) for seed in range(batch)])
            expected = TorchBackend().run(name, codes)[0].astype(float)
            for (method, precision), run in tqdm(runs.items(), desc=f"{size} px, {batch}", mininterval=10):
                error = np.square(run(name, codes) - expected).mean()
                rows.append(
                    {
                        "method": method,
                        "precision": precision,
                        "size": size,
                        "batch": batch,
                        "psnr": float(10 * np.log10(255**2 / max(error, 1e-9))),
                        # Copies in and out count, so the clock is the caller's.
                        "seconds": measure(partial(run, name, codes), torch.device("cpu"), config.seconds),
                    }
                )
    return about | {"onnxruntime": onnxruntime.__version__, "absent": absent, "rows": rows}


def _engine_runs(device: torch.device, compare: bool) -> tuple[dict, dict[str, str]]:
    """Renderers by method and precision, and why others are absent.

    A renderer takes a graph's name and codes (b, 18, 512), and returns pictures (b, size, size, 3) uint8.
    """
    gpu = device.type == "cuda"
    names = ("cuda", "tensorrt", "tensorrt-rtx") if gpu else ("onnx", "openvino")
    absent, runs = {name: runtimes()[name] for name in names if runtimes()[name]}, {}

    def by_engine(backend: Backend) -> Callable[[str, np.ndarray], np.ndarray]:
        return lambda name, codes: backend.run(name, codes)[0]

    for name, precision in [(n, p) for n in names if n not in absent for p in PRECISIONS[n]]:
        try:
            if name == "openvino":
                run = by_engine(OpenVinoBackend(precision))
            else:
                run = by_engine(OnnxBackend("cpu" if name == "onnx" else name, precision))
            run("generator_128", np.zeros((1, 18, 512), np.float32))
        except (InputError, RuntimeError) as error:  # a unit or a library that this machine lacks
            absent[f"{name} {precision}"] = str(error).splitlines()[0]
        else:
            runs[name, precision] = run
    for dtype, precision in ((torch.float32, "fp32"), (torch.float16, "fp16"))[: 1 + gpu]:
        runs["PyTorch eager", precision] = partial(_render, device, dtype, False)
        if compare:
            runs["torch.compile", precision] = partial(_render, device, dtype, True)
    return runs, absent


def _render(
    device: torch.device, dtype: torch.dtype, compiled: bool, name: str, codes: np.ndarray
) -> np.ndarray:
    """Codes (b, 18, 512) float32 -> pictures (b, size, size, 3) uint8, by PyTorch."""
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        synthesis = _synthesis(device, dtype, compiled, name)
        return synthesis(torch.from_numpy(codes).to(device, dtype)).cpu().numpy()


@cache
def _synthesis(device: torch.device, dtype: torch.dtype, compiled: bool, name: str) -> nn.Module:
    synthesis = copy.deepcopy(module(name)).to(device, dtype)
    return torch.compile(synthesis, dynamic=False) if compiled else synthesis


@contextmanager
def reference_ops() -> Iterator[None]:
    """Inside, the ops are plain PyTorch."""
    before = os.environ.get("DYSTYLE_OPS")
    os.environ["DYSTYLE_OPS"] = "reference"
    build.load.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ["DYSTYLE_OPS"]
        else:
            os.environ["DYSTYLE_OPS"] = before
        build.load.cache_clear()


def _describe(name: str) -> tuple[torch.device, dict]:
    """The device, and the part of the result that tells of it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"There is no device '{name}' here; use cpu or cuda.") from error
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return device, {"device": title, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _describe_ops(name: str, seconds: float) -> tuple[torch.device, dict]:
    """As `_describe`, with what the tables of the ops and the generator need besides."""
    device, about = _describe(name)
    return device, about | {
        "kind": device.type,
        "compiled": device.type in load(),
        "bandwidth": copy_bandwidth(device, seconds),
        "rows": [],
    }


def _processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"'{name}' is no floating-point type; use float32, float16, bfloat16 or float64.")
    return dtype


def ops_table(result: dict) -> str:
    """The result of `evaluate_ops` as Markdown."""
    lines = [
        _heading(result, "Speed of the ops", "ops"),
        f'Maps of {result["channels"]} channels, batch {result["batch"]}; "both": forward and gradients.',
        "",
        f"| op | type | size | pass | {' | '.join(METHODS)} | limit | of the limit |",
        "|---" * (6 + len(METHODS)) + "|",
    ]
    for row in result["rows"]:
        name = f"| {row['op']} | {row['dtype']} | {row['size']} | {row['pass']} |"
        lines.append(f"{name} {_times(row)} |")
    return "\n".join(lines)


def generator_table(result: dict) -> str:
    """The result of `evaluate_generator` as Markdown."""
    lines = [
        _heading(result, f"Speed of StyleGAN2 at {result['size']} px", "generator"),
        "Random weights, mapping left out; the limit counts the convolutions alone.",
        "",
        f"| form | type | batch | {' | '.join(METHODS)} | limit | of the limit | TFLOP/s |",
        "|---" * (6 + len(METHODS)) + "|",
    ]
    for row in result["rows"]:
        rate = row["flops"] / (row["compiled"] or row["reference"]) / 1e12
        name = f"| {row['form']} | {row['dtype']} | {row['batch']} |"
        lines.append(f"{name} {_times(row)} | {rate:.2f} |")
    return "\n".join(lines)


ENGINES = """\
# Speed of the default generator's engines

Made by `python -m dystyle.evaluate engines` on {device} ({threads} threads) with ONNX Runtime {onnxruntime}
and PyTorch {torch}. From codes in NumPy to 8-bit pictures in NumPy, so copies to the device and back count;
median of repeated runs after a warm-up. fp32 is without TF32. PSNR: of the 8-bit pictures to those of PyTorch
in float32 on the CPU.

| engine | precision | size | batch | ms | pictures a second | PSNR, dB |
|---|---|---|---|---|---|---|"""


def engines_table(result: dict) -> str:
    """The result of `evaluate_engines` as Markdown."""
    lines = [ENGINES.format(**result)]
    for row in result["rows"]:
        seconds, batch = row["seconds"], row["batch"]
        name = f"| {row['method']} | {row['precision']} | {row['size']} | {batch} |"
        lines.append(f"{name} {seconds * 1000:.2f} | {batch / seconds:.0f} | {row['psnr']:.1f} |")
    lines += [f"\nNot measured: {name} ({reason.rstrip('.')})." for name, reason in result["absent"].items()]
    return "\n".join(lines)


def _heading(result: dict, title: str, command: str) -> str:
    return HEADING.format(
        title=title,
        command=command,
        device=result["device"],
        threads=result["threads"],
        torch=result["torch"],
        clock=", by CUDA events" if result["kind"] == "cuda" else "",
        missing="" if result["compiled"] else "; the compiled ops could not be built here",
        bandwidth=result["bandwidth"] / 1e9,
    )


def _times(row: dict) -> str:
    """Cells of a row: milliseconds by method, the limit, and the share of it that is reached."""
    cells = ["" if row[method] is None else f"{row[method] * 1000:.3f}" for method in METHODS]
    share = "" if row["compiled"] is None else f"{row['limit'] / row['compiled']:.0%}"
    return " | ".join([*cells, f"{row['limit'] * 1000:.3f}", share])
