"""Peak resident memory of training a real model: 256 rollouts of 24 tokens, their reference, one step on 64 of them.

`python -m benchmarks.pretrained_memory --model DIR [--lora-rank 16]`. The step makes gradients and Adam's moments, so
no further step takes more. One run to a process, as Linux counts its highest resident size.
"""

import argparse
import copy
import json
import resource
import time
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.iteration import make_task
from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.copies import sharing_weights
from vbon.training.online import sample_rollouts, update, update_settings
from vbon.training.parallel.learner import make_learner

NEW_TOKENS, PROMPTS, SAMPLES = 24, 32, 8


def mebibytes() -> float:
    """The highest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory or a hub id")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--algorithm", choices=["rloo", "ppo"], default="rloo")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = TrainConfig(
        pool="-",
        model=args.model,
        reward="-",
        out="-",
        n=8,
        algorithm=args.algorithm,
        lora_rank=args.lora_rank,
        num_epochs=1,
        learning_rate=1e-5,
    )
    found = {"imported": mebibytes()}
    ref_policy = load.load_policy(args.model)
    policy = sharing_weights(ref_policy) if config.lora_rank else copy.deepcopy(ref_policy)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    found["loaded"] = mebibytes()
    random = np.random.default_rng(0)
    prompts = [random.integers(100, 40_000, length).tolist() for length in random.integers(4, 17, PROMPTS)]
    task = make_task(prompts, vocab_size=policy.config.vocab_size)
    task = replace(task, sampling=replace(task.sampling, max_new_tokens=NEW_TOKENS, stop_token_ids=(0,)))
    start = time.perf_counter()
    rollouts = sample_rollouts(learner, ref_policy, task, config, 0)
    found |= {"rolled out": mebibytes(), "rollout seconds": time.perf_counter() - start}
    start = time.perf_counter()
    few = replace(
        rollouts,
        **{
            name: getattr(rollouts, name)[:64]
            for name in ("prompt_index", "old_logprobs", "ref_logprobs", "finished", "rewards", "sequence_reward")
        },
        sequences=rollouts.sequences.select(torch.arange(64)),
    )
    update(learner, few, update_settings(config, 1.0), 0)
    found |= {"peak": mebibytes(), "seconds of a step": time.perf_counter() - start, "CPU seconds": time.process_time()}
    print(json.dumps({name: round(value, 1) for name, value in found.items()}))


if __name__ == "__main__":
    main()
