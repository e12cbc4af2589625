"""The one exception that the command line turns into a one-line message and exit code 2."""


class VbonError(Exception):
    """A mistake the user can mend. One line: what is wrong, where (file, row or flag), how to mend it."""
