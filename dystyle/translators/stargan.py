"""StarGAN's network (Choi et al. 2018, arXiv 1711.09020, section 7.2)."""

from torch import Tensor, nn

from dystyle.translators.network import Network, spread
from dystyle.translators.structure import Structure

HALVINGS, BLOCKS = 2, 6


def _normed(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.InstanceNorm2d(channels, affine=True), nn.ReLU())


class Residual(nn.Module):
    """x + two 3 x 3 convolutions of x with instance norm, (b, c, h, w) -> likewise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _normed(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(self.first(x)))


class StarGAN(Network):
    """Told the target as constant channels of the picture; residual blocks at a quarter of its size.

    Of the structure, `depth` has no meaning here: the picture is halved twice.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__(structure)
        width, count = structure.width, len(structure.names)
        layers = [_normed(nn.Conv2d(3 + count, width, 7, 1, 3, bias=False), width)]
        for _ in range(HALVINGS):
            layers.append(_normed(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), 2 * width))
            width *= 2
        layers += [Residual(width) for _ in range(BLOCKS)]
        for _ in range(HALVINGS):
            conv = nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False)
            layers.append(_normed(conv, width // 2))
            width //= 2
        layers.append(nn.Conv2d(width, 3, 7, 1, 3))
        self.layers = nn.Sequential(*layers)

    def decode(self, pictures: Tensor, attributes: Tensor) -> Tensor:
        return self.layers(spread(attributes, pictures))
