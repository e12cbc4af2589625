"""An experiment's results on disk and on screen: JSON that says what made it, a table, a figure."""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vbon.artifacts.json_files import json_value
from vbon.artifacts.json_files import write_json as write_file
from vbon.commit import commit_of
from vbon.errors import VbonError
from vbon.version import __version__

Row = dict[str, Any]


def provenance() -> dict[str, Any]:
    """What made a result: versions, commit (with + where the sources differ from it), machine."""
    return {
        "vbon": __version__,
        "commit": commit_of(Path(__file__).parents[1]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": "cpu",
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write the result, numbers at full precision. Raises VbonError where the folder refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json_value(result), indent=1)
    except OSError as error:
        raise VbonError(f"--out {path.parent}: cannot be written ({error.strerror}); name another folder") from None


def print_table(title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """The rows on standard output, in the order given; a column that a row lacks is empty there."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in columns))
    Console(width=max(80, 16 * len(columns)) if not sys.stdout.isatty() else None).print(table)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
