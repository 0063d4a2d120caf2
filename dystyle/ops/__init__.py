"""StyleGAN2's operations (Karras et al. 2020, arXiv 1912.04958), named and called like the public ones.

Each op has a reference in plain PyTorch (`*_ref`) and a compiled form for CPU and CUDA (`cuda_ext`), which is
built on first use. Both are differentiable twice. `DYSTYLE_OPS=reference` keeps to the reference.
"""

from dystyle.ops.bias_act import bias_act, bias_act_ref
from dystyle.ops.modulated_conv2d import conv2d_resample, fold_style, modulated_conv2d
from dystyle.ops.upfirdn2d import (
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upfirdn2d_ref,
    upsample2d,
)

__all__ = [
    "bias_act",
    "bias_act_ref",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "fold_style",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_ref",
    "upsample2d",
]
