"""Translators: picture x attributes -> picture, without a code. A new one is a file and a line here."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dystyle.translators.network import Network


@dataclass(frozen=True)
class Family:
    """What differs between the translators.

    Attributes:
        title: what to call it.
        path: its network as "module:Class", imported when it is built.
        given: what the network is told: the "difference" of attributes, or the "target" alone.
        reconstruction: what has to come back: the picture at no change ("unchanged"), or through an edit and
            the edit back ("cycle").
    """

    title: str
    path: str
    given: Literal["difference", "target"]
    reconstruction: Literal["unchanged", "cycle"]

    def network(self) -> "type[Network]":
        """The network's class; imports torch."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)


FAMILIES: dict[str, Family] = {
    "stgan": Family("STGAN", "dystyle.translators.stgan:STGAN", "difference", "unchanged"),
    "attgan": Family("AttGAN", "dystyle.translators.attgan:AttGAN", "target", "unchanged"),
    "stargan": Family("StarGAN", "dystyle.translators.stargan:StarGAN", "target", "cycle"),
}
