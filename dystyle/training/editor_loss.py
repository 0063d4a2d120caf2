"""The editor's loss (section 3.3): one class that adds up what `dystyle.training.losses` defines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dystyle.attributes import ATTRIBUTES
from dystyle.training.losses import (
    attribute_loss,
    background_loss,
    carried_loss,
    identity_loss,
    identity_tolerance,
    norm_loss,
    preservation_loss,
)


@dataclass(frozen=True)
class Readings:
    """What is seen of n faces: scores (n,) by attribute, identity embeddings (n, 1024), `backgrounds`."""

    scores: dict[str, Tensor]
    embeddings: Tensor
    backgrounds: Tensor

    def __getitem__(self, index) -> "Readings":
        scores = {name: score[index] for name, score in self.scores.items()}
        return Readings(scores, self.embeddings[index], self.backgrounds[index])


@dataclass(frozen=True)
class EditorLoss:
    """What an edit w -> w' that asks for the values t of the attributes A, and shows x' instead of x, costs:

        L = L_attributes + l_p L_preservation + l_i L_identity + l_n L_norm + l_b L_background

        L_attributes   = sum over i in A of d(score_i(x'), t_i), and what is carried along
        L_preservation = mean over j not in A of h(score_j(x') - score_j(x))
        L_identity     = max(0, 1 - cos(id(x'), id(x)) - tolerance(t, x)) / |A|
        L_norm         = sum over rows of mean ((w' - w) / std_w)^2 / |A|
        L_background   = mean |beside_the_head(x') - beside_the_head(x)|

    d, h and the tolerance are those of `attribute_loss`, `preservation_loss` and `identity_tolerance`.
    Identity and norm grow faster than the number of attributes; unshared they would hold joint edits back.

    Attributes:
        identity, norm, preservation, background: the weights l.
        std_w: W's deviation, (512,).
    """

    identity: float
    norm: float
    preservation: float
    background: float
    std_w: Tensor

    def __call__(
        self,
        configurations: Sequence[Mapping[str, Tensor]],
        before: Readings,
        after: Readings,
        codes: Tensor,
        edited: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of b edits, a scalar, and the numbers to log: every term by name, and of every attribute
        its loss ("attribute/NAME") and the error in its unit ("error/NAME"), means over the faces.

        Args:
            configurations: targets (n,) by attribute, of one part of the batch after the other.
            before, after: what is seen of the unedited faces and of the edited ones.
            codes, edited: (b, 18, 512).
        """
        attributes, preservation, tolerances, shares = [], [], [], []
        losses, errors = {}, {}
        start = 0
        for configuration in configurations:
            part = slice(start, start + len(next(iter(configuration.values()))))
            start = part.stop
            scores, unedited = after[part].scores, before[part].scores
            distances = attribute_loss(scores, configuration)
            attributes.append(sum(distances.values()).mean() + carried_loss(scores, configuration))
            preservation.append(preservation_loss(scores, unedited, configuration))
            tolerances.append(identity_tolerance(configuration, unedited))
            shares.append(torch.full((part.stop - part.start,), 1 / len(configuration)))
            for name, target in configuration.items():
                losses.setdefault(name, []).append(distances[name])
                errors.setdefault(name, []).append(ATTRIBUTES[name].score_to_value(scores[name]) - target)
        share = torch.cat(shares).to(codes.device)
        identity = identity_loss(after.embeddings, before.embeddings, torch.cat(tolerances))
        terms = {
            "loss/attributes": torch.stack(attributes).mean(),
            "loss/preservation": torch.stack(preservation).mean(),
            "loss/identity": (share * identity).mean(),
            "loss/norm": (share * norm_loss(edited, codes, self.std_w)).mean(),
            "loss/background": background_loss(after.backgrounds, before.backgrounds).mean(),
        }
        total = (
            terms["loss/attributes"]
            + self.preservation * terms["loss/preservation"]
            + self.identity * terms["loss/identity"]
            + self.norm * terms["loss/norm"]
            + self.background * terms["loss/background"]
        )
        logs = {f"attribute/{name}": torch.cat(parts).mean() for name, parts in losses.items()}
        logs |= {f"error/{name}": torch.cat(parts).abs().mean() for name, parts in errors.items()}
        return total, logs | terms
