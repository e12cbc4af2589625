"""What `vbon evaluate` will do, checked before anything is sampled: runs, pool, reference, reward, N."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vbon.artifacts.fingerprint import FIELDS, check_fingerprint
from vbon.artifacts.json_files import json_value
from vbon.config.evaluate import EvaluateConfig
from vbon.errors import VbonError
from vbon.evaluation.runs import Run, check_dial, read_runs
from vbon.evaluation.task import EvalTask
from vbon.models import load
from vbon.pool.combined_rewards import Criterion, load_criteria, settle, tried
from vbon.pool.judged import check_judges
from vbon.pool.manifest import manifest_to_json
from vbon.pool.names import recorded_in
from vbon.pool.prompts import read_prompts
from vbon.pool.sampling import (
    Sampler,
    check_completion_ids,
    encode_prompts,
    fingerprint_of,
    load_sampler,
    room_of_model,
)
from vbon.pool.store import ReferencePool
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards import Reward, load_configured_reward
from vbon.rewards.pairwise import PairwiseReward


class EvaluationPlan(NamedTuple):
    """The runs to evaluate and where; `settings` is the merged config with every default filled in."""

    runs: list[Run]
    task: EvalTask
    device: torch.device
    settings: dict[str, Any]
    warnings: list[str]
    others: list[Criterion] = []  # noqa: RUF012


def make_plan(config: EvaluateConfig) -> EvaluationPlan:
    """Fill the defaults from runs and pool, load the reference and the rewards.

    Raises VbonError for what is missing or does not belong together, naming the flag that would fix it.
    """
    runs = read_runs(config.runs)
    pool = _select(ReferencePool.open(config.pool), config)
    device = load.resolve_device(config.device)
    ref_model = _ref_model(config, runs, pool)
    with recorded_in(pool, "model", config.model):
        sampler = _sampler(config, ref_model, pool, device)
    with recorded_in(pool, "reward", config.reward):
        reward = load_configured_reward(_reward_spec(config, runs, pool), config, str(device))
    judges = tuple(load_configured_reward(spec, config, str(device)) for spec in config.judges)
    check_judges(judges)
    if isinstance(reward, PairwiseReward):
        if config.tail != "counts":
            raise VbonError(
                f"--tail {config.tail}: {reward.name} has no number for a completion alone; leave --tail out"
            )
        reward.num_opponents = int(pool.num_samples.max())  # every sample: win rates are shares of the whole pool
        reward.keep_in(Path(config.out), pool.path)
    allowed = _check_fingerprints(config, runs, pool, ref_model, sampler, reward)
    n = _shared_n(config, runs)
    tilt = _shared_tilt(runs)
    for run in runs if config.dial else ():
        check_dial(run)
    prompt_ids = encode_prompts(sampler, pool.prompts, str(pool.path))
    check_completion_ids(pool, room_of_model(sampler.model).vocabulary)
    others = load_criteria(config, str(device), lambda path: _select(ReferencePool.open(path), config))
    criteria = tried([Criterion(pool, reward), *others], sampler.tokenizer, config)
    task = EvalTask(
        known=settle(criteria, config.combine),
        prompt_ids=prompt_ids,
        sampler=sampler,
        reward=reward,
        judges=judges,
        n=n,
        samples_per_prompt=config.samples_per_prompt,
        batch_size=config.batch_size,
        seed=config.seed,
        tilt=tilt,
        tail=config.tail,
    )
    filled = dataclasses.replace(config, n=n, model=ref_model, reward=reward.name, judges=tuple(j.name for j in judges))
    settings = json_value(dataclasses.asdict(filled)) | {"allowed_mismatches": allowed}
    settings |= {} if tilt == "best" else {"tilt": tilt}
    notes = [*_unknown_warnings(pool), *_held_out_warnings(runs, pool), *_tie_warnings(runs)]
    return EvaluationPlan(runs, task, device, settings, notes, others)


def sources_of(plan: EvaluationPlan) -> dict[str, Any]:
    """Digests of all that is evaluated: where one changes, the same settings measure something else."""
    task, pool = plan.task, plan.task.pool
    return {
        "pool": hashlib.sha256(manifest_to_json(pool.manifest).encode()).hexdigest()[:16],
        "prompts": hash_prompt_ids(pool.prompts)[:16],
        "reference": load.model_fingerprint(plan.settings["model"]),
        "reward": task.reward.fingerprint,
        "beside": [[one.pool.digest, one.reward.fingerprint] for one in plan.others],
        "judges": [judge.fingerprint for judge in task.judges],
        "runs": [load.model_fingerprint(run.path) for run in plan.runs],
    }


def _select(pool: ReferencePool, config: EvaluateConfig) -> ReferencePool:
    ids = [prompt.prompt_id for prompt in pool.prompts]
    if config.prompts is not None:
        ids = [prompt.prompt_id for prompt in read_prompts(config.prompts, column=config.prompt_column)]
    return pool.select(ids[: config.limit])


def _ref_model(config: EvaluateConfig, runs: Sequence[Run], pool: ReferencePool) -> str:
    names = [config.model, pool.manifest.model, *(run.record.ref_model for run in runs)]
    return _first(names, f"{pool.path}: does not say which model made it; name it with --model")


def _reward_spec(config: EvaluateConfig, runs: Sequence[Run], pool: ReferencePool) -> str:
    names = [config.reward, pool.manifest.reward, *(run.record.reward for run in runs)]
    return _first(names, f"{pool.path}: does not say which reward scored it; name it with --reward")


def _first(values: Sequence[Any], message: str) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        raise VbonError(message)
    return known[0]


def _shared_n(config: EvaluateConfig, runs: Sequence[Run]) -> float:
    trained = {run.name: run.record.n for run in runs if run.record.n is not None}
    if config.n is None and len(set(trained.values())) > 1:
        each = ", ".join(f"{name} for N = {n:g}" for name, n in trained.items())
        raise VbonError(f"the runs were not trained for one N ({each}); choose with --n")
    return float(
        _first([config.n, *trained.values()], "none of the runs says what N it was trained for; name it with --n")
    )


def _shared_tilt(runs: Sequence[Run]) -> str:
    tilts = {run.name: run.record.tilt for run in runs if run.record.n is not None}
    if len(set(tilts.values())) > 1:
        each = ", ".join(f"{name} with {tilt}" for name, tilt in tilts.items())
        raise VbonError(f"the runs were not trained with one --tilt ({each}); evaluate them apart")
    return next(iter(tilts.values()), "best")


def _sampler(config: EvaluateConfig, ref_model: str, pool: ReferencePool, device: torch.device) -> Sampler:
    """The reference, sampled as the pool was."""
    made = pool.fingerprint
    for key in ("temperature", "max_new_tokens"):
        if getattr(made, key) is None:
            raise VbonError(f"{pool.path}: its {key} is not known; import it with --declare {key}=…")
    try:
        return load_sampler(
            ref_model,
            config,
            device,
            temperature=made.temperature,
            max_new_tokens=made.max_new_tokens,
            stop_token_ids=made.stop,
        )
    except VbonError as error:
        if config.model is not None or Path(ref_model).exists():
            raise
        raise VbonError(f"{error}; {pool.path} names this model: say with --model where it lies now") from None


def _check_fingerprints(
    config: EvaluateConfig, runs: Sequence[Run], pool: ReferencePool, ref_model: str, sampler: Sampler, reward: Reward
) -> list[str]:
    """The reference now, and what each run was trained with, must be what made the held-out pool.

    Returns the fields that differ and were allowed.
    """
    allowed = config.allow_mismatch
    actual = fingerprint_of(ref_model, sampler, reward)
    others = {f"reference {ref_model}": actual} | {
        f"run {run.path}": run.record.made_with for run in runs if run.record.made_with is not None
    }
    differing = {
        field
        for what, other in others.items()
        for field in check_fingerprint(pool.fingerprint, other, allow_mismatch=allowed, what=what)
    }
    return [field for field in FIELDS if field in differing]


def _unknown_warnings(pool: ReferencePool) -> list[str]:
    unknown = pool.fingerprint.unknown()
    return [f"not known how the pool was made: {', '.join(unknown)}; the rank test decides"] if unknown else []


def _tie_warnings(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.name} was trained with --tie-rule order, and ties count at random here: where rewards tie, its KL to "
        "best-of-N stays above the floor even if it is perfect"
        for run in runs
        if run.record.config.get("tie_rule") == "order"
    ]


def _held_out_warnings(runs: Sequence[Run], pool: ReferencePool) -> list[str]:
    ids = {prompt.prompt_id for prompt in pool.prompts}
    seen = [(run, len(ids.intersection(run.record.train_prompt_ids or ()))) for run in runs]
    return [
        f"{run.name} was trained on {count} of these {len(ids)} prompts: its figures are not held-out ones"
        for run, count in seen
        if count
    ]
