"""How far the start of the page is."""

from collections.abc import Callable

# What a start does, one after the other.
FETCH, BUILD = STEPS = ("Fetching the generator: 38 MB, once", "Building and opening the engines")


class Progress:
    """Is told how far a start is, and asked by whoever shows it."""

    def __init__(self) -> None:
        self.tell(FETCH)

    def tell(self, step: str, part: Callable[[], float] = lambda: 0.0) -> None:
        """What is being done, one of `STEPS`, and what says which part of that is over, 0..1."""
        self._now = step, part

    @property
    def step(self) -> int:
        """The number of the step that is being done, from 0 on."""
        return STEPS.index(self._now[0])

    @property
    def share(self) -> float:
        """Of all steps that is over, 0..1."""
        step, part = self._now
        return (STEPS.index(step) + part()) / len(STEPS)
