"""Typed records from JSON objects: every field is checked against its annotation."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vbon.errors import VbonError

RecordT = TypeVar("RecordT")
_KINDS = {tuple: list, Mapping: dict}
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def read_record(cls: type[RecordT], content: Any, where: str) -> RecordT:
    """Read a dataclass from a JSON object.

    A field that is missing takes its default, or None where its type admits None: it is unknown. Keys that are no
    field are ignored. A list becomes a tuple where the annotation says so, a whole number a float.

    Args:
        cls: The dataclass. Its annotations may be scalars, lists, tuples of one type, dictionaries, dataclasses,
            and unions of one of them with None.
        content: What JSON gave; it is untrusted.
        where: File, and place in it, for error messages.

    Raises:
        VbonError: beginning with `where`; `content` is no object, or a field is missing or has another type.
    """
    if not isinstance(content, dict):
        raise VbonError(f"{where}: must be an object, not {content!r:.60}")
    hints = typing.get_type_hints(cls)
    return cls(
        **{
            field.name: _read(content.get(field.name), hints[field.name], field.name, where)
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            if field.init and (field.name in content or not _has_default(field))
        }
    )


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _read(value: Any, hint: Any, name: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(value, arguments[0], name, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and type(value) is dict:
        return read_record(typing.cast("type[Any]", hint), value, f"{where}: {name}")
    if origin in (list, tuple) and type(value) is list:
        return origin(_read(item, arguments[0], f"{name}[{i}]", where) for i, item in enumerate(value))
    kind = dict if dataclasses.is_dataclass(hint) else _KINDS.get(origin, origin or hint)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise VbonError(f"{where}: {name!r} must be {_NAMES.get(kind, kind)}, not {value!r:.60}")
    return _as_float(value, name, where) if kind is float else value


def _as_float(value: Any, name: str, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise VbonError(f"{where}: {name!r} is out of range") from None
