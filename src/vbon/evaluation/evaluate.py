"""`vbon evaluate`: policies, the reference and best-of-N on held-out prompts, all with the same random numbers."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedModel

from vbon.config.evaluate import EvaluateConfig
from vbon.core import stats
from vbon.errors import VbonError
from vbon.evaluation import result, target, throughput
from vbon.evaluation.folder import make_folder
from vbon.evaluation.output import print_evaluation, write_evaluation
from vbon.evaluation.plan import Plan, make_plan
from vbon.evaluation.runs import Run
from vbon.evaluation.samples import (
    Advance,
    Samples,
    best_of_k,
    draw_samples,
    kl_bon_policy,
    per_prompt_metrics,
    pool_logprobs,
)
from vbon.evaluation.setting import Setting
from vbon.evaluation.warnings import judge_warnings, setting_warnings
from vbon.models import load
from vbon.progress import ProgressBar

Float = NDArray[np.float64]
REFERENCE = "reference"
TARGET = "best-of-n"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`summary` is evaluation.json; `per_prompt` maps policy to metric to (P,); `samples` maps policy to its draws.

    The reference and the target stand beside the policies under the names `reference` and `best-of-n`.
    """

    setting: Setting
    summary: dict[str, Any]
    per_prompt: dict[str, dict[str, Float]]
    samples: dict[str, Samples]
    speeds: dict[str, throughput.Speed]
    """Empty where nothing was timed."""


def evaluate_command(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate `config.runs`, write the folder `config.out`, print the table, return what evaluation.json holds."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    plan = make_plan(config)
    folder = make_folder(config.out, plan.settings)
    try:
        evaluation = _evaluate_plan(plan, config)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what another evaluation left there stays
            folder.rmdir()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped, and nothing written to {folder}; run the same command again") from None
        raise
    write_evaluation(folder, evaluation)
    print_evaluation(evaluation, Console())
    return evaluation.summary


def evaluate(
    policies: Iterable[tuple[str, PreTrainedModel]],
    setting: Setting,
    *,
    with_throughput: bool = False,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Measure named policies on a `Setting`. They are consumed one after another, so they may be loaded lazily.

    `advance` hears the number of prompts done, the reference's first. Raises VbonError for a policy of another
    vocabulary, a name given twice or kept for the reference and the target.
    """
    ref_policy, ref_logprobs = setting.sampler.model, _ref_logprobs(setting)
    per_prompt: dict[str, dict[str, Float]] = {TARGET: target.target_metrics(setting)}
    samples, speeds = {}, {TARGET: throughput.best_of_n_speed(setting)} if with_throughput else {}
    for name, policy in _with_reference(policies, ref_policy):
        if name in per_prompt:
            raise VbonError(f"two policies are named {name}; {REFERENCE} and {TARGET} stand for themselves")
        _check_vocabulary(name, policy, ref_policy)
        samples[name] = draw_samples(policy, setting, advance)
        per_prompt[name] = per_prompt_metrics(samples[name], setting)
        if ref_logprobs is not None:
            per_prompt[name]["kl_bon_policy"] = kl_bon_policy(policy, setting, ref_logprobs)
        if with_throughput:
            speeds[name] = throughput.one_sample_speed(policy, setting)
    return Evaluation(setting, _summary(setting, per_prompt, samples), per_prompt, samples, speeds)


def _evaluate_plan(plan: Plan, config: EvaluateConfig) -> Evaluation:
    with ProgressBar("prompts", len(plan.setting.pool) * (len(plan.runs) + 1)) as bar:
        evaluation = evaluate(
            _load(plan.runs, plan, config), plan.setting, with_throughput=config.throughput, advance=bar.advance
        )
    summary = evaluation.summary
    for run in plan.runs:
        row = summary["policies"][run.name]
        row |= {"path": run.path, "objective": run.objective, "algorithm": run.algorithm, "n": run.n}
    summary |= {"settings": plan.settings, "warnings": [*plan.warnings, *summary["warnings"]]}
    return evaluation


def _load(runs: Sequence[Run], plan: Plan, config: EvaluateConfig) -> Iterator[tuple[str, PreTrainedModel]]:
    for run in runs:
        yield run.name, load.load_configured_policy(run.path, config, plan.device)


def _with_reference(
    policies: Iterable[tuple[str, PreTrainedModel]], ref_policy: PreTrainedModel
) -> Iterator[tuple[str, PreTrainedModel]]:
    yield REFERENCE, ref_policy
    yield from policies


def _check_vocabulary(name: str, policy: PreTrainedModel, ref_policy: PreTrainedModel) -> None:
    sizes = [model.config.get_text_config().vocab_size for model in (policy, ref_policy)]
    if sizes[0] != sizes[1]:
        raise VbonError(f"{name}: has a vocabulary of {sizes[0]}, the reference one of {sizes[1]}; name its --model")


def _ref_logprobs(setting: Setting) -> Float | None:
    """log π_ref of the pool's samples, as stored or computed anew; None where the pool has no token ids."""
    if not setting.pool.has_completion_ids:
        return None
    stored = setting.pool.ref_logprobs
    return stored if np.isfinite(stored).all() else pool_logprobs(setting.sampler.model, setting)


def _summary(setting: Setting, per_prompt: dict[str, dict[str, Float]], samples: dict[str, Samples]) -> dict[str, Any]:
    rank_test = _rank_test(setting, samples[REFERENCE])
    curves = {name: best_of_k(one, setting) for name, one in samples.items()}
    names = [name for name in per_prompt if name not in (REFERENCE, TARGET)]
    return {
        "format_version": 1,
        "n": setting.n,
        "num_prompts": len(setting.pool),
        "num_samples": int(setting.pool.num_samples.min()),
        "samples_per_prompt": setting.samples_per_prompt,
        "pool": str(setting.pool.path),
        "fingerprint": setting.pool.fingerprint.to_json(),
        "reward": setting.reward.name,
        "judges": [judge.name for judge in setting.judges],
        "policies": {
            name: {**_policy_row(name, names[0], per_prompt, setting), "best_of_k": curves[name]} for name in names
        },
        REFERENCE: {"metrics": _metrics(REFERENCE, per_prompt, setting), "best_of_k": curves[REFERENCE]},
        "target": {"metrics": result.estimates(per_prompt[TARGET], setting.seed)},
        "floor": {"kl_policy_bon": target.kl_policy_bon_floor(setting)},
        "rank_test": {"chi2": rank_test.chi2, "p_value": rank_test.p_value},
        "warnings": [
            *setting_warnings(setting, rank_test),
            *judge_warnings({name: per_prompt[name] for name in names}, per_prompt[REFERENCE], setting.seed),
        ],
    }


def _policy_row(name: str, first: str, per_prompt: dict[str, dict[str, Float]], setting: Setting) -> dict[str, Any]:
    differences = None if name == first else result.differences(per_prompt[name], per_prompt[first], setting.seed)
    return {"metrics": _metrics(name, per_prompt, setting), "differences": differences}


def _metrics(name: str, per_prompt: dict[str, dict[str, Float]], setting: Setting) -> dict[str, Any]:
    shares = result.gain_shares(per_prompt[name], per_prompt[TARGET], target.pool_reward(setting), setting.seed)
    return {"kl_bon_policy": None, **result.estimates(per_prompt[name], setting.seed), **shares}


def _rank_test(setting: Setting, reference: Samples) -> stats.RankTest:
    index = np.repeat(np.arange(len(setting.pool)), setting.samples_per_prompt)
    counts = (reference.k_lt.ravel(), reference.k_eq.ravel())
    return stats.rank_test(*counts, setting.pool.num_samples[index], index, setting.seed)
