"""The run's diary: JSON lines in `vbon/metrics.jsonl` and `samples.jsonl`, and the tracker's curves."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import append_line, json_value, lines_text, read_lines
from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.models.prompts import decode
from vbon.training.rollout import Rollouts
from vbon.training.run_folder import RunFolder
from vbon.training.state import RunState
from vbon.training.task import Task
from vbon.training.trackers import log_row, open_tracker

Row = dict[str, Any]
SAMPLES_SHOWN = 4


class Diary:
    """What the main process writes down as the run goes; the other processes write nothing."""

    def __init__(self, folder: RunFolder, accelerator: Accelerator, config: TrainConfig, state: RunState):
        """Start the files, or cut them back to what `state` covers: a resumed run writes the rest again."""
        self._folder, self._accelerator, self._config = folder, accelerator, config
        self._writes = accelerator.is_main_process
        self.seconds = 0.0
        """Of rollouts and updates so far, those before a resumption among them; the main process's."""
        if self._writes:
            self.seconds = sum(map(seconds_of, keep_rows(folder.metrics, state.covers)))
            keep_rows(folder.samples, state.covers)
        open_tracker(accelerator, folder, config)

    def write(self, row: Row) -> None:
        """One line of metrics; its numbers are points of the curves."""
        if self._writes:
            self.seconds += seconds_of(row)
            append_line(self._folder.metrics, json_value(row))
            log_row(self._accelerator, row, self._config)

    def write_sample(self, row: Row) -> None:
        """One completion of the policy, with its prompt and reward."""
        if self._writes:
            append_line(self._folder.samples, json_value(row))

    def close(self) -> None:
        """Flush the curves. (`Accelerator.end_training` would end the process group, which is not ours.)"""
        for tracker in getattr(self._accelerator, "trackers", []):
            tracker.finish()


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file; a torn last line (the process was killed while writing) is left out.

    Raises VbonError naming the file and line of any other line that is no row: nothing is dropped in silence.
    """
    return [_checked(row, f"{path}:{number}") for number, row in enumerate(read_lines(path), start=1)]


def _checked(row: Row, where: str) -> Row:
    if not type(row.get("iteration")) is type(row.get("offline_step", 0)) is int:
        raise VbonError(f"{where}: not a row of a run's diary; mend or remove this line")
    return row


def sample_rows(rollouts: Rollouts, task: Task, iteration: int) -> Iterator[Row]:
    """A few of an iteration's completions, for `samples.jsonl`."""
    rows, mask = rollouts.sequences.completion_ids[:SAMPLES_SHOWN], rollouts.mask[:SAMPLES_SHOWN]
    prompt_ids = [task.prompt_ids[index] for index in rollouts.prompt_index[:SAMPLES_SHOWN].tolist()]
    completion_ids = [row[real].tolist() for row, real in zip(rows, mask, strict=True)]
    texts = decode(task.tokenizer, prompt_ids, completion_ids)
    for index, text in enumerate(texts):
        yield {
            "iteration": iteration,
            "prompt": task.prompts[int(rollouts.prompt_index[index])].prompt,
            "completion": text,
            "reward": float(rollouts.rewards[index]),
        }


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> list[Row]:
    """Leave the rows that are to be kept, and return them; the file is there afterwards in any case."""
    os.makedirs(path.parent, exist_ok=True)
    kept = [row for row in read_rows(path) if keep(row)]
    replace_file(path, lines_text(kept).encode())
    return kept


def seconds_of(row: Mapping[str, Any]) -> float:
    """What a row says was spent on rollouts and updates; validations and checkpoints count as nothing."""
    return math.fsum(value for key, value in row.items() if key.startswith("seconds_"))
