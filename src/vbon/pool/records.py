"""Rows of user files (JSONL, JSON, CSV/TSV, Parquet, text), each with the line number for error messages."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vbon.artifacts.json_files import first_line, parse_json
from vbon.errors import VbonError

Record = tuple[int, dict[str, Any]]

_BOM = b"\xef\xbb\xbf"


def read_records(path: Path, *, text_column: str = "prompt") -> Iterator[Record]:
    """Yield (line or row number from 1, row) for a file whose format its suffix gives.

    `.gz` may follow any suffix except Parquet's. A text file gives a row per line, under `text_column`.

    Raises:
        VbonError: the file or a line cannot be read; the message names both.
    """
    if not path.is_file():
        raise VbonError(f"{path}: {'is a directory, not a file' if path.is_dir() else 'no such file'}")
    reader = _reader(path)
    if reader is None:
        raise VbonError(f"{path}: unknown file type {path.suffix!r}; use {', '.join(_READERS)}, .gz allowed")
    try:
        yield from reader(path, text_column)
    except (OSError, EOFError, zlib.error) as error:
        raise VbonError(f"{path}: cannot be read ({first_line(error)})") from None


def is_known_format(name: str) -> bool:
    """Return True if `name` ends in a suffix that `read_records` can read."""
    return _reader(Path(name)) is not None


def _reader(path: Path) -> Callable[[Path, str], Iterator[Record]] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes = [suffix for suffix in suffixes[:-1] if suffix != ".parquet"]
    return _READERS.get(suffixes[-1]) if suffixes else None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            # Only "\n" ends a line: a JSON string may hold U+2028 and its like.
            yield number, _decode(line.removeprefix(_BOM) if number == 1 else line, path, number)


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise VbonError(f"{path}:{number}: not UTF-8; convert the file to UTF-8") from None


def _read_jsonl(path: Path, _: str) -> Iterator[Record]:
    for number, line in _lines(path):
        if line.strip():
            yield number, _as_object(parse_json(line, f"{path}:{number}"), f"{path}:{number}")


def _read_json(path: Path, _: str) -> Iterator[Record]:
    lines = [line for _, line in _lines(path)]
    objects = [line for line in lines if line.strip()]
    first = objects[0].strip() if objects else "[]"
    is_object = first.startswith("{") and first.endswith("}")
    if is_object and (len(objects) > 1 or not isinstance(_rows(parse_json(first, f"{path}:1")), list)):
        yield from _read_jsonl(path, _)  # JSON Lines under another suffix
        return
    rows = _rows(parse_json("".join(lines) or "[]", str(path)))
    if not isinstance(rows, list):
        raise VbonError(
            f"{path}: must hold a list of objects, or a column of equal length under each name; for one object a line, "
            "name it .jsonl"
        )
    for number, row in enumerate(rows, start=1):
        yield number, _as_object(row, f"{path}: row {number}")


def _rows(content: Any) -> Any:
    """The rows of a table that is stored under `data`, or column by column as pandas does; else the content itself."""
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        return content["data"]
    if not isinstance(content, dict) or not content:
        return content
    columns = {name: list(_cells(column)) for name, column in content.items() if isinstance(column, dict | list)}
    chat = any(isinstance(cell, dict) and "role" in cell for column in columns.values() for cell in column)
    if chat or len(columns) < len(content) or len({len(column) for column in columns.values()}) > 1:
        return content  # one row, perhaps: a chat is a list too
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _cells(column: dict[str, Any] | list[Any]) -> Any:
    return column.values() if isinstance(column, dict) else column


def _read_text(path: Path, text_column: str) -> Iterator[Record]:
    for number, line in _lines(path):
        if line.strip():
            yield number, {text_column: line.rstrip("\r\n")}


def _read_csv(path: Path, _: str) -> Iterator[Record]:
    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    text = io.StringIO("".join(line for _, line in _lines(path)), newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise VbonError(f"{path}:{reader.line_num}: does not have the {fields} fields of the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise VbonError(f"{path}:{reader.line_num}: malformed CSV ({first_line(error)})") from None


def _read_parquet(path: Path, _: str) -> Iterator[Record]:
    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise VbonError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def _as_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise VbonError(f'{where}: must be a JSON object such as {{"prompt": "…"}}, not {type(value).__name__}')
    return value


_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_text,
}
