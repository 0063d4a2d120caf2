"""The judge of a translator's training: is it a picture like the real ones, and which attributes has it?"""

from torch import Tensor, nn

from dystyle.translators.network import SLOPE
from dystyle.translators.structure import Structure


class Discriminator(nn.Module):
    """Convolutions without norm, shared by a score and the attributes' logits (STGAN, section 3.3).

    The score's gradient by a picture is penalised, which a norm over the batch would mix among pictures.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        layers, channels = [], 3
        for width in structure.widths:
            layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            channels = width
        self.shared = nn.Sequential(*layers, nn.Flatten())
        features = channels * (structure.size >> structure.depth) ** 2
        self.score, self.attributes = (
            nn.Sequential(nn.Linear(features, channels), nn.LeakyReLU(SLOPE), nn.Linear(channels, n))
            for n in (1, len(structure.names))
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (b, 3, s, s) -> scores (b,), higher for real ones, and logits (b, n).

        A logit's probability is an attribute's place in its range, from 0 to 1.
        """
        features = self.shared(pictures)
        return self.score(features)[:, 0], self.attributes(features)
