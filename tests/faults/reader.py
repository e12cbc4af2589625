"""What a fuzzer's target is: a reader of the package, and files that it accepts."""

import io
import json
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

Read = Callable[[bytes, str], None]
Make = Callable[[Random], tuple[str, bytes]]


class Valid(NamedTuple):
    """A file that its reader accepts. `kind` (json, table, text) says how it is damaged beside its bytes."""

    suffix: str
    kind: str
    content: bytes


class Target(NamedTuple):
    """`read(content, suffix)` reads these bytes as the package would; `share` weighs the target among the others.

    `make(random)` gives (suffix, content) of one more input of a kind that has many members; half of the inputs are
    made by it, or all of them where there is no valid file.
    """

    name: str
    share: float
    valid: tuple[Valid, ...]
    read: Read
    make: Make | None = None


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
