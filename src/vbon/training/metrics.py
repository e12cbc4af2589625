"""The run's diary: one JSON object a line in `vbon/metrics.jsonl`, and curves through accelerate's trackers."""

import json
from pathlib import Path
from typing import Any

from vbon.pool.files import replace_file


class MetricsLog:
    """Appends lines; a resumed run first drops the lines of iterations it will do again."""

    def __init__(self, path: Path, *, keep_before: int | None = None):
        self.path = path
        kept = [] if keep_before is None else [m for m in read_metrics(path) if m["iteration"] <= keep_before]
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(_line(metrics) for metrics in kept).encode())

    @classmethod
    def appending(cls, path: Path) -> "MetricsLog":
        """A log that keeps every line there is."""
        log = cls.__new__(cls)
        log.path = path
        return log

    def write(self, metrics: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(metrics))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a torn last line (the process was killed while writing) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _line(metrics: dict[str, Any]) -> str:
    return json.dumps({key: _finite(value) for key, value in metrics.items()}) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
