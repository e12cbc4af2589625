"""Tables in Parquet files."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vbon.artifacts.json_files import first_line
from vbon.errors import VbonError


def parquet_bytes(table: pa.Table) -> bytes:
    """The content of a Parquet file, a function of the table alone."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a Parquet file, none where there is no file. Raises VbonError naming the file."""
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise VbonError(f"{path}: cannot be read as Parquet ({first_line(error)})") from None
    return rows
