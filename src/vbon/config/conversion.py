"""Conversion of values to the type of their config field: of YAML's own types, and of words on a command line."""

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal


def convert(value: Any, hint: Any) -> Any:
    """Convert a value that YAML has read. Raises TypeError, ValueError or OverflowError if it has another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(origin):
        return None if value is None else convert(value, _value_type(hint))
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError
        return tuple(convert(item, arguments[0]) for item in value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError
        return value
    # YAML 1.1 reads 1e-4 (no dot) as a string; everyone who writes it means the number.
    if hint is float and type(value) in (int, float, str):
        return float(value)
    if type(value) is not hint:
        raise TypeError
    return value


def convert_word(word: str, hint: Any) -> Any:
    """Convert one word of a command line, an item where the field is a tuple. Raises ValueError."""
    kind = item_type(hint)
    return kind(word) if kind in (int, float) else convert(word, kind)


def item_type(hint: Any) -> Any:
    """The type of one value: of a field that may be None, or of an item of a tuple."""
    if typing.get_origin(hint) is tuple:
        return item_type(typing.get_args(hint)[0])
    return item_type(_value_type(hint)) if _is_union(typing.get_origin(hint)) else hint


def describe(hint: Any) -> str:
    """A type in words: `a whole number or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(origin):
        return " or ".join("null" if a is type(None) else describe(a) for a in arguments)
    if origin is tuple:
        return f"a list, each item {describe(arguments[0])}"
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest known word, or nothing if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def nearest_choice(value: Any, hint: Any) -> str:
    """`nearest` among the choices of a field; nothing for a field without choices."""
    kind = item_type(hint)
    is_choice = typing.get_origin(kind) is Literal and isinstance(value, str)
    return nearest(value[:80], typing.get_args(kind)) if is_choice else ""


def _is_union(origin: Any) -> bool:
    return origin in (types.UnionType, typing.Union)


def _value_type(hint: Any) -> Any:
    return next(a for a in typing.get_args(hint) if a is not type(None))
