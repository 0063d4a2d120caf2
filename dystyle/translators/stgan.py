"""STGAN's network (Liu et al. 2019, arXiv 1904.09709, section 3): an encoder and decoder joined by STUs."""

import torch
from torch import Tensor, nn

from dystyle.translators.network import Network, down, spread, up
from dystyle.translators.structure import Structure
from dystyle.translators.stu import SelectiveTransferUnit


class STGAN(Network):
    """Told the difference of the attributes, which enters the bottleneck and every unit.

    Every layer of the encoder but the innermost reaches the decoder through a `SelectiveTransferUnit`.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__(structure)
        widths, count = structure.widths, len(structure.names)
        pairs = list(zip(widths, widths[1:], strict=False))  # from the outermost layer inwards
        self.encoder = nn.ModuleList(down(a, b) for a, b in [(3, widths[0]), *pairs])
        self.units = nn.ModuleList(SelectiveTransferUnit(b, a, count) for a, b in pairs)
        # The innermost decoder layer is given the attributes, the others what the unit of their layer made.
        entering = [2 * width for width in widths[:-1]] + [widths[-1] + count]
        self.decoder = nn.ModuleList(up(c, a) for c, (a, _) in zip(entering[1:], pairs, strict=True))
        self.picture = nn.ConvTranspose2d(entering[0], 3, 4, 2, 1)

    def decode(self, pictures: Tensor, attributes: Tensor) -> Tensor:
        features, x = [], pictures
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        state, x = x, spread(attributes, x)
        for unit, layer, own in reversed(list(zip(self.units, self.decoder, features[:-1], strict=True))):
            transferred, state = unit(own, state, attributes)
            x = torch.cat((layer(x), transferred), 1)
        return self.picture(x)
