"""Progressive growing (Karras et al. 2018, arXiv 1710.10196, section 2 and figure 2)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from dystyle.generators.stylegan1 import fade


@dataclass(frozen=True)
class Growth:
    """When which size is learnt: the first one for `phase` pictures; each further one fades in, and stays.

    Attributes:
        first, last: sizes in px, powers of two; the same for networks that do not grow.
        phase: pictures seen in a fade, and between two fades.
    """

    first: int
    last: int
    phase: int

    def at(self, pictures: int) -> tuple[int, float]:
        """Size and alpha, 0..1, after so many pictures. A size begins with alpha 0; 1 is all of it."""
        turn, part = divmod(pictures, self.phase)
        size = self.first << (turn + 1) // 2
        if size > self.last:
            return self.last, 1.0
        return size, part / self.phase if turn % 2 else 1.0

    @property
    def pictures(self) -> int:
        """How many it takes until the last size has faded in."""
        return 2 * self.phase * ((self.last // self.first).bit_length() - 1)


def shrink(images: Tensor, size: int, alpha: float) -> Tensor:
    """Real pictures (b, 3, s, s) as a size that has faded in by alpha, 0..1, has to show them: averaged."""
    images = F.avg_pool2d(images, images.shape[-1] // size)
    return images if alpha == 1 else fade(F.avg_pool2d(images, 2), images, alpha)
