"""The model and the reward that a pool records, as defaults of `--model` and `--reward`."""

from collections.abc import Iterator
from contextlib import contextmanager

from vbon.errors import VbonError
from vbon.pool.store import ReferencePool

MADE = {"model": "which model made it", "reward": "which reward scored it"}


def name_of(pool: ReferencePool, what: str, given: str | None) -> str:
    """Return the name that a flag gives, otherwise the one that the pool records.

    Args:
        pool: the pool.
        what: "model" or "reward".
        given: the value of the flag.

    Raises:
        VbonError: neither does.
    """
    recorded: str | None = given or getattr(pool.manifest, what)
    if recorded is None:
        raise VbonError(f"{pool.path}: does not say {MADE[what]}; name it with --{what}")
    return recorded


@contextmanager
def recorded_in(pool: ReferencePool, what: str, given: str | None) -> Iterator[None]:
    """Add to an error of loading a model or reward that its name came from the pool, and not from a flag."""
    try:
        yield
    except VbonError as error:
        if given is not None:
            raise
        raise VbonError(f"{error} (the pool {pool.path} records this {what}; name another with --{what})") from error
