"""What is timed: how many prompts and draws each measurement makes, and what it divides by."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from vbon.config.evaluate import EvaluateConfig
from vbon.evaluation import throughput
from vbon.evaluation.plan import make_plan
from vbon.evaluation.task import EvalTask


@pytest.fixture
def task(world: Path) -> EvalTask:
    config = EvaluateConfig(
        runs=(str(world / "policy"),),
        pool=str(world / "pool"),
        out="unused",
        n=3.5,
        samples_per_prompt=2,
        batch_size=20,
        device="cpu",
    )
    return make_plan(config).task


@pytest.fixture
def scored(task: EvalTask, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of each batch that the reward scored."""
    batches: list[list[str]] = []
    score = task.reward.__class__.__call__

    def recorded(self, prompts, completions, **columns):
        batches.append(list(prompts))
        return score(self, prompts, completions, **columns)

    monkeypatch.setattr(task.reward.__class__, "__call__", recorded)
    return batches


def test_best_of_n_scores_every_draw_of_a_full_batch_and_of_one_prompt(task: EvalTask, scored: list[list[str]]):
    """N = 3.5 is drawn as 4: five prompts of 20 draws, then six prompts of four draws, each four times."""
    throughput.best_of_n_speed(task)
    prompts = [prompt.prompt for prompt in task.pool.prompts]
    full = np.repeat(prompts[:5], 4).tolist()
    one_by_one = [[prompt] * 4 for prompt in prompts]
    assert scored == [full] * 4 + one_by_one * 4


def test_seconds_are_per_prompt_and_the_median_of_three(task: EvalTask, monkeypatch: pytest.MonkeyPatch):
    """A clock that jumps by 1, 9, 2 seconds for the full batch, then by 12, 6, 60 for the eight prompts one by one."""
    steps = itertools.chain.from_iterable((0.0, seconds) for seconds in (1.0, 9.0, 2.0, 12.0, 6.0, 60.0))
    clock = itertools.accumulate(steps)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    speed = throughput.one_sample_speed(task.sampler.model, task)
    assert speed == throughput.Speed(rate=20 / 2.0, latency=12.0 / 8)
