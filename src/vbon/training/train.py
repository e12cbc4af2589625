"""`vbon train`: load everything the config names, check that it belongs together, train."""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from vbon.artifacts.fingerprint import check_fingerprint
from vbon.artifacts.run import Provenance, finished_result
from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.copies import sharing_weights
from vbon.models.plan_lines import show
from vbon.pool.combined_rewards import load_criteria
from vbon.pool.names import name_of, recorded_in
from vbon.pool.prompts import read_prompts
from vbon.pool.sampling import Sampler, fingerprint_of
from vbon.pool.store import ReferencePool
from vbon.rewards import load_configured_reward
from vbon.rewards.load import is_directory
from vbon.rewards.pairwise import PairwiseReward
from vbon.training.memory import training_lines
from vbon.training.output.hub import check_login, push_run
from vbon.training.parallel.accelerator import make_accelerator
from vbon.training.rounds import train_in_rounds
from vbon.training.task import RANK_TEST, sampling_of
from vbon.training.trainer import VBoNTrainer


def train(config: TrainConfig, *, should_pause: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Start the run in `config.out`, continue it, or return the result of the finished one.

    Args:
        config: The settings. A run that is there already must have been started with the same ones, but for
            `vbon.artifacts.settings.MAY_CHANGE` and the number of iterations, which may be larger.
        should_pause: Is called between two steps; where it returns True, the run saves a checkpoint and stops.

    Returns:
        The result that `vbon/run.json` records, and `out`; of a dry run its memory plan, and nothing is written.

    Raises:
        VbonError: Anything the user can fix, before the first iteration.
        Paused: `should_pause` asked for it; the same call continues the run, to the same weights.
    """
    config.validate()
    config = _with_names(config)
    if config.dry_run:
        return _plan_only(config)
    if config.push_to_hub is not None:
        check_login(config.push_to_hub)
    result = _train(config, should_pause)
    if config.push_to_hub is not None and PartialState().is_main_process:
        result["pushed_to"] = push_run(Path(config.out), config.push_to_hub)
    return result


def _with_names(config: TrainConfig) -> TrainConfig:
    """The config with the model and the reward that the pool records, where no flag names them."""
    if config.model is not None and config.reward is not None:
        return config
    pool = ReferencePool.open(Path(config.pool))
    model, reward = (name_of(pool, what, getattr(config, what)) for what in ("model", "reward"))
    with recorded_in(pool, "model", config.model):
        load.load_config(model, trust_remote_code=config.trust_remote_code)
    if not is_directory(reward):  # a function or a server, or nothing that is here
        with recorded_in(pool, "reward", config.reward):
            load_configured_reward(reward, config, "cpu")
    config = dataclasses.replace(config, model=model, reward=reward)
    config.validate()  # whether this reward can be trained on is known only now
    return config


def _plan_only(config: TrainConfig) -> dict[str, Any]:
    plan, lines = training_lines(config, open_pool(config))
    print("\n".join(lines))
    items = {phase: [item._asdict() for item in items] for phase, items in plan.phases.items()}
    return {"peak_bytes": plan.peak, "always": [item._asdict() for item in plan.always], "phases": items}


def _train(config: TrainConfig, should_pause: Callable[[], bool] | None) -> dict[str, Any]:
    finished = finished_result(config) if config.replay is None else None
    if finished is not None:
        return finished
    if config.rounds > 1:
        return train_in_rounds(config, open_pool(config), partial(_train, should_pause=should_pause))
    return _train_once(config, should_pause)


def _train_once(config: TrainConfig, should_pause: Callable[[], bool] | None) -> dict[str, Any]:
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    assert config.model is not None and config.reward is not None  # filled by `_with_names`
    pool = open_pool(config)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        show(lambda: training_lines(config, pool)[1])
    ref_policy = load.load_configured_policy(config.model, config, accelerator.device)
    tokenizer = load.load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    reward = load_configured_reward(config.reward, config, str(accelerator.device))
    if isinstance(reward, PairwiseReward):
        reward.keep_in(Path(config.out) / "vbon", pool.path)
    sampling = sampling_of(ref_policy, tokenizer, pool, config)
    sampler = Sampler(ref_policy, tokenizer, sampling.temperature, sampling.max_new_tokens, sampling.stop_token_ids)
    actual = fingerprint_of(config.model, sampler, reward)
    allowed = check_fingerprint(
        pool.fingerprint,
        actual,
        allow_mismatch=[field for field in config.allow_mismatch if field != RANK_TEST],
        what="training",
    )
    others = load_criteria(config, str(accelerator.device), lambda path: open_pool(config, path))
    trainer = VBoNTrainer(
        sharing_weights(ref_policy) if config.lora_rank else copy.deepcopy(ref_policy),
        ref_policy,
        reward,
        pool,
        config,
        tokenizer=tokenizer,
        accelerator=accelerator,
        provenance=Provenance(actual, tuple(allowed)),
        others=others,
        should_pause=should_pause,
    )
    return trainer.train() if config.replay is None else trainer.replay(config.replay)


def open_pool(config: TrainConfig, path: str | None = None) -> ReferencePool:
    """Open the pool, or another one, cut to the prompts of --prompts if given.

    Raises VbonError for a prompt that the pool lacks.
    """
    pool = ReferencePool.open(Path(path or config.pool))
    if config.prompts is None:
        return pool
    return pool.select([prompt.prompt_id for prompt in read_prompts(config.prompts)])
