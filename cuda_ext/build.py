"""Build and load the compiled StyleGAN2 ops.

What cannot be built is replaced by the PyTorch reference. `DYSTYLE_OPS=reference` turns the compiled ops off.
`dystyle.ops` builds on first use, and has the command line.
"""

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

SOURCES = Path(__file__).resolve().parent
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# Kernels that training spends its time in: they must keep everything in registers.
HOT = ("bias_act", "upfirdn2d_separable")
NAME = "dystyle_ops"
# Nobody asks for floating-point traps or errno; without them the compiler can vectorise choices.
CPU_FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno"]
# PyTorch's own flags switch the conversions of half types off; the kernels use them.
CUDA_FLAGS = ["-O3", "-DDYSTYLE_CUDA", "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__"]


@functools.cache
def load(cache: Path) -> frozenset[str]:
    """Load the compiled ops into `torch.ops.dystyle`; the first call on a machine builds them.

    Args:
        cache: folder for builds.

    Returns:
        The kinds of device that have compiled ops: "cpu", "cuda". Where a kind is missing the reference
        serves; a warning says why.
    """
    if os.environ.get("DYSTYLE_OPS") == "reference":
        return frozenset()
    gpu = torch.cuda.is_available() and find_nvcc() is not None
    for cuda in (True, False) if gpu else (False,):
        try:
            _build_and_load(cache, cuda)
            return frozenset(("cpu", "cuda") if cuda else ("cpu",))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            kind = "CUDA" if cuda else "C++"
            warnings.warn(
                f"The StyleGAN2 ops could not be compiled in {kind} ({reason}); slower PyTorch code with the "
                "same results takes their place.",
                stacklevel=2,
            )
    return frozenset()


def find_nvcc() -> str | None:
    """Path of the CUDA compiler."""
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    places = [str(Path(home) / "bin") for home in homes if home]
    return shutil.which("nvcc", path=os.pathsep.join([*places[:-1], os.environ.get("PATH", ""), places[-1]]))


def library_folder(cache: Path, cuda: bool) -> Path:
    """Where in the cache a build lives. Its name carries all that it depends on, so builds never go stale."""
    recipe = hashlib.sha256(f"{torch.__version__} {platform.machine()} {sys.platform}".encode())
    for source in sorted(SOURCES.glob("*.*")):
        recipe.update(source.read_bytes())
    if cuda:
        devices = range(torch.cuda.device_count())
        recipe.update(str(sorted({torch.cuda.get_device_capability(device) for device in devices})).encode())
    return cache / f"ops-{'cuda' if cuda else 'cpu'}-{recipe.hexdigest()[:12]}"


def _build_and_load(cache: Path, cuda: bool) -> None:
    # Imported here: it takes a moment, and it looks for compilers.
    from torch.utils import cpp_extension

    folder = library_folder(cache, cuda)
    complete = folder / "complete"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "build.lock"):
        if complete.exists():
            torch.ops.load_library(folder / f"{NAME}{cpp_extension.LIB_EXT}")
            return
        compiler = cpp_extension.get_cxx_compiler()
        if shutil.which(compiler) is None:
            raise OSError(f"there is no C++ compiler '{compiler}'")
        print("Compiling the StyleGAN2 ops (once) ...", file=sys.stderr, flush=True)
        # PyTorch waits for ever on the lock of a build that was killed. Ours is gone with its process.
        (folder / "lock").unlink(missing_ok=True)
        with _scripts_on_path():
            cpp_extension.load(
                NAME,
                [
                    str(source)
                    for suffix in ("cpp", "cu")[: 1 + cuda]
                    for source in SOURCES.glob(f"*.{suffix}")
                ],
                extra_cflags=[*CPU_FLAGS, "-DDYSTYLE_CUDA"] if cuda else CPU_FLAGS,
                extra_cuda_cflags=CUDA_FLAGS,
                build_directory=str(folder),
                with_cuda=cuda,
                is_python_module=False,
            )
        complete.touch()


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """ninja lies beside Python, which may run without its virtual environment being activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join((before, str(Path(sys.executable).parent)))
    try:
        yield
    finally:
        os.environ["PATH"] = before


def compile_kernels(source: Path, architecture: int) -> dict[str, tuple[int, int, int]]:
    """Compile one .cu file for one architecture, with the flags of the real build.

    Returns:
        By kernel: registers a thread, bytes of static shared memory a block, bytes spilled a thread.

    Raises:
        RuntimeError: the file does not compile; the message is the compiler's.
    """
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    # The host's half is the same for every architecture: once is enough.
    kind = "-c" if architecture == ARCHITECTURES[0] else "-cubin"
    flags = [kind, f"-arch=sm_{architecture}", "-std=c++20", *COMMON_NVCC_FLAGS, *CUDA_FLAGS, "-Xptxas", "-v"]
    with tempfile.TemporaryDirectory() as folder:
        command = [find_nvcc(), *flags, "-o", str(Path(folder) / "kernels.o"), str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
    report = result.stdout + result.stderr
    if result.returncode != 0:
        raise RuntimeError(f"{source.name} does not compile for sm_{architecture}:\n{report}")
    return parse_resources(report)


def parse_resources(report: str) -> dict[str, tuple[int, int, int]]:
    """`ptxas -v` output -> by kernel: (registers, static shared memory, spilled bytes)."""
    resources = {}
    for entry in report.split("Compiling entry function '")[1:]:
        spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", entry))
        registers = re.search(r"Used (\d+) registers", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        name = _kernel_name(entry.partition("'")[0])
        resources[name] = (int(registers[1]), int(shared[1]) if shared else 0, spilled)
    return resources


def _kernel_name(mangled: str) -> str:
    """`..15bias_act_kernelILi0EfEEv..` -> `bias_act<0, float>`."""
    name, arguments = re.search(r".*(bias_act|upfirdn2d(?:_separable)?)_kernelI(\w+?)EEv", mangled).groups()
    types = {"f": "float", "d": "double", "6__half": "half", "13__nv_bfloat16": "bfloat16"}
    tokens = re.findall(rf"Li(\d+)E|({'|'.join(types)})", arguments)
    return f"{name}<{', '.join(number or types[kind] for number, kind in tokens)}>"


def check_cuda() -> bool:
    """Compile every kernel for every architecture and print a table; whether all is well."""
    if find_nvcc() is None:
        print("There is no nvcc: install the CUDA toolkit, or set CUDA_HOME.")
        return False
    jobs = [(source, architecture) for source in SOURCES.glob("*.cu") for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        try:
            results = list(pool.map(lambda job: compile_kernels(*job), jobs))
        except RuntimeError as error:
            print(error)
            return False
    table = {}
    for (_, architecture), resources in zip(jobs, results, strict=True):
        for kernel, numbers in resources.items():
            table.setdefault(kernel, {})[architecture] = numbers
    print(f"{'registers/shared/spilled':<36}" + "".join(f"{f'sm_{a}':>9}" for a in ARCHITECTURES))
    for kernel, row in sorted(table.items()):
        print(f"{kernel:<36}" + "".join(f"{'/'.join(map(str, row[a])):>9}" for a in ARCHITECTURES))
    spilling = [k for k, row in table.items() if k.startswith(HOT) and any(n[2] for n in row.values())]
    print(f"Spilling hot kernels: {', '.join(spilling) or 'none'}.")
    return not spilling
