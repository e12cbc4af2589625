"""The log of a run: rows of metrics.jsonl and samples.jsonl, and the tracker's curves."""

from collections.abc import Iterator

from accelerate import Accelerator

from vbon.artifacts.json_files import append_line, json_value
from vbon.artifacts.run import Row, RunFolder, keep_rows, seconds_of
from vbon.config.train import TrainConfig
from vbon.models.prompts import decode
from vbon.training.output.state import RunState
from vbon.training.output.trackers import log_row, open_tracker
from vbon.training.rollout import Rollouts
from vbon.training.task import Task

SAMPLES_SHOWN = 4


class RunLog:
    """The rows that the main process writes as the run proceeds; the other processes write nothing."""

    def __init__(self, folder: RunFolder, accelerator: Accelerator, config: TrainConfig):
        self._folder, self._accelerator, self._config = folder, accelerator, config
        self._writes = accelerator.is_main_process
        self.seconds = 0.0
        """Seconds of rollouts and updates so far in the main process, those of earlier calls included."""

    def open(self, state: RunState) -> None:
        """Start the files, or cut them back to what `state` covers: a resumed run writes the rest again."""
        if self._writes:
            self.seconds = sum(map(seconds_of, keep_rows(self._folder.metrics, state.covers)))
            keep_rows(self._folder.samples, state.covers)
        open_tracker(self._accelerator, self._folder, self._config)

    def write(self, row: Row) -> None:
        """Write one row of metrics; its numbers are points of the curves."""
        if self._writes:
            self.seconds += seconds_of(row)
            append_line(self._folder.metrics, json_value(row))
            log_row(self._accelerator, row, self._config)

    def write_sample(self, row: Row) -> None:
        """Write one completion of the policy, with its prompt and reward."""
        if self._writes:
            append_line(self._folder.samples, json_value(row))

    def close(self) -> None:
        """Flush the curves. (`Accelerator.end_training` would end the process group, which is not ours.)"""
        for tracker in getattr(self._accelerator, "trackers", []):
            tracker.finish()


def sample_rows(rollouts: Rollouts, task: Task, iteration: int) -> Iterator[Row]:
    """Yield a few of an iteration's completions, for `samples.jsonl`."""
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
