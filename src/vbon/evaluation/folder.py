"""The EVAL folder: which one an evaluation may be written to. Nothing that something else made is replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vbon.artifacts.files import WRITING
from vbon.artifacts.json_files import parse_json
from vbon.errors import VbonError

SUMMARY = "evaluation.json"
FILES = (SUMMARY, "per_prompt.parquet", "samples.parquet", "reference.parquet", "throughput.json")
_FREE = ("out", "device", "num_threads", "reward_batch_size", "reward_timeout")
"""Settings that say where an evaluation runs, not what it measures."""


def make_folder(out: str, settings: Mapping[str, Any]) -> Path:
    """The folder of the evaluation, made if need be, before the work.

    An evaluation of the same settings that is there already will be replaced. Raises VbonError for a folder that
    cannot be made, that holds anything else, or an evaluation of other settings.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(WRITING))
    except OSError as error:
        raise VbonError(f"--out {out}: cannot be made ({error.strerror}); name another directory") from None
    others = [name for name in names if name not in FILES]
    if others:
        raise VbonError(f"--out {out}: not empty (holds {others[0]}); choose another --out")
    if SUMMARY in names:
        _check_same(folder / SUMMARY, settings)
    return folder


def _check_same(path: Path, settings: Mapping[str, Any]) -> None:
    there = _settings_of(path)
    for name, value in settings.items():
        if name not in _FREE and there.get(name) != value:
            was = f"{name} was {there[name]}, now {value}" if name in there else f"it does not say its {name}"
            raise VbonError(f"--out {path.parent}: there is an evaluation of other settings ({was}); choose another")


def _settings_of(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError):
        raise VbonError(f"{path}: cannot be read; choose another --out") from None
    settings = content.get("settings") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else {}
