"""Upsample, filter, downsample in one step: StyleGAN2's resampling (arXiv 1912.04958, appendix B)."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.ops.bias_act import FLOATS
from dystyle.ops.compiled import load

SEPARABLE_FROM = 8
# The symlet of adaptive augmentation (arXiv 2006.06676): orthogonal, so that enlarging and reducing
# again gives the picture back.
SYM6 = (
    *(0.015404109327, 0.003490712084, -0.117990111148, -0.048311742586, 0.491055941927, 0.787641141030),
    *(0.337929421728, -0.072637522786, -0.021060292512, 0.044724901771, 0.001767711864, -0.007800708325),
)


def setup_filter(
    f: Tensor | Sequence | float | None,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Make a filter for the functions below.

    Args:
        f: numbers (h, w) or (n,), a single number, or None for the identity.
        device: where to put it.
        normalize: scale it so that its numbers add up to 1.
        flip_filter: reverse it.
        gain: factor for the picture's values.
        separable: keep (n,) numbers as a filter that runs along both axes; else they become their outer
            product (n, n). None: keep those of at least 8 numbers.

    Returns:
        float32 (h, w), or (n,) for a separable filter.

    Raises:
        InputError: an empty filter, more than two dimensions, or 2-D numbers for a separable filter.
    """
    f = torch.atleast_1d(torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device))
    if f.ndim > 2 or f.numel() == 0:
        raise InputError(
            f"A filter must have 1 or 2 dimensions and some numbers, not shape {tuple(f.shape)}."
        )
    if separable and f.ndim == 2:
        raise InputError("A separable filter is given by 1-D numbers; these are 2-D.")
    if f.ndim == 1 and not (len(f) >= SEPARABLE_FROM if separable is None else separable):
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    # A separable filter acts twice.
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Insert zeros, pad, filter, keep every n-th pixel. Differentiable in x as often as wanted.

    1. After every pixel `up - 1` zeros are inserted along each axis (after the last one, too).
    2. The picture is padded with zeros, or cut where the padding is negative.
    3. It is convolved with f; only pixels where all of f lies inside are kept.
    4. Every `down`-th pixel is kept, from the first on, and multiplied by gain.

    Args:
        x: floating-point pictures (n, c, h, w); channels-last ones stay so.
        f: filter (fh, fw), or (fw,) for a separable one that runs along both axes; None: identity. It gets no
            gradient.
        up, down: a factor, or (x, y).
        padding: a number, (x, y), or (left, right, top, bottom), in pixels after step 1.
        flip_filter: correlate with f instead.

    Returns:
        (n, c, (h * up + top + bottom - fh) // down + 1, likewise w). Half types are summed in float32.

    Raises:
        InputError: shapes, types or factors that do not fit, or a filter larger than the padded picture.
    """
    f, up, down, padding = _check(x, f, up, down, padding)
    if not _compiled(x.device.type):
        return upfirdn2d_ref(x, f, up, down, padding, flip_filter, gain)
    return torch.ops.dystyle.upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def upfirdn2d_ref(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """`upfirdn2d` in PyTorch's own operations, step by step."""
    f, up, down, padding = _check(x, f, up, down, padding)
    n, c, h, w = x.shape
    y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(n * c, 1, h, 1, w, 1)
    y = F.pad(y, (0, up[0] - 1, 0, 0, 0, up[1] - 1)).reshape(n * c, 1, h * up[1], w * up[0])
    y = F.pad(y, [max(p, 0) for p in padding])
    left, right, top, bottom = (max(-p, 0) for p in padding)
    y = y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]
    f = f.to(y.dtype) if flip_filter else f.to(y.dtype).flip(tuple(range(f.ndim)))
    for kernel in (f[None], f[:, None]) if f.ndim == 1 else (f,):
        y = F.conv2d(y, kernel[None, None])
    y = y[:, :, :: down[1], :: down[0]] * gain
    return y.reshape(n, c, *y.shape[2:]).to(x.dtype)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filter pictures (n, c, h, w) and keep their size; arguments as for `upfirdn2d`, padding on top."""
    return upfirdn2d(x, f, 1, 1, _around(f, padding), flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Make pictures (n, c, h, w) `up` times as large and keep their brightness and centre.

    Arguments as for `upfirdn2d`; padding comes on top.
    """
    factors = _pair(up, "up")
    return upfirdn2d(
        x, f, up, 1, _around(f, padding, up=factors), flip_filter, gain * factors[0] * factors[1]
    )


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Make pictures (n, c, h, w) `down` times smaller and keep their centre.

    Arguments as for `upfirdn2d`; padding comes on top.
    """
    return upfirdn2d(x, f, 1, down, _around(f, padding, down=_pair(down, "down")), flip_filter, gain)


def parse_padding(padding: int | Sequence[int]) -> list[int]:
    """A number, (x, y) or (left, right, top, bottom) -> [left, right, top, bottom]."""
    numbers = [padding] if isinstance(padding, int) else list(padding)
    if len(numbers) not in (1, 2, 4):
        raise InputError(f"padding must be 1, 2 or 4 numbers, not {len(numbers)}.")
    if len(numbers) == 4:
        return numbers
    return [numbers[0], numbers[0], numbers[-1], numbers[-1]]


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Width and height of a filter."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _around(f: Tensor | None, padding, up=(1, 1), down=(1, 1)) -> list[int]:
    """Padding that keeps a picture's centre: the filter's length and the factor, split over both ends."""
    total = parse_padding(padding)
    for axis, taps in enumerate(filter_size(f)):
        before = (taps + up[axis] - 1) // 2 if up[axis] > 1 else (taps - down[axis] + 1) // 2
        total[2 * axis] += before
        total[2 * axis + 1] += (taps - up[axis]) // 2 if up[axis] > 1 else (taps - down[axis]) // 2
    return total


def _pair(factor: int | Sequence[int], name: str) -> list[int]:
    factors = [factor, factor] if isinstance(factor, int) else list(factor)
    if len(factors) != 2 or min(factors) < 1:
        raise InputError(f"{name} must be one or two factors of at least 1, not {factor}.")
    return factors


def _check(x: Tensor, f: Tensor | None, up, down, padding) -> tuple[Tensor, list[int], list[int], list[int]]:
    """The arguments in full form."""
    if x.ndim != 4 or x.dtype not in FLOATS:
        raise InputError(f"x must be floating-point pictures (n, c, h, w), not {x.dtype} {tuple(x.shape)}.")
    f = torch.ones(1, 1, device=x.device) if f is None else f
    if f.ndim not in (1, 2) or f.numel() == 0 or f.dtype not in FLOATS or f.device != x.device:
        raise InputError(
            f"The filter must be floating-point (h, w) or (n,) on {x.device}, not {f.dtype} {tuple(f.shape)} "
            f"on {f.device}."
        )
    if f.requires_grad:
        raise InputError("The filter gets no gradient; pass f.detach().")
    up, down, padding = _pair(up, "up"), _pair(down, "down"), parse_padding(padding)
    if min(_output_size(x, f, up, (1, 1), padding)) < 1:
        raise InputError(
            f"The padded picture is smaller than the filter {tuple(f.shape)}; x is {tuple(x.shape)}, "
            f"up {up}, padding {padding}."
        )
    return f, up, down, padding


def _output_size(x: Tensor, f: Tensor, up, down, padding) -> tuple[int, int]:
    """Height and width of the result."""
    width, height = filter_size(f)
    left, right, top, bottom = padding
    h = (x.shape[2] * up[1] + top + bottom - height) // down[1] + 1
    return h, (x.shape[3] * up[0] + left + right - width) // down[0] + 1


@torch.compiler.assume_constant_result
def _compiled(device: str) -> bool:
    """Whether to run the compiled op on this kind of device. ONNX graphs are made of the reference."""
    return not torch.onnx.is_in_onnx_export() and device in load() and _register()


@functools.cache
def _register() -> bool:
    """Tell PyTorch about shapes and gradients of the compiled op."""
    torch.library.register_fake("dystyle::upfirdn2d", _fake)
    torch.library.register_autograd("dystyle::upfirdn2d", _backward, setup_context=_remember)
    return True


def _fake(x: Tensor, f: Tensor, up, down, padding, flip_filter: bool, gain: float) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    memory = torch.channels_last if last else torch.contiguous_format
    shape = (*x.shape[:2], *_output_size(x, f, up, down, padding))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory)


def _remember(ctx, inputs, output) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter, ctx.gain = inputs
    ctx.size, ctx.filtered = (x.shape[3], x.shape[2]), (output.shape[3], output.shape[2])
    ctx.save_for_backward(f)


def _backward(ctx, grad: Tensor):
    """The transposed operation: up and down change places, the filter is reversed, padding completes it."""
    (f,) = ctx.saved_tensors
    padding = []
    for axis, taps in enumerate(filter_size(f)):
        up, down, before = ctx.up[axis], ctx.down[axis], ctx.padding[2 * axis]
        after = ctx.size[axis] * up - ctx.filtered[axis] * down + before - up + 1
        padding += [taps - 1 - before, after]
    flip = not ctx.flip_filter
    gx = torch.ops.dystyle.upfirdn2d(grad, f, ctx.down, ctx.up, padding, flip, ctx.gain)
    return gx, None, None, None, None, None, None
