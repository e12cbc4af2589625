"""What of a config may be printed and stored: a URL may carry a password before its host, and a key after its path."""

import dataclasses
import re
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")

_URL = re.compile(r"(https?://)(?:[^/\s?#]*@)?([^\s?#]*)[^\s]*", re.IGNORECASE)


def without_secrets(config: ConfigT) -> ConfigT:
    """The config, every URL in it cut down to scheme, host and path."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    changed = {name: cut_urls(value) for name, value in values.items()}
    return dataclasses.replace(config, **{name: changed[name] for name in values if changed[name] != values[name]})  # type: ignore[type-var]


def cut_urls(value: Any) -> Any:
    """A text, or a tuple of texts, in which every URL is cut down to scheme, host and path; all else as it is."""
    if isinstance(value, tuple):
        return tuple(cut_urls(item) for item in value)
    return _URL.sub(r"\1\2", value) if isinstance(value, str) else value
