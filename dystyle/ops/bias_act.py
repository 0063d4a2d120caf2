"""Bias, activation, gain and clamp in one pass over memory: what follows every convolution of StyleGAN2."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.ops.compiled import load


@dataclass(frozen=True)
class Activation:
    """Attributes:
    function: (t, alpha) -> value.
    gain: keeps the variance of normally distributed inputs roughly where it was.
    alpha: default slope.
    """

    function: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float = 0.0


# The order is that of the enum in cuda_ext/core.h.
ACTIVATIONS = {
    "linear": Activation(lambda t, _: t),
    "relu": Activation(lambda t, _: F.relu(t), gain=2**0.5),
    "lrelu": Activation(F.leaky_relu, gain=2**0.5, alpha=0.2),
    "tanh": Activation(lambda t, _: t.tanh()),
    "sigmoid": Activation(lambda t, _: t.sigmoid()),
    "elu": Activation(lambda t, _: F.elu(t)),
    "selu": Activation(lambda t, _: F.selu(t)),
    # F.softplus is cut off above 20.
    "softplus": Activation(lambda t, _: -F.logsigmoid(-t)),
    "swish": Activation(lambda t, _: F.silu(t), gain=2**0.5),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b)), differentiable twice.

    Args:
        x: floating-point tensor of any shape and layout.
        b: bias (x.shape[dim],), converted to the type of x; None: no bias.
        dim: the dimension of x that the bias belongs to.
        act: a name of `ACTIVATIONS`: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu below zero (default 0.2); the others have none.
        gain: factor after the activation; default sqrt(2) for relu, lrelu and swish, else 1.
        clamp: limit of the result's magnitude, at least 0; None: no limit. Beyond it the gradient is zero.

    Returns:
        A tensor like x. Half types are computed in float32 and rounded once.

    Raises:
        InputError: an unknown activation, a type or shape that does not fit, or a negative limit.
    """
    spec = _check(x, b, dim, act, clamp)
    alpha, gain = spec.alpha if alpha is None else alpha, spec.gain if gain is None else gain
    b = None if b is None else b.to(x.dtype)
    if not _compiled(x.device.type):
        return bias_act_ref(x, b, dim, act, alpha, gain, clamp)
    limit = -1.0 if clamp is None else clamp
    return torch.ops.dystyle.bias_act(x, b, None, None, dim, list(ACTIVATIONS).index(act), alpha, gain, limit)


def bias_act_ref(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`bias_act` in PyTorch's own operations."""
    spec = _check(x, b, dim, act, clamp)
    alpha, gain = spec.alpha if alpha is None else alpha, spec.gain if gain is None else gain
    if b is not None:
        x = x + b.to(x.dtype).view([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    x = spec.function(x, alpha)
    x = x if gain == 1 else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def _check(x: Tensor, b: Tensor | None, dim: int, act: str, clamp: float | None) -> Activation:
    if x.dtype not in FLOATS:
        raise InputError(f"x must hold floating-point numbers, not {x.dtype}.")
    if act not in ACTIVATIONS:
        raise InputError(f"There is no activation '{act}'; there are {', '.join(ACTIVATIONS)}.")
    if clamp is not None and clamp < 0:
        raise InputError(f"clamp limits the magnitude, so it cannot be {clamp}; give a number of at least 0.")
    if b is None:
        return ACTIVATIONS[act]
    if not -x.ndim <= dim < x.ndim:
        raise InputError(f"The bias cannot belong to dimension {dim} of a tensor with {x.ndim} dimensions.")
    if b.shape != (x.shape[dim],) or b.device != x.device:
        raise InputError(
            f"The bias has shape {tuple(b.shape)} on {b.device}, but x needs ({x.shape[dim]},) on {x.device}."
        )
    return ACTIVATIONS[act]


@torch.compiler.assume_constant_result
def _compiled(device: str) -> bool:
    """Whether to run the compiled op on this kind of device. ONNX graphs are made of the reference."""
    return not torch.onnx.is_in_onnx_export() and device in load() and _register()


@functools.cache
def _register() -> bool:
    """Tell PyTorch about shapes and gradients of the compiled op.

    With g and h absent it is f(x + b), where f(t) = clamp(gain act(t)). Each factor that is present raises
    the derivative by one: g f'(x + b), then g h f''(x + b). So the op is its own gradient.
    """
    torch.library.register_fake("dystyle::bias_act", lambda x, *_: torch.empty_like(x))
    torch.library.register_autograd("dystyle::bias_act", _backward, setup_context=_remember)
    return True


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    x, b, g, h = ctx.saved_tensors

    def op(g: Tensor, h: Tensor | None) -> Tensor:
        return torch.ops.dystyle.bias_act(x, b, g, h, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp)

    gx = gb = gg = gh = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        if h is not None:
            raise NotImplementedError("bias_act can be differentiated twice, not three times.")
        gx = op(grad, None) if g is None else op(g, grad)
        if b is not None:
            gb = gx.sum([axis for axis in range(x.ndim) if axis != ctx.dim % x.ndim])
    if ctx.needs_input_grad[2]:
        gg = op(grad, h)
    if ctx.needs_input_grad[3]:
        gh = op(g, grad)
    return gx, gb, gg, gh, None, None, None, None, None
