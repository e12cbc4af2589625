"""The one exception that the command line turns into a one-line message and exit code 2; and a pause, which is none."""

from collections.abc import Callable

Asks = Callable[[], bool]
"""Whether work is to pause, asked between two steps of it."""


def never() -> bool:
    """Work goes on to its end."""
    return False


class Paused(Exception):
    """Work stopped between two steps because that was asked for; the same call goes on. One line: what is done."""


class VbonError(Exception):
    """A mistake the user can mend. One line: what is wrong, where (file, row or flag), how to mend it.

    A message may quote what a file holds: its lines are joined, and what a terminal would obey is spelled out.
    """

    def __init__(self, message: str):
        line = " ".join(str(message).splitlines())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
