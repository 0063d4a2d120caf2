"""A latent guide: predicts readings from W+ codes, so that an editor can warm up without rendering."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange


class LatentGuide(nn.Module):
    """W+ codes in units of W's deviation, (b, 18, 512) -> standardised readings (b, n)."""

    ROWS = 12

    def __init__(self, outputs: int, width: int = 64, hidden: int = 512) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.randn(self.ROWS, 512, width) * 512**-0.5)
        self.body = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(self.ROWS * width, hidden),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("std", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised codes -> readings in their own units."""
        x = torch.einsum("brd,rdk->brk", x[:, : self.ROWS], self.project)
        return self.body(x.flatten(1)) * self.std + self.mean


def fit_guide(x: Tensor, readings: Tensor, steps: int, batch: int = 256) -> tuple[LatentGuide, Tensor]:
    """Fit a guide to normalised codes (n, 18, 512) and readings (n, k).

    Returns:
        The guide, frozen, and its R2 per reading on a held-out tenth.
    """
    held = max(2, len(x) // 10)
    guide = LatentGuide(readings.shape[1])
    guide.mean.copy_(readings.mean(0))
    guide.std.copy_(readings.std(0))
    optimiser = torch.optim.AdamW(guide.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in trange(steps, desc="latent guide", mininterval=5):
        index = torch.randint(held, len(x), (batch,))
        # Mixing two codes row by row does not keep readings, small noise nearly does.
        noisy = x[index] + 0.1 * torch.randn(batch, *x.shape[1:])
        loss = F.smooth_l1_loss(guide(noisy) / guide.std, readings[index] / guide.std)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    guide.eval().requires_grad_(False)
    error = (guide(x[:held]) - readings[:held]).square().mean(0)
    return guide, 1 - error / readings[:held].var(0)
