"""The editor's warm-up in the latent space: minutes of training on pictures in seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from dystyle.editors.dystyle import DyStyle
from dystyle.training.curriculum import sample_configuration
from dystyle.training.editor_loss import Readings
from dystyle.training.guide import LatentGuide, fit_guide
from dystyle.training.losses import attribute_loss, norm_loss, preservation_loss

BATCH = 128
LR = 1e-3
IDENTITY_DIMENSIONS = 48  # as many as the guide can predict
NOISE = 0.1  # on codes, in units of W's deviation: the guide is right on average only


@dataclass(frozen=True)
class WarmUp:
    """A latent guide in the place of generator and readers.

    Attributes:
        guide: normalised codes -> scores of the attributes `names`, then identity in few dimensions.
        codes: (n, 18, 512) to start from, and what is `seen` of them.
        preservation, identity, norm: weights, as in `EditorLoss`.
        learning: attributes of which each edit holds one; any if there are none.
    """

    guide: LatentGuide
    names: tuple[str, ...]
    codes: Tensor
    seen: Readings
    preservation: float
    identity: float
    norm: float
    learning: tuple[str, ...] = ()

    def loss(self, editor: DyStyle, most: int | None = None) -> Tensor:
        """The mean loss of a batch of edits of one attribute, or of up to `most` at once."""
        index = torch.randint(len(self.codes), (BATCH,))
        codes, before = self.codes[index], self.seen[index]
        count = 1 if most is None else int(torch.randint(1, most + 1, ()))
        configuration = sample_configuration(editor.names, count, before.scores, self.learning)
        edited = editor(codes, configuration)
        normalised = (edited - editor.mean_w) / editor.std_w
        read = self.guide(normalised + NOISE * torch.randn_like(normalised))
        unedited = self.guide((codes - editor.mean_w) / editor.std_w)
        count = len(self.names)
        scores = dict(zip(self.names, read[:, :count].unbind(1), strict=True))
        same = F.cosine_similarity(read[:, count:], unedited[:, count:]).mean()
        loss = sum(attribute_loss(scores, configuration).values()).mean()
        loss = loss + self.preservation * preservation_loss(scores, before.scores, configuration)
        loss = loss + self.identity / 4 * (1 - same)
        return loss + 2 * self.norm * norm_loss(edited, codes, editor.std_w).mean()


def fit_readings_guide(
    codes: Tensor, seen: Readings, mean_w: Tensor, std_w: Tensor, steps: int
) -> tuple[LatentGuide, dict[str, float]]:
    """A guide to scores and to identity in its leading principal components.

    Returns:
        The guide, and its R2 on held-out faces: by attribute, and the mean over the dimensions of "identity".
    """
    x = (codes - mean_w) / std_w
    centre = seen.embeddings.mean(0)
    *_, basis = torch.pca_lowrank(seen.embeddings, min(IDENTITY_DIMENSIONS, len(x)))
    scores = torch.stack(list(seen.scores.values()), 1)
    guide, r2 = fit_guide(x, torch.cat((scores, (seen.embeddings - centre) @ basis), 1), steps)
    count = scores.shape[1]
    figures = dict(zip(seen.scores, r2[:count].tolist(), strict=True))
    return guide, figures | {"identity": float(r2[count:].mean())}


def warm_up(
    warm: WarmUp, editor: DyStyle, steps: int, most: int, descend: Callable[[Tensor], object]
) -> None:
    """Single attributes in the first half of the steps, up to `most` at once in the second."""
    for step in trange(steps, desc="warm-up", mininterval=10):
        descend(warm.loss(editor, None if step < steps / 2 else most))
