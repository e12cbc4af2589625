"""Comparison of the settings of a repeated command with those with which its work was started."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from vbon.config.fields import flag
from vbon.errors import VbonError

CONFIG_NAME = "config.yaml"
"""The settings that a pool or a run was started with, as a config of its verb."""
_WHERE = ("out", "device", "num_threads", "num_workers", "concurrency", "reward_concurrency", "dry_run")
_HOW_LONG = ("max_seconds", "max_comparisons", "reward_timeout", "request_timeout")
# Sums of floats may be rounded differently; nothing else changes.
_AT_A_TIME = ("batch_size", "reward_batch_size", "gradient_checkpointing")
_KEPT = ("checkpoint_every", "keep_checkpoints", "tracker", "push_to_hub")
MAY_CHANGE = frozenset({*_WHERE, *_HOW_LONG, *_AT_A_TIME, *_KEPT})
"""Settings of any stage that may differ between two starts of it: they say where and when, not what."""
ONCE_MISSING = {"tilt": "best", "tail": "counts"}
"""Settings that earlier versions did not have, with the value that their work had."""


def check_same_settings(
    where: object,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    may_change: Collection[str] = MAY_CHANGE,
    missing_differs: bool = False,
    spell: Callable[[str], str] = flag,
    fix: str = "choose another --out",
) -> None:
    """Refuse to continue with other settings than the work was started with.

    A setting that only one side has was not known to the version that wrote the other: it is no difference, unless
    `missing_differs`. In a setting that is itself a mapping, a key that only one side has is always a difference.

    Args:
        where: What was started: the file or folder that an error begins with.
        then: The settings that the work was started with, in JSON's or YAML's own types.
        now: The settings that it is to be continued with.
        may_change: Names that are not compared, those inside mappings among them.
        missing_differs: Whether a setting that only one side has is a difference.
        spell: How a setting is named in the error; by default its flag on the command line.
        fix: What the user can do other than repeat the settings.

    Raises:
        VbonError: naming every setting that differs, with both values.
    """
    if not missing_differs:
        then, now = ({key: one[key] for key in now if key in then} for one in (then, now))
    differences = [
        f"{spell(name)} was {_shown(before)}, now it is {_shown(after)}"
        for name, before, after in _differences("", then, now, may_change)
    ]
    if differences:
        raise VbonError(f"{where}: was started with other settings ({'; '.join(differences)}); repeat them, or {fix}")


_MISSING = object()


def _differences(name: str, then: Any, now: Any, may_change: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*now, *(key for key in then if key not in now)]:
            if key not in may_change:
                inner = then.get(key, _MISSING), now.get(key, _MISSING)
                yield from _differences(f"{name}.{key}".lstrip("."), *inner, may_change)
    elif _plain(then) != _plain(now):
        yield name, then, now


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    return "not set" if value is None else f"{value!r:.60}"
