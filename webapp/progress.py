"""How far the start of the page is."""

# What a start does, one after the other.
FETCH, BUILD = STEPS = ("Fetching the generator: 38 MB, once", "Building and opening the engines")


class Progress:
    """Is told how far a start is, and asked by whoever shows it.

    Attributes:
        step: what is being done, one of `STEPS`.
        share: of all of it that is over, 0..1.
    """

    def __init__(self) -> None:
        self.tell(FETCH)

    def tell(self, step: str, part: float = 0.0) -> None:
        """Begin a step, or say which part of it is over, 0..1."""
        self.step, self.share = step, (STEPS.index(step) + part) / len(STEPS)
