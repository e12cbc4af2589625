"""The error that the command line turns into a line and exit code 2, and `Paused`, which is not an error."""


class Paused(Exception):
    """Work stopped between two steps because `should_pause` asked for it; the same call continues it."""


class VbonError(Exception):
    """A mistake the user can fix. One line: what is wrong, where (file, row or flag), how to fix it.

    A message may quote what a file holds: its lines are joined, and what a terminal would obey is spelled out.
    """

    def __init__(self, message: str):
        line = " ".join(str(message).splitlines())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
