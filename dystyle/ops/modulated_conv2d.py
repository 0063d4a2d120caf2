"""Modulated convolution (Karras et al. 2020, arXiv 1912.04958, section 2.2): a style scales the weights.

    w'_ijk = s_i w_ijk                                                    (1) modulation
    w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + 1e-8)                       (3) demodulation

with i the input channel, j the output channel and k the place in the kernel.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.ops.bias_act import FLOATS
from dystyle.ops.upfirdn2d import filter_size, parse_padding, upfirdn2d

EPSILON = 1e-8
FORMS = ("grouped", "activations")


def modulated_conv2d(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    form: Literal["grouped", "activations"] = "grouped",
) -> Tensor:
    """Convolve each picture with weights scaled by its own style. For one fixed style see `fold_style`.

    Args:
        x: floating-point features (n, c_in, h, w).
        w: weights (c_out, c_in, kh, kw), correlated as by `torch.nn.functional.conv2d`.
        s: styles (n, c_in).
        noise: added to the result; anything that broadcasts to it, such as (n, 1, h, w).
        up, down, padding, resample_filter: as for `conv2d_resample`.
        demodulate: scale every output channel to unit expected variance (equation 3).
        form: "grouped" scales the weights and runs one convolution with a group a picture; "activations"
            scales x before and the result after an ordinary convolution. Same result; which is faster
            depends on the device and the sizes.

    Returns:
        (n, c_out, h', w') in the type of x.

    Raises:
        InputError: shapes, factors or a form that do not fit.
    """
    if x.ndim != 4 or w.ndim != 4 or s.shape != (len(x), x.shape[1]) or w.shape[1] != x.shape[1]:
        raise InputError(
            "x (n, c_in, h, w), w (c_out, c_in, kh, kw) and s (n, c_in) do not fit each other: "
            f"{tuple(x.shape)}, {tuple(w.shape)}, {tuple(s.shape)}."
        )
    if form not in FORMS:
        raise InputError(f"There is no form '{form}'; there are {' and '.join(FORMS)}.")
    resample = {"f": resample_filter, "up": up, "down": down, "padding": padding}
    # An empty batch has no groups.
    run = _scale_weights if form == "grouped" and len(x) > 0 else _scale_activations
    return run(x, w, s, None if noise is None else noise.to(x.dtype), demodulate, resample)


def fold_style(w: Tensor, s: Tensor, demodulate: bool = True) -> Tensor:
    """The weights that one style makes: give them to `conv2d_resample`, and inference needs no styles.

    Args:
        w: weights (c_out, c_in, kh, kw).
        s: style (c_in,).

    Returns:
        (c_out, c_in, kh, kw) in the type of w.

    Raises:
        InputError: shapes that do not fit.
    """
    if w.ndim != 4 or s.shape != (w.shape[1],):
        raise InputError(
            "w (c_out, c_in, kh, kw) and s (c_in,) do not fit each other: "
            f"{tuple(w.shape)}, {tuple(s.shape)}."
        )
    return _fold(w, s[None], demodulate)[0].to(w.dtype)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
) -> Tensor:
    """A convolution with the resampling filter of an enlarging or a reducing layer.

    The same as `upfirdn2d(x, f, up, gain=up**2)`, then conv2d; or filter, conv2d, keep every `down`-th pixel.
    The filter's own margin is added to the padding, so with kh // 2 the result has h * up / down rows.

    Args:
        x: features (n, c_in, h, w).
        w: weights (c_out, c_in / groups, kh, kw), correlated as by conv2d.
        f: resampling filter from `setup_filter`; None: no smoothing.
        up, down: factors; at least one of them must be 1.
        padding: as for `upfirdn2d`, in pixels of the enlarged picture.

    Raises:
        InputError: factors, shapes or types that do not fit.
    """
    if x.ndim != 4 or w.ndim != 4 or x.dtype not in FLOATS or x.dtype != w.dtype:
        raise InputError(
            f"x and w must have 4 dimensions and one type, not {x.dtype} {tuple(x.shape)} and {w.dtype} "
            f"{tuple(w.shape)}."
        )
    if up < 1 or down < 1 or min(up, down) > 1:
        raise InputError(f"up and down must be at least 1, and one of them 1, not {up} and {down}.")
    left, right, top, bottom = parse_padding(padding)
    if up == down == 1:
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, groups=groups)
    factor, (fw, fh) = max(up, down), filter_size(f)
    margin = (factor - 1, -factor) if up > 1 else (1 - factor, -factor)
    left, right = left + (fw + margin[0]) // 2, right + (fw + margin[1]) // 2
    top, bottom = top + (fh + margin[0]) // 2, bottom + (fh + margin[1]) // 2
    if down > 1:
        return F.conv2d(upfirdn2d(x, f, padding=(left, right, top, bottom)), w, stride=down, groups=groups)
    # Convolutions commute: the transposed one, which skips the inserted zeros, can go before the filter. It
    # leaves kh - 1 more rows at the top and kh - up more at the bottom than the order above.
    kh, kw = w.shape[2:]
    kernel = w.flip(2, 3).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(x, kernel, stride=up, groups=groups)
    padding = (left - kw + 1, right - kw + up, top - kh + 1, bottom - kh + up)
    return upfirdn2d(y, f, padding=padding, gain=up**2)


def _fold(w: Tensor, s: Tensor, demodulate: bool) -> Tensor:
    """Equations 1 and 3 for styles (n, c_in): (n, c_out, c_in, kh, kw), at least float32."""
    kind = torch.promote_types(w.dtype, torch.float32)
    folded = w.to(kind) * s.to(kind)[:, None, :, None, None]
    if demodulate:
        folded = folded * (folded.square().sum((2, 3, 4), keepdim=True) + EPSILON).rsqrt()
    return folded


def _scale_weights(
    x: Tensor, w: Tensor, s: Tensor, noise: Tensor | None, demodulate: bool, resample: dict
) -> Tensor:
    """One group of channels a picture, so that one convolution serves all styles."""
    n = len(x)
    weights = _fold(w, s, demodulate).to(x.dtype).flatten(0, 1)
    y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), weights, groups=n, **resample)
    y = y.reshape(n, -1, *y.shape[2:])
    return y if noise is None else y + noise


def _scale_activations(
    x: Tensor, w: Tensor, s: Tensor, noise: Tensor | None, demodulate: bool, resample: dict
) -> Tensor:
    """Equations 1 and 3 with s_i on the input's channels and the demodulation on the output's.

    Demodulation and noise are one pass over the result.
    """
    kind = torch.promote_types(w.dtype, torch.float32)
    w, s = w.to(kind), s.to(kind)
    if demodulate and x.dtype in (torch.float16, torch.bfloat16):
        # Demodulation undoes scales of w and s, so half types may have them near 1, where nothing overflows.
        w = w * w.square().mean((1, 2, 3), keepdim=True).add(EPSILON).rsqrt() * w[0].numel() ** -0.5
        s = s / s.abs().amax(1, keepdim=True).clamp(min=EPSILON)
    y = conv2d_resample(x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), **resample)
    if not demodulate:
        return y if noise is None else y + noise
    scale = (s.square() @ w.square().sum((2, 3)).T + EPSILON).rsqrt().to(x.dtype)[:, :, None, None]
    return y * scale if noise is None else torch.addcmul(noise, y, scale)
