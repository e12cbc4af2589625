"""`vbon train --rounds R`: train, collect a pool from the result, train on that. N compounds to N^R.

The best of N samples of best-of-N' is one of best-of-N·N', ties included: each round's policy is the next one's
reference. So a pool of M reaches N far above M, and no round is asked for more than N. Not in the paper
(arXiv 2407.06057); docs/experiments.md has what it gains and costs.

Round r is an ordinary run, OUT/vbon/rounds/r, and from the second on it has a pool beside it, OUT/vbon/rounds/r-pool.
OUT is a copy of the last round's model; its run.json says best-of-N^R of the first round's reference.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from vbon.artifacts.files import replace_file
from vbon.artifacts.run import SETTINGS_NAME, RunFolder, RunRecord, settings_of
from vbon.config import CollectConfig
from vbon.config.train import TrainConfig
from vbon.models.load import load_generation_config
from vbon.pool.collect import collect
from vbon.pool.names import name_of
from vbon.pool.prompts import canonical_json
from vbon.pool.store import ReferencePool
from vbon.training.parallel.accelerator import refuse_deepspeed

Train = Callable[[TrainConfig], dict[str, Any]]
SEED_STRIDE = 10_000
"""Between the seeds of two rounds' pools: each is a fresh draw."""


def train_in_rounds(config: TrainConfig, pool: ReferencePool, train_once: Train) -> dict[str, Any]:
    """Run every round that is not finished yet; return the last one's result, with N of all rounds together.

    Args:
        config: The settings; those of a round differ in model, pool and place.
        pool: The first round's pool, whose prompts and M all rounds share.
        train_once: Starts or continues one run, or returns its result.

    Returns:
        The result of the last round, with N of all rounds together.

    Raises:
        VbonError: The run was started with other settings, or a round raises it.
    """
    folder = RunFolder(config.out)
    folder.check(config)
    refuse_deepspeed()
    state = PartialState(cpu=config.device == "cpu")
    state.wait_for_everyone()  # all have looked at the folder before one writes there
    if state.is_main_process:
        folder.open(config)
    try:
        results = []
        for number in range(1, config.rounds + 1):
            if number > 1 and state.is_main_process:
                _collect(config, pool, number)
            state.wait_for_everyone()
            results.append(train_once(_round_config(config, number)))
        if state.is_main_process:
            _finish(folder, config, results)
        state.wait_for_everyone()
    finally:
        folder.close()
    return {**results[-1], "out": config.out, "n": config.n**config.rounds}


def round_folder(out: str, number: int) -> Path:
    """The run of a round, counted from 1."""
    return Path(out) / "vbon" / "rounds" / str(number)


def pool_folder(out: str, number: int) -> Path:
    """The pool of a round, from the second on."""
    return Path(out) / "vbon" / "rounds" / f"{number}-pool"


def _round_config(config: TrainConfig, number: int) -> TrainConfig:
    out = round_folder(config.out, number)
    first = {"model": config.model, "pool": config.pool, "prompts": config.prompts}
    later = {
        "model": str(round_folder(config.out, number - 1)),
        "pool": str(pool_folder(config.out, number)),
        "prompts": None,
        "allow_mismatch": (),
    }
    return replace(config, rounds=1, out=str(out), **(first if number == 1 else later))


def _collect(config: TrainConfig, pool: ReferencePool, number: int) -> None:
    """M samples of the last round's policy for every prompt, as that policy's generation_config.json samples."""
    model, out = round_folder(config.out, number - 1), pool_folder(config.out, number)
    sampling = load_generation_config(str(model))
    assert sampling is not None  # every run has one
    rows = [canonical_json({**prompt.columns, "prompt": prompt.prompt}) for prompt in pool.prompts]
    prompts = out.with_name(f"{number}-prompts.jsonl")
    replace_file(prompts, "".join(row + "\n" for row in rows).encode())
    collect(
        CollectConfig(
            model=str(model),
            reward=name_of(pool, "reward", config.reward),
            prompts=str(prompts),
            out=str(out),
            num_samples=int(pool.num_samples.min()),
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            stop_token_ids=tuple(sampling.eos_token_id),
            seed=config.seed + SEED_STRIDE * (number - 1),
            device=config.device,
            dtype=config.dtype,
            reward_batch_size=config.reward_batch_size,
            reward_concurrency=config.reward_concurrency,
            reward_dtype=config.reward_dtype,
            reward_timeout=config.reward_timeout,
            trust_remote_code=config.trust_remote_code,
        )
    )


def _finish(folder: RunFolder, config: TrainConfig, results: list[dict[str, Any]]) -> None:
    """The last round's model at OUT, and what made it."""
    last = round_folder(config.out, config.rounds)
    first, made = (RunFolder(round_folder(config.out, number)).read_record() for number in (1, config.rounds))
    for file in last.iterdir():
        if file.is_file() and file.name != "README.md":
            shutil.copyfile(file, folder.path / file.name)
    record = replace(
        first,
        config=json.loads(json.dumps(config.__dict__)) | {"reward": first.reward},
        given=settings_of(config),
        n=config.n**config.rounds,
        result=made.result,
        rounds=tuple(results),
    )
    folder.write_card(_card(config, record))
    folder.write_record(record)


def _card(config: TrainConfig, record: RunRecord) -> str:
    steps = "\n".join(
        f"| {number} | {result['validation/win_rate']:.3f} | {result['validation/kl_policy_ref']:.3f} |"
        for number, result in enumerate(record.rounds or (), 1)
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [vbon, best-of-n, rlhf]
---

# Best-of-{record.n:g} in one sample

A policy trained by vbon in {config.rounds} rounds of best-of-{config.n:g}, each from a fresh pool of the last one's
samples, so that one sample of it is distributed like the best of {record.n:g} samples of its reference,
`{config.model}`, by the reward `{record.reward}` ([Variational Best-of-N](https://arxiv.org/abs/2407.06057)).

| round | win rate against the round before | KL to it, nats |
|--:|--:|--:|
{steps}

`vbon/rounds/` holds each round's run and pool; `vbon train --config {SETTINGS_NAME} --out RUN` makes it again.
"""
