"""Removal of secrets from a config before it is printed or stored: the password and the query of each URL."""

import dataclasses
import re
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")

_URL = re.compile(r"(https?://)(?:[^/\s?#]*@)?([^\s?#]*)[^\s]*", re.IGNORECASE)


def without_secrets(config: ConfigT) -> ConfigT:
    """Cut every URL in a config down to scheme, host and path."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    changed = {name: cut_urls(value) for name, value in values.items()}
    return dataclasses.replace(config, **{name: changed[name] for name in values if changed[name] != values[name]})  # type: ignore[type-var]


def cut_urls(value: Any) -> Any:
    """Cut every URL in a text, or in a tuple of texts, down to scheme, host and path. Other values stay as they are."""
    if isinstance(value, tuple):
        return tuple(cut_urls(item) for item in value)
    return _URL.sub(r"\1\2", value) if isinstance(value, str) else value
