"""The one error a user's input can cause."""


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong and what to do about it.

    The command lines print it and exit with status 2; the page shows it as a message.
    """
