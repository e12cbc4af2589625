"""What a reader of an evaluation should be told before believing it, one line each."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vbon.core import stats
from vbon.evaluation.task import EvalTask

PerPrompt = Mapping[str, NDArray[np.float64]]
SAMPLES_PER_N = 25
"""M below 25·N leaves the estimate of KL(π_θ‖π_bon) a floor of about 0.02 nats a unit of N/M."""
JUDGE = "judge_reward/"


def task_warnings(task: EvalTask, rank_test: stats.RankTest) -> list[str]:
    """What the pool cannot tell: too few samples, samples of something else, no token ids."""
    samples, wanted = int(task.pool.num_samples.min()), SAMPLES_PER_N * task.n
    lines = [
        (
            samples < wanted,
            f"M = {samples} is below {SAMPLES_PER_N}·N = {wanted:g}: KL to best-of-N reads high by about the floor",
        ),
        (
            rank_test.p_value < stats.RANK_TEST_P_VALUE,
            f"fresh samples of the reference do not rank like the pool's (p = {rank_test.p_value:.1e}): another model, "
            "temperature, length, stop rule, template or reward made it",
        ),
        (not task.pool.has_completion_ids, "the pool has no token ids, so KL(π_bon‖π_θ) is not measured"),
    ]
    return [line for holds, line in lines if holds]


def judge_warnings(policies: Mapping[str, PerPrompt], reference: PerPrompt, seed: int) -> Iterator[str]:
    """Where the reward rises from the reference and a judge falls, each by more than its 95 % interval."""
    for name, values in policies.items():
        if not stats.paired_difference(values["reward"], reference["reward"], seed).low > 0:
            continue
        for key in (key for key in values if key.startswith(JUDGE)):
            change = stats.paired_difference(values[key], reference[key], seed)
            if change.high < 0:
                yield (
                    f"{name}: judge {key.removeprefix(JUDGE)} falls by {-change.value:.3g} from the reference while "
                    "the reward rises: the reward may be exploited"
                )
