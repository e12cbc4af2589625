"""The fingerprint of the settings that made a pool, and the check that other settings do not differ from it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vbon.artifacts.typed import read_record
from vbon.errors import VbonError


@dataclass(frozen=True)
class Fingerprint:
    """The settings that determine a pool's distribution of rewards; None is unknown, as an import may leave it."""

    model: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    stop: tuple[int, ...] | None = None
    """Token ids that end a completion, sorted."""
    reward: str | None = None

    def differences(self, other: "Fingerprint") -> list[tuple[str, Any, Any]]:
        """List (field, value here, value in `other`) for each field that both know and that differs."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in FIELDS]
        return [(name, mine, theirs) for name, mine, theirs in pairs if _differ(mine, theirs)]

    def unknown(self) -> list[str]:
        """List the fields that are not known."""
        return [name for name in FIELDS if getattr(self, name) is None]

    def to_json(self) -> dict[str, Any]:
        """Convert to the types of JSON."""
        return {**dataclasses.asdict(self), "stop": None if self.stop is None else list(self.stop)}


def _differ(mine: Any, theirs: Any) -> bool:
    """Whether two values that are both known differ.

    A digest may have several parts with spaces between. One of an earlier version has fewer, and tells of those only.
    """
    if isinstance(mine, str) and isinstance(theirs, str):
        return any(a != b for a, b in zip(mine.split(" "), theirs.split(" "), strict=False))
    return None not in (mine, theirs) and bool(mine != theirs)


FIELDS = tuple(field.name for field in dataclasses.fields(Fingerprint))


def parse_fingerprint(content: Any, where: str) -> Fingerprint:
    """Parse a fingerprint from JSON.

    Raises:
        VbonError: a field is unknown here or has a wrong type; the message begins with `where`.
    """
    unknown = sorted(set(content) - set(FIELDS)) if isinstance(content, dict) else []
    if unknown:
        raise VbonError(f"{where}: unknown field {unknown[0]!r}")
    return read_record(Fingerprint, content, where)


def check_fingerprint(
    pool: Fingerprint, actual: Fingerprint, *, allow_mismatch: Sequence[str] = (), what: str
) -> list[str]:
    """Check that the settings in use do not differ from the pool's; unknown fields pass.

    Args:
        pool: the fingerprint of the pool.
        actual: the fingerprint of the settings in use.
        allow_mismatch: fields that may differ.
        what: name of the user of these settings, for messages.

    Returns:
        The fields that differ and were allowed, which the run records.

    Raises:
        VbonError: other fields differ, which the message names with both values; or `allow_mismatch` has an unknown
            field.
    """
    unknown_names = sorted(set(allow_mismatch) - set(FIELDS))
    if unknown_names:
        raise VbonError(f"--allow-mismatch {unknown_names[0]}: no such field; one of {', '.join(FIELDS)}")
    differences = pool.differences(actual)
    refused = [(name, mine, theirs) for name, mine, theirs in differences if name not in allow_mismatch]
    if refused:
        details = "; ".join(f"{name} is {mine!r} in the pool but {theirs!r} here" for name, mine, theirs in refused)
        flags = " ".join(f"--allow-mismatch {name}" for name, _, _ in refused)
        raise VbonError(f"{what} does not match the pool: {details}. If this is meant: {flags}")
    return [name for name, _, _ in differences]
