"""`vbon evaluate`: policies, the reference and best-of-N on held-out prompts, all with the same random numbers."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedModel

from vbon.artifacts.evaluation import EvaluationFolder, read_record, read_throughput
from vbon.config.evaluate import EvaluateConfig
from vbon.core import stats
from vbon.errors import VbonError
from vbon.evaluation import result, target, throughput
from vbon.evaluation.measurements import Measured, Measurements, read_measured, write_measured
from vbon.evaluation.output import print_evaluation, write_evaluation
from vbon.evaluation.plan import Plan, make_plan, sources_of
from vbon.evaluation.samples import Advance, Samples, best_of_k, draw_samples, kl_bon_policy, per_prompt_metrics
from vbon.evaluation.setting import Setting
from vbon.evaluation.warnings import judge_warnings, setting_warnings
from vbon.models import load
from vbon.progress import ProgressBar

Float = NDArray[np.float64]
Loaded = tuple[str, Callable[[], PreTrainedModel]]
"""A policy's name, and a function that loads it."""
REFERENCE = "reference"
TARGET = "best-of-n"


def evaluate_command(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate `config.runs`, write the folder `config.out`, print the table, return what evaluation.json holds.

    Stopped at any moment, the same command continues: a policy that has been measured is not measured again. A
    complete evaluation is only printed, unless what it was made of has changed.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    plan = make_plan(config)
    folder = EvaluationFolder(config.out)
    try:
        if not folder.open(plan.settings, sources_of(plan)):
            write_evaluation(folder, _evaluate_plan(plan, config, folder))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder.path}: stopped; run the same command to continue") from None
    finally:
        folder.close()
    record = read_record(folder.path)
    print_evaluation(record, read_throughput(folder.path), Console())
    return record


def evaluate(
    policies: Iterable[tuple[str, PreTrainedModel]],
    setting: Setting,
    *,
    with_throughput: bool = False,
    advance: Advance = lambda _: None,
) -> Measurements:
    """Measure named policies on a `Setting`. They are consumed one after another, so they may be loaded lazily.

    `advance` hears the number of prompts done, the reference's first. Raises VbonError for a policy of another
    vocabulary, a name given twice or kept for the reference and the target.
    """
    loaded = ((name, partial(_same, policy)) for name, policy in policies)
    return _evaluate(loaded, setting, with_throughput=with_throughput, advance=advance)


def _same(policy: PreTrainedModel) -> PreTrainedModel:
    return policy


def _evaluate(
    policies: Iterable[Loaded],
    setting: Setting,
    *,
    with_throughput: bool,
    advance: Advance,
    folder: EvaluationFolder | None = None,
) -> Measurements:
    """`evaluate`, with policies loaded only when they are needed; what `folder` already holds is read from there."""
    per_prompt: dict[str, dict[str, Float]] = {TARGET: target.target_metrics(setting)}
    samples: dict[str, Samples] = {}
    speeds: dict[str, throughput.Speed] = {}
    reference: Loaded = (REFERENCE, partial(_same, setting.sampler.model))
    for position, (name, load_it) in enumerate(chain([reference], policies)):
        if name in per_prompt:
            raise VbonError(f"two policies are named {name}; {REFERENCE} and {TARGET} stand for themselves")
        measured = None if folder is None else read_measured(folder.measured(position))
        if measured is None:
            measured = _measure(name, load_it(), setting, with_throughput=with_throughput, advance=advance)
            if folder is not None:
                write_measured(folder.measured(position), measured)
        else:
            advance(len(setting.pool))
        samples[name], per_prompt[name] = measured.samples, measured.per_prompt
        speeds |= measured.speeds
    return Measurements(setting, _summary(setting, per_prompt, samples), per_prompt, samples, speeds)


def _measure(
    name: str, policy: PreTrainedModel, setting: Setting, *, with_throughput: bool, advance: Advance
) -> Measured:
    _check_vocabulary(name, policy, setting.sampler.model)
    speeds = {TARGET: throughput.best_of_n_speed(setting)} if with_throughput and name == REFERENCE else {}
    samples = draw_samples(policy, setting, advance)
    per_prompt = per_prompt_metrics(samples, setting)
    if setting.ref_logprobs is not None:
        per_prompt["kl_bon_policy"] = kl_bon_policy(policy, setting, setting.ref_logprobs)
    if with_throughput:
        speeds[name] = throughput.one_sample_speed(policy, setting)
    return Measured(samples, per_prompt, speeds)


def _evaluate_plan(plan: Plan, config: EvaluateConfig, folder: EvaluationFolder) -> Measurements:
    policies = [(run.name, partial(load.load_configured_policy, run.path, config, plan.device)) for run in plan.runs]
    with ProgressBar("prompts", len(plan.setting.pool) * (len(plan.runs) + 1)) as bar:
        made = _evaluate(policies, plan.setting, with_throughput=config.throughput, advance=bar.advance, folder=folder)
    for run in plan.runs:
        row = made.summary["policies"][run.name]
        row |= {"path": run.path, **{key: getattr(run.record, key) for key in ("objective", "algorithm", "n")}}
    made.summary.update(settings=plan.settings, warnings=[*plan.warnings, *made.summary["warnings"]])
    return made


def _check_vocabulary(name: str, policy: PreTrainedModel, ref_policy: PreTrainedModel) -> None:
    sizes = [model.config.get_text_config().vocab_size for model in (policy, ref_policy)]
    if sizes[0] != sizes[1]:
        raise VbonError(f"{name}: has a vocabulary of {sizes[0]}, the reference one of {sizes[1]}; name its --model")


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
