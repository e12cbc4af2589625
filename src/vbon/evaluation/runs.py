"""RUN folders: a model directory, and what `vbon/run.json` records of its training. Read as untrusted input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.artifacts.fingerprint import Fingerprint, parse_fingerprint
from vbon.artifacts.json_files import parse_json
from vbon.errors import VbonError

RECORD_NAME = "vbon/run.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A policy to evaluate. Everything but name and path is None where the directory is no run, only a model."""

    name: str
    path: str
    n: float | None = None
    objective: str | None = None
    algorithm: str | None = None
    pool: str | None = None
    fingerprint: Fingerprint | None = None
    """What it was really trained with: its pool's, but where a mismatch was allowed."""
    ref_model: str | None = None
    reward: str | None = None
    train_prompt_ids: tuple[str, ...] | None = None


def read_runs(paths: Sequence[str]) -> list[Run]:
    """One Run for each path, named by its last part, or in full where two of them would share that."""
    last = [Path(path).name or path for path in paths]
    twice = {path for path in paths if list(paths).count(path) > 1}
    if twice:
        raise VbonError(f"run {sorted(twice)[0]} is given twice; name it once")
    names = [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(path: str, name: str) -> Run:
    """Read a RUN, or a plain model directory. Raises VbonError naming the file and the field."""
    record = Path(path) / RECORD_NAME
    if not record.is_file():
        if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
            raise VbonError(f"{path}: neither a run ({RECORD_NAME}) nor a model directory (config.json)")
        return Run(name, path)
    try:
        content = parse_json(record.read_text(encoding="utf-8"), str(record))
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{record}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise VbonError(f"{record}: not a run of this vbon (format_version must be {FORMAT_VERSION}); upgrade vbon")
    return _parse(name, path, content, str(record))


def _parse(name: str, path: str, content: dict[str, Any], where: str) -> Run:
    texts = {
        key: _typed(content, key, (str,), where) for key in ("objective", "algorithm", "pool", "ref_model", "reward")
    }
    n = _typed(content, "n", (int, float), where)
    made_with = "pool_fingerprint" if content.get("fingerprint") is None else "fingerprint"
    fingerprint = _typed(content, made_with, (dict,), where)
    ids = _typed(content, "train_prompt_ids", (list,), where)
    if n is not None and not 1 < n <= sys.float_info.max:
        raise VbonError(f"{where}: 'n' is {n}, but must be a number greater than 1")
    return Run(
        name,
        path,
        n=None if n is None else float(n),
        fingerprint=None if fingerprint is None else parse_fingerprint(fingerprint, f"{where}: {made_with}"),
        train_prompt_ids=None if ids is None else tuple(map(str, ids)),
        **texts,
    )


def _typed(content: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:
    value = content.get(key)
    if value is not None and type(value) not in kinds:
        raise VbonError(f"{where}: {key!r} must be {kinds[-1].__name__}, not {value!r:.60}")
    return value
