"""The carrier: what of a photo's residual stays, moves with the head, or gives way when its code is edited.

A residual D belongs to the features F(w) of one code. For the features F(w') of an edited one it is warped
by a flow and faded: D' = exp(-d^2) warp(D), where d is how much the features change beyond the flow, in units
of the largest change. What the edit leaves alone keeps its residual (d = 0); what it replaces loses it. The
ground, which has nothing to do with an edit, is the photo's in any case.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.encoders import CHANNELS, SAMPLED
from dystyle.encoders.features import Residual
from dystyle.encoders.stored import Stored

# A change by FADE of the largest one leaves 1/e of the residual, within FAINT and CLEAR: ageing changes the
# features little and everywhere, a smile much and around the mouth.
FADE, FAINT, CLEAR = 0.64, 0.13, 0.427
# From and up to where an edit touches a place: the share of the residual that fades there, and how far it
# moves, in half pictures.
FADED, MOVED = (0.08, 0.3), (0.01, 0.03)


class FlowNetwork(nn.Module):
    """Features before and after an edit -> where each place of the edited picture comes from.

    Args:
        width: channels at 32 px.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.down = nn.Conv2d(2 * 32, width, 3, stride=2, padding=1)
        self.deeper = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.inner = nn.Sequential(*(Residual(width) for _ in range(3)))
        self.deepest = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1), Residual(width), Residual(width)
        )
        self.join = nn.Conv2d(2 * width, width, 1)
        self.out = nn.Conv2d(2 * width, 2, 3, padding=1)
        with torch.no_grad():
            self.out.weight *= 0.1
        nn.init.zeros_(self.out.bias)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Reduced features (b, 32, 64, 64) twice -> flow (b, 2, 32, 32) in half pictures, x first."""
        x = self.down(torch.cat((before, after), 1))
        y = self.inner(self.deeper(F.silu(x)))
        z = F.interpolate(self.deepest(F.silu(y)), scale_factor=2, mode="bilinear")
        y = self.join(torch.cat((y, z), 1))
        y = F.interpolate(F.silu(y), scale_factor=2, mode="bilinear")
        return self.out(torch.cat((F.silu(x), y), 1))


class Carrier(Stored, nn.Module):
    """Residual of one code's features -> that of an edited code's.

    Args:
        scale: (512,), the features' standard deviation by channel.
    """

    format = "carrier"

    def __init__(self, scale: Tensor | None = None) -> None:
        super().__init__()
        self.structure: dict = {}
        self.register_buffer("scale", torch.ones(CHANNELS) if scale is None else scale.clone())
        self.reduce = nn.Conv2d(CHANNELS, 32, 1)
        self.flow = FlowNetwork()

    def start(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be known of features (b, 512, 64, 64) before an edit, for `moves`: what the flow network
        reads of them, (b, 32, 64, 64), and what it says where nothing is edited, (b, 2, 32, 32)."""
        read = self._read(before)
        return read, self.flow(read, read)

    def moves(self, read: Tensor, unmoved: Tensor, after: Tensor) -> Tensor:
        """Flow (b, 2, 32, 32) from what `start` says and features (b, 512, 64, 64) after an edit; 0 where
        nothing is edited."""
        return self.flow(read, self._read(after)) - unmoved

    def moved(self, before: Tensor, after: Tensor) -> Tensor:
        """The same from features (b, 512, 64, 64) before and after."""
        return self.moves(*self.start(before), after)

    def _read(self, features: Tensor) -> Tensor:
        # Units are put into the weights: on the features they would take as long as the convolution.
        return F.conv2d(features, self.reduce.weight / self.scale[:, None, None], self.reduce.bias)

    def forward(self, residual: Tensor, before: Tensor, after: Tensor, flow: Tensor | None = None) -> Tensor:
        """The residual (b, 512, 64, 64) of the edited features; arguments as `carry`."""
        return self.carry(residual, before, after, flow)[0]

    def carry(
        self, residual: Tensor, before: Tensor, after: Tensor, flow: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The residual of the edited features, which places the edit touches, and how the picture moves.

        Args:
            residual: (b, 512, 64, 64), of `before`. before, after: the features of both codes, likewise.
            flow: (b, 2, 32, 32), instead of the network's own.

        Returns:
            (b, 512, 64, 64); (b, 1, 64, 64) from 0, where neither features change nor anything moves, to 1;
            the flow (b, 2, 32, 32).
        """
        flow = self.moved(before, after) if flow is None else flow
        fade, touched = self.faded(warp(before[:, ::SAMPLED], flow), after, flow)
        return fade * warp(residual, flow), touched, flow

    def faded(self, sampled: Tensor, after: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """How much of a moved residual is left, and which places the edit touches, (b, 1, 64, 64) each.

        Args:
            sampled: one of `SAMPLED` channels of the features before an edit, moved, (b, 128, 64, 64).
            after: (b, 512, 64, 64). flow: (b, 2, 32, 32).
        """
        units = 1 / self.scale[::SAMPLED]
        difference = (after[:, ::SAMPLED] - sampled).abs()
        fade = self._fade(F.conv2d(difference, units[None, :, None, None] / len(units)))
        distance = F.interpolate(flow.square().sum(1, keepdim=True).sqrt(), scale_factor=2, mode="bilinear")
        return fade, torch.maximum(_ramp(1 - fade, *FADED), _ramp(distance, *MOVED))

    @staticmethod
    def _fade(size: Tensor) -> Tensor:
        """How much of a residual is left, (b, 1, h, w) in 0..1, where features change by `size`, likewise."""
        size = F.avg_pool2d(size, 5, 1, 2, count_include_pad=False)
        reach = (FADE * size.amax((2, 3), keepdim=True)).clamp(FAINT, CLEAR)
        return torch.exp(-((size / reach) ** 2))


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Maps (b, c, h, w), each place taken from where the flow (b, 2, 32, 32), in half pictures, says."""
    height, width = x.shape[-2:]
    flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    rows = (torch.arange(height, device=x.device) + 0.5) * 2 / height - 1
    columns = (torch.arange(width, device=x.device) + 0.5) * 2 / width - 1
    base = torch.stack((columns.expand(height, width), rows[:, None].expand(height, width)))
    grid = (base + flow).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="border", align_corners=False)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """From 0 at `low` to 1 at `high`."""
    return ((x - low) / (high - low)).clamp(0, 1)
