"""Latent styles whose components are independent given their domain: a component-wise spline flow.

The monotone rational-quadratic splines with linear tails are those of Durkan et al. 2019 (arXiv 1906.04032,
section 3.1; their inverse is derived in its appendix A).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUND = 5.0  # the spline lives between -BOUND and BOUND, beyond which it is the identity
LEAST = 1e-3  # of a bin's width and height, as shares of all of it, and of a knot's slope


def spline_numbers(bins: int) -> int:
    """How many numbers describe one spline: widths, heights, and slopes at the knots between bins."""
    return 3 * bins - 1


def spline(x: Tensor, theta: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """A monotone spline of each component, and the logarithm of its slope there.

    With xi the place of x within its bin, from 0 to 1, the bin's height h and mean slope s, and the slopes
    d0 and d1 at its ends,

        y = y0 + h (s xi^2 + d0 xi (1 - xi)) / (s + (d0 + d1 - 2 s) xi (1 - xi))

    whose inverse is the root of a quadratic equation. Both are the identity from `BOUND` on.

    Args:
        x: (..., n), any real numbers.
        theta: (..., n, 3 bins - 1), any real numbers; zeros make the identity.
        inverse: from y to x instead; the slope is that of the inverse.

    Returns:
        Values and log-slopes, both (..., n). The log-determinant of the Jacobian, which is diagonal, is the
        sum of the latter over n.
    """
    bins = (theta.shape[-1] + 1) // 3
    widths, heights, slopes = theta.split((bins, bins, bins - 1), -1)
    xs, ys = _knots(widths), _knots(heights)
    # Zeros are to give slopes of 1, which those at both ends have.
    slopes = F.pad(LEAST + F.softplus(slopes + math.log(math.expm1(1 - LEAST))), (1, 1), value=1.0)
    inside = x.abs() < BOUND
    given = x.clamp(-BOUND, BOUND)  # beyond, the formula has poles, and gradients with them
    # Counting knots finds the bin, as a search would, by operators that ONNX has.
    k = (given[..., None] >= (ys if inverse else xs)[..., 1:-1]).sum(-1, keepdim=True)
    x0, x1, y0, y1, d0, d1 = (t.gather(-1, k + step)[..., 0] for t in (xs, ys, slopes) for step in (0, 1))
    w, h = x1 - x0, y1 - y0
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        rise = given - y0
        a, b, c = h * (s - d0) + rise * bend, h * d0 - rise * bend, -s * rise
        # Of the root's two forms, the one without a difference of near numbers.
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    else:
        xi = (given - x0) / w
    both = xi * (1 - xi)
    below = s + bend * both
    value = x0 + w * xi if inverse else y0 + h * (s * xi.square() + d0 * both) / below
    slope = s.square() * (d1 * xi.square() + 2 * s * both + d0 * (1 - xi).square()) / below.square()
    log_slope = -slope.log() if inverse else slope.log()
    return torch.where(inside, value, x), torch.where(inside, log_slope, 0.0)


def _knots(shares: Tensor) -> Tensor:
    """Numbers (..., bins) to knots (..., bins + 1), from -BOUND to BOUND."""
    bins = shares.shape[-1]
    steps = LEAST + (1 - LEAST * bins) * shares.softmax(-1)
    inner = 2 * BOUND * steps.cumsum(-1)[..., :-1] - BOUND
    return F.pad(F.pad(inner, (1, 0), value=-BOUND), (0, 1), value=BOUND)


class LatentStyleEncoder(nn.Module):
    """Styles s = f(z; theta_u) of a domain u, theta_u = MLP(u), and their density.

    f is a spline of each component, so components of a normal z stay independent given u, whatever the MLP
    makes of u. A fresh encoder is near the identity in all domains.

    Args:
        components: n, of a style. domain: numbers that describe a domain, such as classes in one-hot form.
        bins: of each spline. hidden: width of the MLP.
    """

    def __init__(self, components: int, domain: int, bins: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.components = components
        last = nn.Linear(hidden, components * spline_numbers(bins))
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(
            nn.Linear(domain, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last
        )

    def theta(self, u: Tensor) -> Tensor:
        """Domains (b, domain) -> the numbers of their splines, (b, n, 3 bins - 1)."""
        return self.mlp(u).unflatten(-1, (self.components, -1))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """Normal z (b, n) and domains u (b, domain) -> styles (b, n)."""
        return spline(z, self.theta(u))[0]

    def inverse(self, s: Tensor, u: Tensor) -> Tensor:
        """The z (b, n) of styles s (b, n) in the domains u (b, domain)."""
        return spline(s, self.theta(u), inverse=True)[0]

    def log_density(self, s: Tensor, u: Tensor) -> Tensor:
        """log p(s | u) of each component, (b, n); their sum is the style's (change of variables)."""
        z, log_slope = spline(s, self.theta(u), inverse=True)
        return log_slope - 0.5 * (z.square() + math.log(2 * math.pi))
