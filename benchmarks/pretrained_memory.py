"""Peak resident memory of training a real model, beside the peak that the memory plan predicts.

`python -m benchmarks.pretrained_memory --model DIR [--out FILE]` measures six settings, one to a process, as Linux
counts the highest resident size of a process: rollouts of 24 tokens (by default 256), their reference, and two steps on
16 of them each, which is more than a micro-batch. The first step makes Adam's moments, which the second holds from its
beginning, so no further step takes more.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.iteration import make_task
from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.copies import sharing_weights
from vbon.models.device_memory import process_bytes
from vbon.models.memory_plan import Item, Work, training_plan
from vbon.training.memory import training_size
from vbon.training.online import sample_rollouts, update, update_settings
from vbon.training.parallel.learner import make_learner

NEW_TOKENS, SAMPLES, LONGEST_PROMPT, MINIBATCH, STEPS = 24, 8, 16, 16, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpointed layers": {"gradient_checkpointing": True},
    "full, minibatch of 4": {"minibatch_size": 4},  # less than a micro-batch holds
    "LoRA 16": {"lora_rank": 16},
    "LoRA 16, checkpointed layers": {"lora_rank": 16, "gradient_checkpointing": True},
    "LoRA 16, bfloat16": {"lora_rank": 16, "dtype": "bfloat16"},
}
MAX_GAP = 0.15  # of the measured peak


def peak_bytes() -> float:
    """The highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def measure(model: str, changes: dict[str, Any], num_prompts: int) -> dict[str, float]:
    """Do rollouts and two steps, and return predicted and measured bytes and the seconds of both parts."""
    config = TrainConfig(
        pool="-",
        model=model,
        reward="-",
        out="-",
        n=8,
        num_epochs=1,
        learning_rate=1e-5,
        **{"minibatch_size": MINIBATCH} | changes,
    )
    size = training_size(config)
    work = Work(
        device="cpu",
        longest=LONGEST_PROMPT + NEW_TOKENS,
        rollouts=num_prompts * SAMPLES,
        minibatch=config.minibatch_size,
        beside=(Item("Python and its libraries", process_bytes()),),
    )
    found = {"predicted": training_plan(size, work, float("inf")).peak}
    ref_policy = load.load_policy(model, dtype=config.dtype)
    policy = sharing_weights(ref_policy) if config.lora_rank else copy.deepcopy(ref_policy)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    found["loaded"] = peak_bytes()
    random = np.random.default_rng(0)
    lengths = random.integers(4, LONGEST_PROMPT + 1, num_prompts)
    prompts = [random.integers(100, 40_000, length).tolist() for length in lengths]
    task = make_task(prompts, vocab_size=policy.config.vocab_size)
    task = replace(task, sampling=replace(task.sampling, max_new_tokens=NEW_TOKENS, stop_token_ids=(0,)))
    start = time.process_time()
    rollouts = sample_rollouts(learner, ref_policy, task, config, 0)
    found |= {"rolled_out": peak_bytes(), "cpu_seconds_rollout": time.process_time() - start}
    rows = STEPS * config.minibatch_size
    names = ("prompt_index", "old_logprobs", "ref_logprobs", "finished", "rewards", "sequence_reward")
    few = {name: getattr(rollouts, name)[:rows] for name in names}
    few["sequences"] = rollouts.sequences.select(torch.arange(rows))
    start = time.process_time()
    update(learner, replace(rollouts, **few), update_settings(config, 1.0), 0)
    return found | {"measured": peak_bytes(), "cpu_seconds_steps": time.process_time() - start, "rows_of_steps": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory or a hub id")
    parser.add_argument("--prompts", type=int, default=32, help="of 8 rollouts each")
    parser.add_argument("--out", type=Path, help="JSON file for the results of all settings")
    parser.add_argument("--setting", choices=SETTINGS, help="measure only this one, in this process")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.setting is not None:
        print(
            json.dumps(
                {
                    name: round(value, 1)
                    for name, value in measure(args.model, SETTINGS[args.setting], args.prompts).items()
                }
            )
        )
        return
    rows: dict[str, dict[str, float]] = {}
    for name in SETTINGS:
        command = [sys.executable, "-m", "benchmarks.pretrained_memory", "--model", args.model, "--setting", name]
        command += ["--prompts", str(args.prompts)]
        rows[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        gap = rows[name]["predicted"] / rows[name]["measured"] - 1
        print(
            f"{name:<30} predicted {rows[name]['predicted'] / 1e9:.2f} GB, measured "
            f"{rows[name]['measured'] / 1e9:.2f} GB ({gap:+.1%})",
            flush=True,
        )
        rows[name]["gap"] = round(gap, 4)
    if args.out is not None:
        command_line = f"python -m benchmarks.pretrained_memory --model MODEL --prompts {args.prompts} --out FILE"
        args.out.write_text(json.dumps({"command": command_line, "settings": rows}, indent=2) + "\n")
    sys.exit(max(abs(row["gap"]) for row in rows.values()) > MAX_GAP)


if __name__ == "__main__":
    main()
