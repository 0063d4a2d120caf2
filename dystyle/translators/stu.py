"""The selective transfer unit (Liu et al. 2019, arXiv 1904.09709, section 3.2)."""

import torch
from torch import Tensor, nn

from dystyle.translators.network import spread


class SelectiveTransferUnit(nn.Module):
    """Lets through, of an encoder layer's features, what the asked change leaves, and changes the rest.

    A gated recurrent unit that runs from the innermost layer outwards; its state says what is to change.

    Args:
        inner: channels of the state from the layer within. channels: of this layer. attributes: how many.
    """

    def __init__(self, inner: int, channels: int, attributes: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inner + attributes, channels, 4, 2, 1)
        self.reset, self.update, self.fresh = (nn.Conv2d(2 * channels, channels, 3, 1, 1) for _ in range(3))

    def forward(self, features: Tensor, state: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Features for the decoder, and the state for the layer without, both (b, c, h, w).

        Equations 3 to 8, with * for convolutions and o for products by element:

            s_hat = W_t *_T [s, difference]
            r = sigmoid(W_r * [f, s_hat]),  z = sigmoid(W_z * [f, s_hat])
            s' = r o s_hat
            f_hat = tanh(W_h * [f, s'])
            f_t = (1 - z) o s_hat + z o f_hat

        Args:
            features: f, of the encoder, (b, c, h, w). state: s, (b, inner, h / 2, w / 2).
            difference: of the attributes, (b, n).
        """
        state = self.up(spread(difference, state))
        both = torch.cat((features, state), 1)
        r, z = self.reset(both).sigmoid(), self.update(both).sigmoid()
        outer = r * state
        fresh = self.fresh(torch.cat((features, outer), 1)).tanh()
        return (1 - z) * state + z * fresh, outer
