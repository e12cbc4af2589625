"""JSON and JSON Lines: strict readers, and writers that refuse what JSON cannot hold."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from vbon.artifacts.files import replace_file
from vbon.errors import VbonError


def parse_json(text: str, where: str) -> Any:
    """Parse strict JSON: no repeated keys, no NaN or infinity, no lone surrogates. VbonError beginning with `where`."""
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_not_a_number, parse_float=_finite_float
        )
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8 form
    except UnicodeEncodeError:
        raise VbonError(f"{where}: holds half of a surrogate pair, which is not valid Unicode") from None
    except RecursionError:
        raise VbonError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:
        raise VbonError(f"{where}: malformed JSON ({first_line(error)})") from None
    return value


def read_object(path: Path, *, format_version: int | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        format_version: What its `format_version` must be where it has one; None accepts any.

    Raises:
        VbonError: the file cannot be read, is not strict JSON, holds no object, or has another format version.
    """
    try:
        content = parse_json(path.read_bytes().decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise VbonError(f"{path}: must hold a JSON object")
    found = content.get("format_version", format_version)
    if format_version is not None and found != format_version:
        raise VbonError(f"{path}: format_version is {found!r:.60}; this vbon reads {format_version}: upgrade vbon")
    return content


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:
    """Replace a file by a JSON value. Raises ValueError for NaN or ±∞ in it: see `json_value`."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    replace_file(path, text.encode() + b"\n")


def json_value(value: Any) -> Any:
    """Convert a value to JSON's own types: arrays become lists, paths text, NaN and ±∞ null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Return True if a value from a file is a finite number, and no truth value."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON Lines file, none where there is no file.

    A last line that lacks its end is left out unless it is complete: its writer was killed, or still writes.

    Raises:
        VbonError: naming the file and the line of any other line that is not a JSON object.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")  # a string may hold U+2028, which `splitlines` takes for an end
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VbonError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [_parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    try:
        return [*rows, _parse_line(last, str(path))]
    except VbonError:
        return rows


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append an object to a JSON Lines file in one write. Raises ValueError for NaN or ±∞ in it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(lines_text([row]))


def lines_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Objects as JSON Lines. Raises ValueError for NaN or ±∞ in them."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def first_line(error: BaseException) -> str:
    """An error's message on one line of at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line.decode("utf-8"), where)
    except UnicodeDecodeError:
        raise VbonError(f"{where}: not UTF-8; fix or remove this line") from None
    if not isinstance(row, dict):
        raise VbonError(f"{where}: not a JSON object; fix or remove this line")
    return row


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return row


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:20]} is out of range")
    return value
