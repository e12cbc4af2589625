"""A RUN on disk: an ordinary Hugging Face model directory, with vbon's own files under vbon/.

vbon/config.yaml    the settings of the run; written first, so a run that has it has started
vbon/metrics.jsonl  one row for each optimiser step on the pool, iteration and validation
vbon/samples.jsonl  a few of the policy's completions
vbon/checkpoints/   what a later call continues from
vbon/sources.json   digests of the pool, prompts, model and reward that it reads
vbon/run.json       what made the model; written last, so a run that has it is finished
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vbon.artifacts.files import FolderLock, remove_leftovers, replace_file
from vbon.artifacts.fingerprint import Fingerprint, parse_fingerprint
from vbon.artifacts.json_files import json_value, lines_text, read_lines, read_object, write_json
from vbon.artifacts.settings import CONFIG_NAME, MAY_CHANGE, ONCE_MISSING, check_same_settings
from vbon.artifacts.typed import read_record
from vbon.config.secrets import without_secrets
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import merged_text, read_mapping
from vbon.errors import VbonError

FORMAT_VERSION = 1
RECORD_NAME = "vbon/run.json"
SETTINGS_NAME = f"vbon/{CONFIG_NAME}"
PRIVATE = [
    *(
        "vbon/checkpoints/*",
        "vbon/curves/*",
        "vbon/wandb/*",
        "vbon/samples.jsonl",
        "vbon/sources.json",
        "vbon/rollouts/*",
    ),
    "vbon/replay/*",
    *("*.lock", "*.writing-*"),
]
"""Patterns of what is not published with the model."""
Row = dict[str, Any]
"""One line of metrics.jsonl or samples.jsonl."""


@dataclass(frozen=True)
class Provenance:
    """The fingerprint of a run's pool, and the fields in which the run was allowed to differ from it."""

    fingerprint: Fingerprint | None = None
    allowed_mismatches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json: what made a model, and the result. None or empty: an older version of vbon did not record it."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the run, with every default filled in."""
    given: Mapping[str, Any] | None = None
    """The settings as the command gave them, before defaults that depend on the model and the pool."""
    n: float | None = None
    tilt: str = "best"
    """The rank tilt, of which n is the strength (core.rank_tilts)."""
    objective: str | None = None
    algorithm: str | None = None
    pool: str | None = None
    pool_fingerprint: Fingerprint | None = None
    fingerprint: Fingerprint | None = None
    """The fingerprint of the run itself; it differs from `pool_fingerprint` in the fields `allowed_mismatches`."""
    allowed_mismatches: tuple[str, ...] = ()
    ref_model: str | None = None
    reward: str | None = None
    train_prompt_ids: tuple[str, ...] | None = None
    validation_prompt_ids: tuple[str, ...] | None = None
    """The prompts that the validation rows of metrics.jsonl were measured on."""
    result: Mapping[str, Any] = field(default_factory=dict)
    rounds: tuple[Mapping[str, Any], ...] | None = None
    """The result of each round of a run with --rounds."""

    def to_json(self) -> dict[str, Any]:
        """The content of run.json."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("pool_fingerprint", "fingerprint"):
            values[name] = None if values[name] is None else values[name].to_json()
        if self.rounds is None:
            del values["rounds"]
        return {"format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "RunRecord":
        """The record that `to_json` wrote. Raises VbonError beginning with `where` for a field of another type."""
        for name in ("pool_fingerprint", "fingerprint"):
            if content.get(name) is not None:
                parse_fingerprint(content[name], f"{where}: {name}")
        record = read_record(cls, content, where)
        if record.n is not None and not 1 < record.n <= sys.float_info.max:
            raise VbonError(f"{where}: 'n' is {record.n}, but must be a number greater than 1")
        return record

    @property
    def made_with(self) -> Fingerprint | None:
        """The fingerprint of the run: that of its pool, except where a mismatch was allowed."""
        return self.pool_fingerprint if self.fingerprint is None else self.fingerprint

    def can_go_further(self, config: TrainConfig) -> bool:
        """Return True if `config` asks for another number of iterations, or for other seconds where those ran out."""
        out_of_time = bool(self.result.get("out_of_time")) and config.max_seconds != self.config.get("max_seconds")
        return out_of_time or config.num_iterations != self.config.get("num_iterations")


_KEEPING = ("checkpoint_every", "keep_checkpoints", "save_rollouts", "replay")
_NOT_RECORDED = ("out", "device", "num_threads", "tracker", *_KEEPING, "push_to_hub")
"""Settings that say where and how a process runs; config.yaml leaves them out."""

LENGTH = frozenset({"num_iterations", "max_seconds"})
"""What says how long a run trains; a later start may extend it, but in rounds each has trained on the one before."""


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run as plain values: no secrets, and nothing that says only where or how a process runs."""
    settings = yaml.safe_load(merged_text(without_secrets(config)))
    return {name: value for name, value in settings.items() if name not in _NOT_RECORDED}


def settings_text(config: TrainConfig) -> str:
    """The content of config.yaml."""
    return yaml.safe_dump(settings_of(config), sort_keys=False, allow_unicode=True)


class RunFolder:
    """The files of a run, whether it has started or finished, and the lock that admits one writer."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.own = self.path / "vbon"
        self.settings = self.path / SETTINGS_NAME
        self.metrics = self.own / "metrics.jsonl"
        self.samples = self.own / "samples.jsonl"
        self.checkpoints = self.own / "checkpoints"
        self.record = self.path / RECORD_NAME
        self.sources = self.own / "sources.json"
        self._lock: FolderLock | None = None

    @property
    def is_started(self) -> bool:
        """True if the folder holds a run's settings."""
        return self.settings.is_file()

    @property
    def is_finished(self) -> bool:
        """True if the folder holds a run's record, which is written last."""
        return self.record.is_file()

    def check(self, config: TrainConfig, sources: Mapping[str, str] | None = None) -> None:
        """Refuse a run that was started with other settings than `config`, and a file in its place; write nothing.

        `sources` are digests of what the run reads: a run is not continued on another pool under the same name.

        Without rounds the number of iterations may differ. Raises VbonError naming each flag that must not.
        """
        if self.path.exists() and not self.path.is_dir():
            raise VbonError(f"--out {self.path} is a file; choose another --out")
        if self.is_started:
            may_change = MAY_CHANGE | LENGTH if config.rounds == 1 else MAY_CHANGE - LENGTH
            then = ONCE_MISSING | read_mapping(self.settings)
            check_same_settings(self.path, then, settings_of(config), may_change=may_change)
            if sources is not None and self.sources.is_file():
                then = read_object(self.sources, format_version=FORMAT_VERSION)
                fix = "put it back, or choose another --out"
                check_same_settings(self.path, then, sources, spell=lambda name: f"the {name}", fix=fix)

    def open(self, config: TrainConfig, sources: Mapping[str, str] | None = None) -> None:
        """Make the folder, keep other processes out, write the settings. The run is no longer a finished one.

        `sources` are digests of what the run reads, kept for `check`.

        Raises:
            VbonError: The folder cannot be made, or another process writes this run.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VbonError(f"--out {self.path}: cannot be created ({error.strerror}); choose another") from None
        self._lock = FolderLock(self.own, "run")
        remove_leftovers(self.checkpoints)
        try:
            self.record.unlink(missing_ok=True)
            replace_file(self.settings, settings_text(config).encode())
            if sources is not None:
                write_json(self.sources, {"format_version": FORMAT_VERSION, **sources})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process write the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read_record(self) -> RunRecord:
        """Read run.json. Raises VbonError naming the file and the field where it cannot be read."""
        content = read_object(self.record, format_version=FORMAT_VERSION)
        return RunRecord.from_json(content, str(self.record))

    def write_record(self, record: RunRecord) -> None:
        """Write run.json, which makes the run a finished one: everything else must be on disk by now."""
        write_json(self.record, json_value(record.to_json()))

    def write_card(self, text: str) -> None:
        """Write README.md, the model card."""
        replace_file(self.path / "README.md", text.encode())

    def result(self) -> dict[str, Any]:
        """The result of a finished run."""
        record = self.read_record()
        rounds = {} if record.rounds is None else {"n": record.n}
        return {"out": str(self.path), **record.result, **rounds}


def finished_result(config: TrainConfig) -> dict[str, Any] | None:
    """The result of the run that exactly this command has finished; None where it has to be looked at more closely.

    Args:
        config: The settings as the command gives them, without defaults that depend on the model and the pool.
    """
    folder = RunFolder(config.out)
    if not folder.is_finished:
        return None
    return folder.result() if folder.read_record().given == settings_of(config) else None


def read_rows(path: Path) -> list[Row]:
    """The rows of metrics.jsonl or samples.jsonl. Raises VbonError naming the file and the line that is not a row."""
    rows = read_lines(path)
    for number, row in enumerate(rows, start=1):
        if not type(row.get("iteration")) is type(row.get("offline_step", 0)) is int:
            raise VbonError(f"{path}:{number}: not a row of a run's metrics or samples; fix or remove this line")
    return rows


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> list[Row]:
    """Remove the other rows from the file, which exists afterwards in any case; return those that were kept."""
    kept = [row for row in read_rows(path) if keep(row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lines_text(kept).encode())
    return kept


def seconds_of(row: Mapping[str, Any]) -> float:
    """Seconds of rollouts and updates in a row of metrics.jsonl; validations and checkpoints are not counted."""
    return math.fsum(value for key, value in row.items() if key.startswith("seconds_"))
