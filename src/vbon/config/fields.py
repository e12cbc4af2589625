"""Fields of a config: their spelling on the command line, their help, and the check of their values."""

import ast
import dataclasses
import inspect
import itertools
import math
import typing
from collections.abc import Iterator
from typing import Any

from vbon.config.types import LARGEST, Help, Rule, at_most
from vbon.errors import VbonError


def flag(name: str) -> str:
    """The command-line spelling of a config field's name: `num_samples` → `--num-samples`."""
    return "--" + name.replace("_", "-")


def spelling(config_field: dataclasses.Field[Any]) -> str:
    """The command-line spelling of a config field: `--num-samples`, or `RUN` for a positional argument."""
    positional: str | None = config_field.metadata.get("positional")
    return positional or flag(config_field.metadata.get("flag", config_field.name))


def required_fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a config that have no default."""
    missing = dataclasses.MISSING
    return [f for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def refuse(name: str, value: object, want: str) -> VbonError:
    """The error for a field whose value is not allowed."""
    return VbonError(f"{flag(name)} is {value}, but must be {want}")


def check_fields(config: Any) -> None:
    """Check every value of a config against the rules of its field's type.

    Raises VbonError naming the first flag whose value breaks a rule, the value, and the values that are allowed.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for config_field in dataclasses.fields(config):
        value = getattr(config, config_field.name)
        rules = [part for part in _annotations(hints[config_field.name]) if isinstance(part, Rule)]
        for item in value if isinstance(value, tuple) else () if value is None else (value,):
            want = next((rule.want for rule in (*_general_rules(item), *rules) if not rule.holds(item)), None)
            if want is not None:
                verb, each = ("holds", "each ") if isinstance(value, tuple) else ("is", "")
                shown = f"{item!r:.80}" if isinstance(item, str) else item
                raise VbonError(f"{spelling(config_field)} {verb} {shown}, but {each}must be {want}")


def field_help(cls: type[Any]) -> dict[str, Help]:
    """The help of each field of a config: the string under it, otherwise that of its type."""
    own = _strings_under_fields(cls)
    return {name: _help(hint, own.get(name)) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}


def _help(hint: Any, own: str | None) -> Help:
    shared = [part for part in _annotations(hint) if isinstance(part, Help)]
    text = own or next((part.text for part in shared if part.text), "")
    return Help(text, next((part.placeholder for part in shared if part.placeholder), None))


def _annotations(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        yield from _annotations(part)


def _general_rules(value: Any) -> Iterator[Rule]:
    if isinstance(value, str):
        yield Rule(lambda text: bool(text.strip()), "text that is not empty")
        yield Rule(lambda text: "\0" not in text, "text without a NUL character")
    elif isinstance(value, float):
        yield Rule(math.isfinite, "a finite number")
    elif not isinstance(value, bool):
        yield at_most(LARGEST)


def _strings_under_fields(cls: type[Any]) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(cls)).body
    return {
        config_field.target.id: " ".join(doc.value.value.split())
        for config_field, doc in itertools.pairwise(typing.cast(ast.ClassDef, definition).body)
        if isinstance(config_field, ast.AnnAssign) and isinstance(config_field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }
