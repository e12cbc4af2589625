"""Checks shared by the configs: each raises an error that names the flag, the value and what would do."""

import math
import re
from collections.abc import Sequence
from typing import Any

from vbon.errors import VbonError

_SERVER = re.compile(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LARGEST = 2**32 - 1
"""Of any whole number: what no count exceeds, and every library takes as a seed."""
MOST_WORKERS = 1024
"""Of threads or processes: far more than that ends a process before it can say why."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def flag(name: str) -> str:
    """The command-line spelling of a config field: `num_samples` → `--num-samples`."""
    return "--" + name.replace("_", "-")


def refuse(name: str, value: object, want: str) -> VbonError:
    """The error for a field whose value will not do."""
    return VbonError(f"{flag(name)} is {value}, but must be {want}")


def check_text(config: object, *names: str) -> None:
    """Each field is None or a string with something in it."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value.strip():
            raise VbonError(f"{flag(name)} is empty")
        if value is not None and "\0" in value:
            raise VbonError(f"{flag(name)} is {value!r:.80}, but must hold no NUL character")


def check_at_least(config: object, minimum: float, *names: str) -> None:
    """Each field is None or a finite number ≥ minimum."""
    for name in names:
        _check_number(config, name, lambda value: value >= minimum, f"at least {minimum:g}")


def check_at_most(config: object, maximum: int, *names: str) -> None:
    """Each field is None or a number ≤ maximum."""
    for name in names:
        _check_number(config, name, lambda value: value <= maximum, f"at most {maximum}")


def check_above(config: object, bound: float, *names: str) -> None:
    """Each field is None or a finite number > bound."""
    for name in names:
        _check_number(config, name, lambda value: value > bound, f"greater than {bound:g}")


def check_fraction(config: object, *names: str) -> None:
    """Each field is None or a number in [0, 1)."""
    for name in names:
        _check_number(config, name, lambda value: 0 <= value < 1, "at least 0 and less than 1")


def check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    """The field is one of `choices`."""
    value = getattr(config, name)
    if value not in choices:
        raise refuse(name, repr(value), f"one of {', '.join(choices)}")


def check_each_at_least(config: object, minimum: int, name: str) -> None:
    """Every number in the tuple is ≥ minimum."""
    for value in getattr(config, name):
        if value < minimum:
            raise VbonError(f"{flag(name)} holds {value}, but each must be at least {minimum}")
        if value > LARGEST:
            raise VbonError(f"{flag(name)} holds {value}, but each must be at most {LARGEST}")


def check_device(config: object) -> None:
    """`device` is a name that torch would know; whether it is present is asked when the model is loaded."""
    device = getattr(config, "device")  # noqa: B009
    if not _DEVICE.fullmatch(device):
        raise refuse("device", repr(device), "auto, cpu, mps, cuda or cuda:NUMBER")


def check_repository(config: object, name: str) -> None:
    """The field is None or the name of a hub repository."""
    value = getattr(config, name)
    if value is not None and not _REPOSITORY.fullmatch(value):
        raise refuse(name, repr(value), "a hub repository, OWNER/NAME")


def check_server(config: object) -> None:
    """`base_url` is an http(s) address where `engine` is openai, and is not given elsewhere."""
    engine, base_url = getattr(config, "engine"), getattr(config, "base_url")  # noqa: B009
    if (engine == "openai") != (base_url is not None):
        raise VbonError("--base-url and --engine openai go together: give both or neither")
    if base_url is not None and not _SERVER.fullmatch(base_url):
        raise VbonError(
            "--base-url must be an address such as http://127.0.0.1:8000/v1; a token goes into VBON_API_TOKEN"
        )


def check_workers(config: object) -> None:
    """`num_workers` goes with `engine` ray, whose workers are given a device each."""
    engine, workers, device = (getattr(config, name) for name in ("engine", "num_workers", "device"))
    if engine != "ray" and workers is not None:
        raise VbonError("--num-workers goes with --engine ray; leave it out")
    if engine == "ray" and ":" in device:
        raise refuse("device", repr(device), "auto, cpu or cuda: Ray gives each worker a GPU of its own")


def _check_number(config: object, name: str, holds: Any, want: str) -> None:
    value = getattr(config, name)
    if isinstance(value, int) and value > LARGEST:
        raise refuse(name, value, f"at most {LARGEST}")
    if value is not None and not (math.isfinite(value) and holds(value)):
        raise refuse(name, value, want)
