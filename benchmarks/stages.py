"""The cost of a whole run split into sampling, rewards and training: a pool of M = 200, then iterations of RLOO.

By the wall clock alone, as the trainer measures itself: for a machine without other work.
"""

import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.iteration import make_task, reward, text_of
from benchmarks.measure import arguments, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.config.train import TrainConfig
from vbon.core.reward_cdf import RewardCDF
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.training.online import run_iteration
from vbon.training.parallel.learner import make_learner


def split(num_prompts: int, num_samples: int, iterations: int) -> dict[str, float]:
    """Seconds of each part. An iteration's sampling includes its one pass of the reference."""
    policy, ref_policy = gpt2(), gpt2()
    for model in (policy, ref_policy):
        fuse_activations(model)
    prompts = random_rows(num_prompts, 2, 8)
    seconds: dict[str, float] = defaultdict(float)

    def timed_reward(texts_of: Any, completions: Any, **columns: Any) -> Any:
        start = time.perf_counter()
        scores = reward(texts_of, completions, **columns)
        seconds["rewards"] += time.perf_counter() - start
        return scores

    start = time.perf_counter()
    uniforms = torch.rand(num_prompts, num_samples, NEW_TOKENS, dtype=torch.float64)
    parts = [
        generate(
            ref_policy, prompts[i : i + 2], uniforms[i : i + 2], temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD
        ).rows()
        for i in range(0, num_prompts, 2)
    ]
    seconds["pool: sampling"] = time.perf_counter() - start
    start = time.perf_counter()
    scores = reward([], [text_of(row) for part in parts for row in part])
    seconds["pool: rewards"] = time.perf_counter() - start
    start = time.perf_counter()
    RewardCDF(scores, np.full(num_prompts, num_samples)).pool_interval()
    seconds["pool: F"] = time.perf_counter() - start

    config = TrainConfig(
        pool="-",
        model="-",
        reward="-",
        out="-",
        n=11,
        algorithm="rloo",
        rollouts_per_iteration=8 * num_prompts,
        samples_per_prompt=8,
        learning_rate=1e-6,
    )
    task = make_task(prompts)
    object.__setattr__(task, "reward", timed_reward)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    for iteration in range(iterations):
        metrics, _ = run_iteration(learner, ref_policy, task, config, iteration)
        seconds["iterations: sampling, reference, rewards"] += metrics["seconds_rollout"]
        seconds["iterations: training"] += metrics["seconds_update"]
    seconds["iterations: rewards"] = seconds.pop("rewards")
    seconds["iterations: sampling, reference"] = (
        seconds.pop("iterations: sampling, reference, rewards") - seconds["iterations: rewards"]
    )
    return dict(seconds)


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    seconds = split(8, 4, 1) if args.tiny else split(32, 200, 25)
    total = sum(seconds.values())
    report([{"part": k, "seconds": round(v, 3), "share": round(v / total, 3)} for k, v in seconds.items()], args)


if __name__ == "__main__":
    main()
