"""The one error a user's input can cause."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong and what to do about it.

    The command lines print it and exit with status 2; the page shows it as a message.
    """


@contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Around the import of what not everybody has installed.

    Raises:
        InputError: the package is missing, and `what`, the beginning of the sentence, needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(f"{what} needs the package {package}; pip install {package}.") from error
