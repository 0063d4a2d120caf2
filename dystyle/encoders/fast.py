"""The fast encoder: a portrait to W+ in one pass.

As in encoder4editing (Tov et al. 2021) it predicts one W code and a small offset for every other row,
so that codes stay near W, where edits work.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.knowledge.probe import Residual
from dystyle.torch_files import misfit
from dystyle.weights import load, load_header, read_structure, save

ROWS, DIM = 18, 512


class FastEncoder(nn.Module):
    """Portrait (b, 3, s, s) in [-1, 1] -> W+ (b, 18, 512).

    Args:
        channels: width of the stages; the input is averaged down to `size` px and halved once a stage.
        mean_w, std_w: (512,) statistics of W; the network predicts in these units.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (48, 96, 160, 256, 384),
        size: int = 128,
        mean_w: Tensor | None = None,
        std_w: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size = tuple(channels), size
        self.register_buffer("mean_w", torch.zeros(DIM) if mean_w is None else mean_w.clone())
        self.register_buffer("std_w", torch.ones(DIM) if std_w is None else std_w.clone())
        widths = (3, *self.channels)
        self.stages = nn.Sequential(*(Residual(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        spatial = size >> len(self.channels)
        self.hidden = nn.Linear(self.channels[-1] * spatial**2, 768)
        self.base = nn.Linear(768, DIM)
        self.offsets = nn.Linear(768, (ROWS - 1) * 64)
        self.spread = nn.Parameter(torch.randn(ROWS - 1, 64, DIM) * 0.02)

    def forward(self, images: Tensor, rows: int = ROWS) -> Tensor:
        """Portraits -> codes; only the first `rows` have offsets, the others are the base code."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="area")
        x = F.silu(self.hidden(self.stages(images).flatten(1)))
        base = self.base(x)[:, None]
        offsets = torch.einsum("brk,rkd->brd", self.offsets(x).unflatten(1, (ROWS - 1, 64)), self.spread)
        offsets = offsets * (torch.arange(1, ROWS, device=x.device) < rows)[:, None]
        codes = torch.cat((base, base + offsets), 1)
        return codes.float() * self.std_w + self.mean_w

    def save(self, path: Path, **metadata: str) -> None:
        """Write float16 weights with what `load` needs as metadata."""
        tensors = {key: value.detach().cpu().numpy() for key, value in self.state_dict().items()}
        tensors = {
            key: value.astype(np.float16) if value.ndim > 1 else value
            for key, value in tensors.items()
            if not key.endswith("num_batches_tracked")
        }
        structure = json.dumps({"channels": self.channels, "size": self.size})
        save(path, tensors, format="fast_encoder", structure=structure, **metadata)

    @classmethod
    def load(cls, name_or_path: str) -> "FastEncoder":
        """Read an encoder written by `save`, frozen.

        Raises:
            InputError: the file is missing, damaged, or not an encoder.
        """
        shapes, metadata = load_header(name_or_path)
        if metadata.get("format") != "fast_encoder":
            raise InputError(f"'{name_or_path}' does not hold a fast encoder.")
        structure = read_structure(name_or_path, metadata)
        try:
            with torch.device("meta"):  # sizes are checked before anything takes memory
                outline = cls(**structure)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"'{name_or_path}' is damaged: there is no encoder as it describes.") from error
        wanted = {k: v for k, v in outline.state_dict().items() if not k.endswith("num_batches_tracked")}
        given = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        if wrong := misfit(given, wanted):
            raise InputError(f"The encoder '{name_or_path}' does not fit its structure: {wrong}.")
        model, (tensors, _) = cls(**structure), load(name_or_path)
        state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
        model.load_state_dict(state, strict=False)
        return model.eval().requires_grad_(False)
