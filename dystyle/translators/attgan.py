"""AttGAN's network (He et al. 2017, arXiv 1711.10678, section 3 and table 1)."""

import torch
from torch import Tensor, nn

from dystyle.translators.network import Network, down, spread, up
from dystyle.translators.structure import Structure


class AttGAN(Network):
    """STGAN's encoder and decoder, told the target at the bottleneck, with one plain skip beside it."""

    def __init__(self, structure: Structure) -> None:
        super().__init__(structure)
        widths, count = structure.widths, len(structure.names)
        pairs = zip((3, *widths), widths, strict=False)
        self.encoder = nn.ModuleList(down(a, b) for a, b in pairs)
        entering = [widths[-1] + count, 2 * widths[-2], *widths[-3::-1]]  # the second one with the skip
        self.decoder = nn.ModuleList(up(a, b) for a, b in zip(entering, widths[-2::-1], strict=False))
        self.picture = nn.ConvTranspose2d(entering[-1], 3, 4, 2, 1)

    def decode(self, pictures: Tensor, attributes: Tensor) -> Tensor:
        features, x = [], pictures
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        x = spread(attributes, x)
        for number, layer in enumerate(self.decoder):
            x = layer(x)
            if number == 0:
                x = torch.cat((x, features[-2]), 1)
        return self.picture(x)
