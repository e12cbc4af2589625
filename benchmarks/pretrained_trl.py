"""One iteration of RLOO with LoRA on a real model against TRL's RLOOTrainer: CPU seconds and peak resident memory.

`python -m benchmarks.pretrained_trl --model DIR [--out FILE]`: the same model, prompts, reward, number of rollouts and
steps, one trainer to a process. TRL's peak is that of its first iteration too. One thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from benchmarks.iteration import make_task
from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.copies import sharing_weights
from vbon.training.online import run_iteration
from vbon.training.parallel.learner import make_learner

NEW_TOKENS, SAMPLES, RANK, MICRO = 24, 8, 16, 8
FASTER, MEMORY = 1.3, 0.8  # what is asked for: TRL's seconds over ours, our memory over TRL's


def prompt_ids(count: int) -> list[list[int]]:
    """Prompts of 4 to 16 random tokens."""
    random = np.random.default_rng(0)
    return [random.integers(100, 40_000, length).tolist() for length in random.integers(4, 17, count)]


def reward(completions: list[str], **_: object) -> list[float]:
    """Mean word length: cheap, so that training itself is timed."""
    return [float(np.mean([len(word) for word in text.split()] or [0])) for text in completions]


def vbon_iteration(model: str, rollouts: int, minibatch: int, epochs: int) -> None:
    """Do one iteration of vbon."""
    config = TrainConfig(
        pool="-",
        model=model,
        reward="-",
        out="-",
        n=8,
        algorithm="rloo",
        lora_rank=RANK,
        learning_rate=1e-6,
        rollouts_per_iteration=rollouts,
        samples_per_prompt=SAMPLES,
        minibatch_size=minibatch,
        num_epochs=epochs,
    )
    reference = load.load_policy(model)
    policy = sharing_weights(reference)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    task = make_task(prompt_ids(rollouts // SAMPLES), vocab_size=policy.config.vocab_size)
    task = replace(task, sampling=replace(task.sampling, max_new_tokens=NEW_TOKENS, stop_token_ids=(0,)))
    run_iteration(learner, reference, task, config, 0)


def trl_iteration(model: str, rollouts: int, minibatch: int, epochs: int) -> None:
    """Do one iteration of TRL, in micro-batches of 8 rows."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import RLOOConfig, RLOOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=minibatch // MICRO,
            generation_batch_size=rollouts,
            num_iterations=epochs,
            num_generations=SAMPLES,
            beta=0.1,
            max_completion_length=NEW_TOKENS,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            learning_rate=1e-6,
            max_steps=epochs * rollouts // minibatch,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        )
        prompts = [tokenizer.decode(ids) for ids in prompt_ids(rollouts // SAMPLES)]
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM"),
        )
        trainer.train()


TRAINERS = {"vbon": vbon_iteration, "trl": trl_iteration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory or a hub id")
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--trainer", choices=TRAINERS, help="only this one, in this process")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = [str(value) for value in (args.rollouts, args.minibatch, args.epochs)]
    if args.trainer is not None:
        start = time.process_time()
        TRAINERS[args.trainer](args.model, args.rollouts, args.minibatch, args.epochs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"cpu_seconds": round(time.process_time() - start, 1), "peak_bytes": peak}))
        return
    flags = [part for pair in zip(("--rollouts", "--minibatch", "--epochs"), work, strict=True) for part in pair]
    command = [sys.executable, "-m", "benchmarks.pretrained_trl", "--model", args.model, *flags, "--trainer"]
    found = {}
    for name in TRAINERS:
        answer = subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(answer.splitlines()[-1])
        print(name, found[name], flush=True)
    faster = found["trl"]["cpu_seconds"] / found["vbon"]["cpu_seconds"]
    memory = found["vbon"]["peak_bytes"] / found["trl"]["peak_bytes"]
    print(f"{faster:.2f} times as fast (asked: {FASTER}), {memory:.2f} of the memory (asked: {MEMORY})")
    if args.out is not None:
        shown = " ".join(["python -m benchmarks.pretrained_trl --model MODEL", *flags])
        content = {"command": shown, **found, "times_as_fast": round(faster, 3), "share_of_memory": round(memory, 3)}
        args.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
