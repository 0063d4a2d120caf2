"""StyleGAN2's ops: the compiled form against the reference, the reference against NumPy and SciPy."""

import random
import shutil
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pytest
import scipy.signal
import scipy.special
import torch
from torch.nn import functional as F
from torch.utils import cpp_extension

from cuda_ext import build
from dystyle import ops
from dystyle.errors import InputError
from dystyle.ops.bias_act import ACTIVATIONS
from dystyle.ops.compiled import load

# By type: relative tolerance (half types: one rounding, bfloat16 keeps 8 bits).
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "strided": lambda x: F.pad(x, (1, 0, 0, 0, 0, 1))[:, :-1, :, 1:],
    "expanded": lambda x: x[:, :, :, :1].expand_as(x),
}
NUMPY = {
    "linear": lambda t: t,
    "relu": lambda t: np.maximum(t, 0),
    "lrelu": lambda t: np.where(t > 0, t, 0.2 * t),
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "elu": lambda t: np.where(t > 0, t, np.expm1(t)),
    "selu": lambda t: 1.0507009873554805 * np.where(t > 0, t, 1.6732632423543772 * np.expm1(t)),
    "softplus": lambda t: np.logaddexp(t, 0),
    "swish": lambda t: t * scipy.special.expit(t),
}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The whole file runs with the compiled ops where there is a compiler, else it tests the reference."""
    if shutil.which(cpp_extension.get_cxx_compiler()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "cpu" in load()
    return load()


@pytest.fixture
def fresh(monkeypatch):
    """Set environment variables and load the ops anew under them; later tests get the usual ones."""

    def load_under(**environment: str) -> frozenset[str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        build.load.cache_clear()
        return load()

    yield load_under
    monkeypatch.undo()
    build.load.cache_clear()


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """First derivatives, and second ones as R1 needs them."""
    first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
    penalty = sum(g.square().sum() for g in first)
    return [*first, *torch.autograd.grad(penalty, inputs)]


def random_bias_act(rng: random.Random, device: str = "cpu") -> tuple[tuple, dict]:
    shape = [rng.choice((0, 1, 2, 3)), rng.randint(1, 9), rng.randint(1, 7), rng.randint(1, 33)]
    dtype = rng.choice(list(TOLERANCE))
    x = LAYOUTS[rng.choice(list(LAYOUTS))]((torch.randn(shape) * 3).to(device, dtype))
    dim = rng.choice((1, 1, 1, 0, 2, -1))
    b = rng.choice((None, torch.randn(x.shape[dim]).to(device, dtype)))
    options = {"clamp": rng.choice((None, 0.7)), "gain": rng.choice((None, -1.5))}
    return (x, b, dim), options | {"alpha": rng.choice((None, 0.4))}


def random_upfirdn2d(rng: random.Random, device: str = "cpu") -> tuple[tuple, dict]:
    """A case that has a result: the padded picture covers the filter."""
    while True:
        shape = [rng.choice((0, 1, 1, 2)), rng.choice((1, 3, 35)), rng.randint(0, 40), rng.randint(1, 40)]
        up, down = ([rng.choice((1, 1, 2, 2, 3, 4)) for _ in "xy"] for _ in range(2))
        padding = [rng.randint(-9, 9) for _ in range(4)]
        taps = [rng.choice((1, 2, 3, 4, 5, 8, 12)) for _ in range(rng.choice((1, 2)))]
        room = [shape[3 - a] * up[a] + sum(padding[2 * a : 2 * a + 2]) - taps[a - 1] for a in range(2)]
        if min(room) >= 0 and min(room[0] + taps[-1], room[1] + taps[0]) >= max(taps):
            break
    dtype = rng.choice(list(TOLERANCE))
    x = LAYOUTS[rng.choice(list(LAYOUTS))](torch.randn(shape).to(device, dtype))
    f = torch.randn(taps, device=device) / sum(taps)
    return (x, f, up, down, padding), {"flip_filter": rng.random() < 0.5, "gain": rng.choice((1, -2.5))}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_compiled_bias_act_is_the_reference(act):
    rng = random.Random(act)
    torch.manual_seed(0)
    for _ in range(40):
        (x, b, dim), options = random_bias_act(rng)
        y = ops.bias_act(x, b, dim, act, **options)
        # Half types: the reference rounds at every step, so it is taken at full precision.
        kind = torch.promote_types(x.dtype, torch.float32)
        wide = None if b is None else b.to(kind)
        same(y, ops.bias_act_ref(x.to(kind), wide, dim, act, **options).to(x.dtype))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradients_of_bias_act(act):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64).requires_grad_()
    b = torch.randn(3, dtype=torch.float64).requires_grad_()
    for clamp in (None, 0.8):

        def op(x, b, clamp=clamp):
            return ops.bias_act(x, b, act=act, clamp=clamp)

        assert torch.autograd.gradcheck(op, (x, b))
        assert torch.autograd.gradgradcheck(op, (x, b))
        expected = gradients(lambda x, b, clamp=clamp: ops.bias_act_ref(x, b, act=act, clamp=clamp), x, b)
        for ours, theirs in zip(gradients(op, x, b), expected, strict=True):
            same(ours, theirs)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_are_the_published_functions(act):
    x = np.random.default_rng(2).standard_normal((2, 5, 4)) * 4
    b = np.arange(5.0) - 2
    gain = 2**0.5 if act in ("relu", "lrelu", "swish") else 1
    expected = torch.from_numpy(gain * NUMPY[act](x + b[:, None]))
    for op in (ops.bias_act, ops.bias_act_ref):
        same(op(torch.from_numpy(x), torch.from_numpy(b), act=act), expected)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_extreme_numbers(act):
    x = torch.tensor([0.0, -0.0, 1e4, -1e4, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    for clamp in (None, 256.0):
        same(ops.bias_act(x, act=act, clamp=clamp), ops.bias_act_ref(x, act=act, clamp=clamp))
    x = x[:4].requires_grad_()
    (ours,) = torch.autograd.grad(ops.bias_act(x, act=act).sum(), x)
    (theirs,) = torch.autograd.grad(ops.bias_act_ref(x, act=act).sum(), x)
    same(ours, theirs)


def test_a_third_derivative_is_refused(compiled):
    if not compiled:
        pytest.skip("the reference has all derivatives")
    x = torch.randn(3, 2, requires_grad=True)
    y = ops.bias_act(x, act="tanh").sum()
    for _ in range(2):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice"):
        torch.autograd.grad(y.sum(), x)


@pytest.mark.parametrize("seed", range(10))
def test_compiled_upfirdn2d_is_the_reference(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(40):
        arguments, options = random_upfirdn2d(rng)
        same(ops.upfirdn2d(*arguments, **options), ops.upfirdn2d_ref(*arguments, **options))


@pytest.mark.parametrize("seed", range(4))
def test_upfirdn2d_is_a_convolution(seed):
    """Against NumPy and SciPy, by the definition."""
    rng = random.Random(100 + seed)
    for _ in range(15):
        (x, f, up, down, padding), options = random_upfirdn2d(rng)
        x, taps = x.double(), f.double().numpy()
        kernel = np.outer(taps, taps) if f.ndim == 1 else taps
        kernel = kernel[::-1, ::-1] if options["flip_filter"] else kernel
        wide = np.zeros((*x.shape[:2], x.shape[2] * up[1] + 40, x.shape[3] * up[0] + 40))
        wide[:, :, 20:-20, 20:-20][:, :, :: up[1], :: up[0]] = x.numpy()
        left, right, top, bottom = padding
        cut = wide[:, :, 20 - top : wide.shape[2] - 20 + bottom, 20 - left : wide.shape[3] - 20 + right]
        planes = [scipy.signal.convolve2d(p, kernel, "valid") for p in cut.reshape(-1, *cut.shape[2:])]
        shape = (len(planes), *(cut.shape[2 + a] - kernel.shape[a] + 1 for a in range(2)))
        planes = np.array(planes).reshape(shape)[:, :: down[1], :: down[0]] * options["gain"]
        expected = torch.from_numpy(planes.reshape(*x.shape[:2], *planes.shape[1:]))
        for op in (ops.upfirdn2d, ops.upfirdn2d_ref):
            same(op(x, f, up, down, padding, **options), expected)


@pytest.mark.parametrize("seed", range(12))
def test_gradients_of_upfirdn2d(seed):
    rng = random.Random(200 + seed)
    torch.manual_seed(seed)
    (x, f, up, down, padding), options = random_upfirdn2d(rng)
    while not 0 < x.numel() * up[0] * up[1] <= 600:
        (x, f, up, down, padding), options = random_upfirdn2d(rng)
    x = x.double().clone().requires_grad_()

    def op(x):
        return ops.upfirdn2d(x, f, up, down, padding, **options)

    assert torch.autograd.gradcheck(op, (x,))
    assert torch.autograd.gradgradcheck(op, (x,))


def test_filters_too_long_for_a_tile():
    x, f = torch.randn(1, 2, 8, 9, dtype=torch.float64), torch.randn(900)
    arguments = (x, f, (2, 3), (3, 2), (440, 460, 450, 470))
    same(ops.upfirdn2d(*arguments), ops.upfirdn2d_ref(*arguments))


def test_large_pictures_cross_tiles_and_threads():
    x = torch.randn(2, 3, 200, 150)
    for f in (torch.randn(6), torch.randn(6, 3)):
        for layout in ("contiguous", "channels-last"):
            pictures = LAYOUTS[layout](x)
            same(ops.upfirdn2d(pictures, f, 2, 1, 3), ops.upfirdn2d_ref(pictures, f, 2, 1, 3))


# The separable kernel's two halves as the threads of a CUDA block run them, against filter_at.
BLOCK = r"""
#include <cstdlib>
#include <vector>
#include "core.h"
using namespace dystyle;

int between(int low, int high) { return low + rand() % (high - low + 1); }

Axis axis(int up, int taps) {
    Axis a{between(1, 45), 0, up, between(1, 3), between(-6, 6), taps};
    a.out = (a.in * a.up + a.pad + 20 - a.taps) / a.down + 1;
    return a;
}

template <int UP>
bool block_agrees() {
    const int taps = between(1, 12), up = UP ? UP : 3, batch = between(1, 2), channels = between(1, 40);
    const Axis v = axis(up, taps), h = axis(up, taps);
    const bool last = between(0, 1);
    const auto strides = [&](int64_t height, int64_t width) {
        const int64_t n = channels * height * width;
        return last ? Strides{n, 1, width * channels, channels} : Strides{n, height * width, width, 1};
    };
    std::vector<double> x(batch * channels * v.in * h.in), f(taps), square;
    std::vector<double> y(batch * channels * v.out * h.out);
    for (double& value : x) value = between(-9, 9);
    for (double& value : f) value = between(-9, 9);
    for (double a : f)
        for (double b : f) square.push_back(a * b);
    std::vector<double> expected(y.size());
    TileShape tile = last ? TileShape{32, 8, 8, 0} : TileShape{1, 32, 32, 0};
    tile.rows = ((tile.height - 1) * v.down + taps - 1) / v.up + 1;
    Upfirdn p{x.data(), square.data(), expected.data(), batch, channels, v, h, strides(v.in, h.in),
              strides(v.out, h.out), 1, 2.0, last, tile, Type::float64};
    for (uint64_t i = 0; i < y.size(); ++i) filter_at<double>(p, i);
    p.f = f.data(), p.y = y.data();
    const Thread block = last ? Thread{0, 0, 0, 32, 4, 2} : Thread{0, 0, 0, 1, 32, 8};
    const auto all_threads = [&](auto run) {
        for (int i = 0; i < 256; ++i)
            run(Thread{i % block.all_c, i / block.all_c % block.all_x, i / block.all_c / block.all_x,
                       block.all_c, block.all_x, block.all_y});
    };
    for (uint64_t i = 0; i < tile_count(p); ++i) {
        std::vector<double> middle(tile.rows * tile.width * tile.channels, 1e300);
        const Tile place = tile_at<UP>(p, i);
        all_threads([&](Thread t) { filter_rows<UP, double>(p, place, t, middle.data()); });
        all_threads([&](Thread t) { filter_columns<UP, double>(p, place, t, middle.data()); });
    }
    return y == expected;
}

int main() {
    for (int i = 0; i < 100; ++i)
        if (!block_agrees<0>() || !block_agrees<1>() || !block_agrees<2>()) return 1;
}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the flags are those of GCC and Clang")
def test_threads_of_a_block_share_the_work_and_stay_in_bounds(tmp_path):
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler) is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "block.cpp").write_text(BLOCK)
    command = [compiler, "-std=c++20", "-O1", f"-I{build.SOURCES}", str(tmp_path / "block.cpp")]
    command += ["-o", str(tmp_path / "block")]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    if subprocess.run([*command, *sanitizers], stderr=subprocess.DEVNULL).returncode != 0:
        subprocess.run(command, check=True)  # not every compiler comes with the sanitizers' libraries
    result = subprocess.run([tmp_path / "block"], stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stderr


def test_setup_filter():
    f = ops.setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4) and f.dtype == torch.float32
    torch.testing.assert_close(
        f, torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    )
    assert ops.setup_filter(range(1, 9)).shape == (8,)
    assert ops.setup_filter(None).tolist() == [[1]] == ops.setup_filter(5).tolist()
    assert ops.setup_filter([1, 2], normalize=False, flip_filter=True, separable=True).tolist() == [2, 1]
    # The gain is that of the whole picture, also where the filter acts twice.
    x = torch.randn(1, 1, 8, 8)
    once, twice = (ops.setup_filter([1, 3, 3, 1], gain=4, separable=s) for s in (False, True))
    torch.testing.assert_close(ops.filter2d(x, once), ops.filter2d(x, twice))


@pytest.mark.parametrize("separable", (False, True))
def test_resampling_keeps_brightness_and_place(separable):
    f = ops.setup_filter([1, 3, 3, 1], separable=separable)
    ramp = torch.arange(16.0).expand(1, 2, 16, 16)
    assert ops.filter2d(ramp, f).shape == ramp.shape
    up, down = ops.upsample2d(ramp, f), ops.downsample2d(ramp, f)
    # Away from the border a ramp stays a ramp; pixel centres of the sizes lie half a pixel apart.
    torch.testing.assert_close(up[0, 0, 9, 4:-4], ((torch.arange(32.0) - 0.5) / 2)[4:-4])
    torch.testing.assert_close(down[0, 0, 4, 2:-2], (torch.arange(8.0) * 2 + 0.5)[2:-2])
    assert ops.upsample2d(ramp, f, up=(3, 1)).shape == (1, 2, 16, 48)
    assert ops.downsample2d(ramp, f, down=(1, 4), padding=1).shape == (1, 2, 4, 18)


def test_opcheck(compiled):
    if not compiled:
        pytest.skip("needs a C++ compiler")
    x = torch.randn(2, 3, 4, 5)
    b, g, h = torch.randn(3), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for layout in (LAYOUTS[name] for name in ("channels-last", "strided")):
        for factors in ((None, None), (g, None)):
            inputs = [t if t is None else layout(t).clone().requires_grad_() for t in (x, *factors)]
            arguments = (inputs[0], b.clone().requires_grad_(), *inputs[1:], 1, 8, 0.0, 1.5, 0.9)
            torch.library.opcheck(torch.ops.dystyle.bias_act, arguments)
        for f in (torch.randn(4), torch.randn(3, 2)):
            arguments = (layout(x).detach().requires_grad_(), f, [2, 1], [1, 2], [2, 1, -1, 4], False, 2.0)
            torch.library.opcheck(torch.ops.dystyle.upfirdn2d, arguments)
    torch.library.opcheck(torch.ops.dystyle.bias_act, (x, b, g, h, 1, 8, 0.0, 1.5, 0.9))
    empty = torch.empty(0, 3, 4, 5)
    torch.library.opcheck(torch.ops.dystyle.bias_act, (empty, b, None, None, 1, 2, 0.2, 1.0, -1.0))


class Layer(torch.nn.Module):
    """A layer of StyleGAN2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (
            torch.nn.Parameter(torch.randn(4, 3, 3, 3)),
            torch.nn.Parameter(torch.randn(4)),
        )
        self.register_buffer("filter", ops.setup_filter([1, 3, 3, 1], separable=True))

    def forward(self, x, s):
        x = ops.modulated_conv2d(x, self.weight, s, up=2, padding=1, resample_filter=self.filter)
        return ops.bias_act(x, self.bias, act="lrelu", clamp=3)


@pytest.mark.parametrize("dynamic", (False, True))
def test_torch_compile_passes_through(dynamic):
    torch.manual_seed(3)
    torch._dynamo.reset()
    layer = Layer()
    fast = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (5, 6):
        x, s = torch.randn(2, 3, size, size), torch.randn(2, 3)
        same(fast(x, s), layer(x, s))
        wanted = list(layer.parameters())
        ours = torch.autograd.grad(fast(x, s).square().sum(), wanted)
        theirs = torch.autograd.grad(layer(x, s).square().sum(), wanted)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_torch_export_passes_through(compiled):
    layer, x, s = Layer(), torch.randn(2, 3, 5, 5), torch.randn(2, 3)
    program = torch.export.export(layer, (x, s))
    same(program.module()(x, s), layer(x, s))
    assert not compiled or "dystyle.upfirdn2d" in str(program.graph)


def test_onnx_graphs_are_made_of_the_reference(tmp_path):
    layer, x, s = Layer(), torch.randn(2, 3, 5, 5), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(layer, (x, s), str(tmp_path / "layer.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    feeds = dict(zip([i.name for i in session.get_inputs()], (x.numpy(), s.numpy()), strict=True))
    same(torch.from_numpy(session.run(None, feeds)[0]), layer(x, s).detach())


@pytest.mark.parametrize("up, down", ((1, 1), (2, 1), (1, 2)))
@pytest.mark.parametrize("demodulate", (True, False))
@pytest.mark.parametrize("kernel, filtered", ((3, True), (3, False), (1, True)))
def test_forms_of_modulated_convolution_agree(up, down, demodulate, kernel, filtered):
    torch.manual_seed(4)
    x, s = torch.randn(3, 5, 8, 9), torch.randn(3, 5)
    w, noise = torch.randn(7, 5, kernel, kernel, requires_grad=True), torch.randn(3, 1, 8 * up // down, 1)
    f = ops.setup_filter([1, 2, 3, 1]) if filtered else None
    resample = {"up": up, "down": down, "padding": kernel // 2}
    grouped, activations = (
        ops.modulated_conv2d(x, w, s, noise, **resample, resample_filter=f, demodulate=demodulate, form=form)
        for form in ("grouped", "activations")
    )
    assert grouped.shape == (3, 7, 8 * up // down, 9 * up // down)
    torch.testing.assert_close(grouped, activations, rtol=1e-5, atol=1e-5)
    gradient = [torch.autograd.grad(y.square().sum(), w)[0] for y in (grouped, activations)]
    torch.testing.assert_close(*gradient, rtol=1e-3, atol=1e-3)
    for index in range(3):
        folded = ops.fold_style(w, s[index], demodulate)
        fixed = ops.conv2d_resample(x[index : index + 1], folded, f, **resample) + noise[index]
        torch.testing.assert_close(fixed[0], grouped[index], rtol=1e-5, atol=1e-5)
        if demodulate:
            torch.testing.assert_close(folded.square().sum((1, 2, 3)), torch.ones(7))


@pytest.mark.parametrize("up, down", ((2, 1), (3, 1), (1, 2), (1, 3)))
@pytest.mark.parametrize("taps, padding", (([1, 3, 3, 1], 1), ([1, 2, 1], (0, 3, -1, 2)), (None, 2)))
def test_resampling_convolution_by_its_definition(up, down, taps, padding):
    """Filter and convolution one after the other, on the enlarged picture."""
    torch.manual_seed(5)
    x, w = torch.randn(2, 4, 7, 8, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    f = None if taps is None else ops.setup_filter(taps)
    width, factor = 1 if taps is None else len(taps), max(up, down)
    around = (width + factor - 1) // 2 if up > 1 else (width - factor + 1) // 2, (width - factor) // 2
    numbers = (padding,) * 4 if isinstance(padding, int) else padding
    numbers = [n + around[i % 2] for i, n in enumerate(numbers)]
    picture = ops.upfirdn2d_ref(x, f, up, 1, numbers, gain=up**2)
    expected = F.conv2d(picture, w, groups=2)[:, :, ::down, ::down]
    same(ops.conv2d_resample(x, w, f, up, down, padding, groups=2), expected)


@pytest.mark.parametrize("form", ("grouped", "activations"))
def test_modulated_convolution_of_nothing_and_of_half_types(form):
    w, f = torch.randn(4, 3, 3, 3), ops.setup_filter([1, 3, 3, 1])
    options = {"up": 2, "padding": 1, "resample_filter": f, "form": form}
    assert ops.modulated_conv2d(torch.empty(0, 3, 5, 5), w, torch.empty(0, 3), **options).shape == (
        0,
        4,
        10,
        10,
    )
    x, s = torch.randn(2, 3, 5, 5), torch.randn(2, 3) * 3e4
    for dtype in (torch.float16, torch.bfloat16):
        y = ops.modulated_conv2d(x.to(dtype), w * 300, s, **options)
        expected = ops.modulated_conv2d(x, w * 300, s, **options)
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


PICTURES, FILTER = torch.zeros(1, 3, 4, 4), torch.ones(2, 2)
MISTAKES = {
    "There is no activation 'gelu'": lambda: ops.bias_act(PICTURES, act="gelu"),
    "must hold floating-point": lambda: ops.bias_act(PICTURES.int()),
    "cannot be -1": lambda: ops.bias_act(PICTURES, clamp=-1),
    "x needs \\(3,\\)": lambda: ops.bias_act(PICTURES, torch.zeros(4)),
    "cannot belong to dimension 4": lambda: ops.bias_act(PICTURES, torch.zeros(4), dim=4),
    "must be floating-point pictures": lambda: ops.upfirdn2d(PICTURES[0], FILTER),
    "filter must be floating-point": lambda: ops.upfirdn2d(PICTURES, FILTER.int()),
    "gets no gradient": lambda: ops.upfirdn2d(PICTURES, FILTER.clone().requires_grad_()),
    "up must be": lambda: ops.upfirdn2d(PICTURES, FILTER, up=0),
    "down must be": lambda: ops.downsample2d(PICTURES, FILTER, down=(1, 2, 3)),
    "padding must be 1, 2 or 4": lambda: ops.upfirdn2d(PICTURES, FILTER, padding=(1, 2, 3)),
    "smaller than the filter": lambda: ops.upfirdn2d(PICTURES, FILTER, padding=(-2, -1, 0, 0)),
    "must have 1 or 2 dimensions": lambda: ops.setup_filter([]),
    "given by 1-D numbers": lambda: ops.setup_filter(FILTER, separable=True),
    "do not fit each other": lambda: ops.modulated_conv2d(PICTURES, PICTURES, torch.zeros(1, 2)),
    "There is no form 'fused'": lambda: ops.modulated_conv2d(
        PICTURES, PICTURES, torch.zeros(1, 3), form="fused"
    ),
    "w \\(c_out, c_in, kh, kw\\) and s \\(c_in,\\)": lambda: ops.fold_style(PICTURES, torch.zeros(1, 3)),
    "one of them 1": lambda: ops.conv2d_resample(PICTURES, PICTURES, up=2, down=2),
    "one type": lambda: ops.conv2d_resample(PICTURES, PICTURES.double()),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_explained(message):
    with pytest.raises(InputError, match=message):
        MISTAKES[message]()


def test_the_compiled_ops_check_too(compiled):
    if not compiled:
        pytest.skip("needs a C++ compiler")
    x, f = torch.zeros(1, 3, 4, 4), torch.ones(2, 2)
    with pytest.raises(ValueError, match="bias"):
        torch.ops.dystyle.bias_act(x, torch.zeros(4), None, None, 1, 0, 0.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="no activation"):
        torch.ops.dystyle.bias_act(x, None, None, None, 1, 9, 0.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="smaller than the filter"):
        torch.ops.dystyle.upfirdn2d(x, f, [1, 1], [1, 1], [-3, 0, 0, 0], False, 1.0)


def test_the_reference_can_be_demanded(fresh):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh(DYSTYLE_OPS="reference") == frozenset()
    y = ops.bias_act(torch.randn(2, 3, requires_grad=True), act="tanh")
    assert "Tanh" in y.grad_fn.name()


@pytest.mark.parametrize("compiler", ("/no/such/compiler", "false"))
def test_without_a_working_compiler_the_reference_serves(fresh, tmp_path, compiler):
    with pytest.warns(UserWarning, match="could not be compiled") as warned:
        assert fresh(CXX=compiler, DYSTYLE_CACHE=str(tmp_path)) == frozenset()
    assert len([w for w in warned if "could not be compiled" in str(w.message)]) == 1
    x, f = torch.randn(1, 2, 5, 5), torch.randn(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ops.upfirdn2d(x, f, 2, 1, 2), ops.upfirdn2d_ref(x, f, 2, 1, 2))
        assert torch.equal(ops.bias_act(x, act="elu"), ops.bias_act_ref(x, act="elu"))


def test_what_is_built_needs_no_compiler(fresh, compiled):
    if not compiled:
        pytest.skip("needs a C++ compiler")
    assert "cpu" in fresh(CXX="/no/such/compiler")


needs_nvcc = pytest.mark.skipif(build.find_nvcc() is None, reason="there is no nvcc (CUDA toolkit) here")


@needs_nvcc
def test_kernels_compile_for_every_architecture_and_keep_to_registers(capsys):
    assert build.check_cuda(), capsys.readouterr().out
    table = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{table}", end="")
    assert all(f"sm_{architecture}" in table for architecture in (75, 80, 86, 89, 90, 100, 120))
    # Three orders or three factors, four types; the general filter has the types alone.
    for kernel, count in (("bias_act<", 12), ("upfirdn2d<", 4), ("upfirdn2d_separable<", 12)):
        assert sum(line.startswith(kernel) for line in table.splitlines()) == count


@needs_nvcc
def test_a_broken_kernel_is_reported(monkeypatch, tmp_path, capsys):
    (tmp_path / "broken.cu").write_text("__global__ void broken_kernel() { no_such_function(); }")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(build, "ARCHITECTURES", (90,))
    assert not build.check_cuda()
    assert "no_such_function" in capsys.readouterr().out


def test_spills_are_seen(monkeypatch, capsys):
    report = """ptxas info    : Compiling entry function '_ZN7dystyle4_GLOBAL_32f883e9\
15bias_act_kernelILi2E13__nv_bfloat16EEvNS_7BiasActE' for 'sm_90'
    16 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 128 bytes smem"""
    assert build.parse_resources(report) == {"bias_act<2, bfloat16>": (48, 128, 36)}
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "compile_kernels", lambda *_: build.parse_resources(report))
    assert not build.check_cuda()
    assert "Spilling hot kernels: bias_act<2, bfloat16>" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(10))
def test_cuda_is_the_reference(seed, compiled):
    """Forward, and gradients where the type is exact enough to compare them."""
    if "cuda" not in compiled:
        pytest.skip("the CUDA ops could not be compiled here")
    rng = random.Random(300 + seed)
    for _ in range(40):
        (x, b, dim), options = random_bias_act(rng, "cuda")
        act, kind = rng.choice(list(ACTIVATIONS)), torch.promote_types(x.dtype, torch.float32)
        wide = None if b is None else b.to(kind)
        expected = ops.bias_act_ref(x.to(kind), wide, dim, act, **options).to(x.dtype)
        same(ops.bias_act(x, b, dim, act, **options), expected)
        (x, f, *factors), options = random_upfirdn2d(rng, "cuda")
        same(
            ops.upfirdn2d(x, f, *factors, **options),
            ops.upfirdn2d_ref(x.double(), f, *factors, **options).to(x),
        )


@pytest.mark.gpu
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_cuda_gradients(act, compiled):
    if "cuda" not in compiled:
        pytest.skip("the CUDA ops could not be compiled here")
    x = torch.randn(2, 3, 37, 41, device="cuda", dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, device="cuda", dtype=torch.float64, requires_grad=True)
    f = torch.randn(4, device="cuda")
    expected = gradients(
        lambda x, b: ops.upfirdn2d_ref(ops.bias_act_ref(x, b, act=act, clamp=2), f, 2, 1, 3), x, b
    )
    ours = gradients(lambda x, b: ops.upfirdn2d(ops.bias_act(x, b, act=act, clamp=2), f, 2, 1, 3), x, b)
    for a, b in zip(ours, expected, strict=True):
        same(a, b)
