"""A stand-in for a GPU where there is none."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# What may be given tensors of another device, or of two.
ARRIVING = (torch.Tensor.to, torch.Tensor.numpy)
ACROSS = (torch.Tensor.copy_, torch._has_compatible_shallow_copy_type)


class OneDevice(TorchFunctionMode):
    """Lets code run without numbers, on the device "meta", and refuses to mix it with another.

    Args:
        elsewhere: whether there may be work on another device alone, such as the setting up of networks.
    """

    def __init__(self, elsewhere: bool = False) -> None:
        super().__init__()
        self.elsewhere = elsewhere

    def __torch_function__(self, function, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        devices = {x.device.type for x in leaves if isinstance(x, torch.Tensor) and x.ndim}
        if self.elsewhere:
            assert len(devices) < 2 or function in ACROSS, function
        else:
            assert devices <= {"meta"} or function in ARRIVING, function
        if function is torch.Tensor.__float__:
            return 1.0
        if function is torch.Tensor.cpu:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return function(*args, **(kwargs or {}))
