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
from vbon.evaluation.dial import measure_dials
from vbon.evaluation.measurements import Measured, Measurements, read_measured, write_measured
from vbon.evaluation.output import print_evaluation, write_evaluation
from vbon.evaluation.plan import EvaluationPlan, make_plan, sources_of
from vbon.evaluation.samples import Advance, PolicySamples, best_of_k, draw_samples, kl_bon_policy, per_prompt_metrics
from vbon.evaluation.task import EvalTask
from vbon.evaluation.warnings import judge_warnings, task_warnings
from vbon.models import load
from vbon.models.plan_lines import sampling_lines, show
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
            show(partial(_plan_lines, plan, config))
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
    task: EvalTask,
    *,
    with_throughput: bool = False,
    advance: Advance = lambda _: None,
) -> Measurements:
    """Measure named policies on a `EvalTask`. They are consumed one after another, so they may be loaded lazily.

    `advance` hears the number of prompts done, the reference's first. Raises VbonError for a policy of another
    vocabulary, a name given twice or kept for the reference and the target.
    """
    loaded = ((name, partial(_same, policy)) for name, policy in policies)
    return _evaluate(loaded, task, with_throughput=with_throughput, advance=advance)


def _same(policy: PreTrainedModel) -> PreTrainedModel:
    return policy


def _evaluate(
    policies: Iterable[Loaded],
    task: EvalTask,
    *,
    with_throughput: bool,
    advance: Advance,
    folder: EvaluationFolder | None = None,
) -> Measurements:
    """`evaluate`, with policies loaded only when they are needed; what `folder` already holds is read from there."""
    per_prompt: dict[str, dict[str, Float]] = {TARGET: target.target_metrics(task)}
    samples: dict[str, PolicySamples] = {}
    speeds: dict[str, throughput.Speed] = {}
    reference: Loaded = (REFERENCE, partial(_same, task.sampler.model))
    for position, (name, load_it) in enumerate(chain([reference], policies)):
        if name in per_prompt:
            raise VbonError(f"two policies are named {name}; {REFERENCE} and {TARGET} stand for themselves")
        measured = None if folder is None else read_measured(folder.measured(position))
        if measured is None:
            measured = _measure(name, load_it(), task, with_throughput=with_throughput, advance=advance)
            if folder is not None:
                write_measured(folder.measured(position), measured)
        else:
            advance(len(task.pool))
        samples[name], per_prompt[name] = measured.samples, measured.per_prompt
        speeds |= measured.speeds
    return Measurements(task, _summary(task, per_prompt, samples), per_prompt, samples, speeds)


def _measure(
    name: str, policy: PreTrainedModel, task: EvalTask, *, with_throughput: bool, advance: Advance
) -> Measured:
    _check_vocabulary(name, policy, task.sampler.model)
    speeds = {TARGET: throughput.best_of_n_speed(task)} if with_throughput and name == REFERENCE else {}
    samples = draw_samples(policy, task, advance)
    per_prompt = per_prompt_metrics(samples, task)
    if task.ref_logprobs is not None:
        per_prompt["kl_bon_policy"] = kl_bon_policy(policy, task, task.ref_logprobs)
    if with_throughput:
        speeds[name] = throughput.one_sample_speed(policy, task)
    return Measured(samples, per_prompt, speeds)


def _plan_lines(plan: EvaluationPlan, config: EvaluateConfig) -> list[str]:
    task, models = plan.task, 2  # the reference stays loaded beside each policy
    longest = max(map(len, task.prompt_ids)) + task.sampler.max_new_tokens
    stored = len(task.prompt_ids) * config.samples_per_prompt * (len(plan.runs) + 1)
    rows = min(config.batch_size, stored)
    return sampling_lines(task.sampler.model, rows, longest, stored, config.out, reward=task.reward.name, models=models)


def _evaluate_plan(plan: EvaluationPlan, config: EvaluateConfig, folder: EvaluationFolder) -> Measurements:
    policies = [(run.name, partial(load.load_configured_policy, run.path, config, plan.device)) for run in plan.runs]
    with ProgressBar("prompts", len(plan.task.pool) * (len(plan.runs) + 1)) as bar:
        made = _evaluate(policies, plan.task, with_throughput=config.throughput, advance=bar.advance, folder=folder)
    for run in plan.runs:
        row = made.summary["policies"][run.name]
        row |= {"path": run.path, **{key: getattr(run.record, key) for key in ("objective", "algorithm", "n")}}
    if config.dial:
        made.summary["dials"] = measure_dials(plan, config, folder)
    made.summary.update(settings=plan.settings, warnings=[*plan.warnings, *made.summary["warnings"]])
    return made


def _check_vocabulary(name: str, policy: PreTrainedModel, ref_policy: PreTrainedModel) -> None:
    sizes = [model.config.get_text_config().vocab_size for model in (policy, ref_policy)]
    if sizes[0] != sizes[1]:
        raise VbonError(f"{name}: has a vocabulary of {sizes[0]}, the reference one of {sizes[1]}; name its --model")


def _summary(
    task: EvalTask, per_prompt: dict[str, dict[str, Float]], samples: dict[str, PolicySamples]
) -> dict[str, Any]:
    rank_test = _rank_test(task, samples[REFERENCE])
    curves = {name: best_of_k(one, task) for name, one in samples.items()}
    names = [name for name in per_prompt if name not in (REFERENCE, TARGET)]
    return {
        "format_version": 1,
        "n": task.n,
        **({} if task.tilt == "best" else {"tilt": task.tilt}),
        "num_prompts": len(task.pool),
        "num_samples": int(task.pool.num_samples.min()),
        "samples_per_prompt": task.samples_per_prompt,
        "pool": str(task.pool.path),
        "fingerprint": task.pool.fingerprint.to_json(),
        "reward": task.reward.name,
        "judges": [judge.name for judge in task.judges],
        "policies": {
            name: {**_policy_row(name, names[0], per_prompt, task), "best_of_k": curves[name]} for name in names
        },
        REFERENCE: {"metrics": _metrics(REFERENCE, per_prompt, task), "best_of_k": curves[REFERENCE]},
        "target": {"metrics": result.estimates(per_prompt[TARGET], task.seed)},
        "floor": {"kl_policy_bon": target.kl_policy_bon_floor(task)},
        "rank_test": {"chi2": rank_test.chi2, "p_value": rank_test.p_value},
        "warnings": [
            *task_warnings(task, rank_test),
            *judge_warnings({name: per_prompt[name] for name in names}, per_prompt[REFERENCE], task.seed),
        ],
    }


def _policy_row(name: str, first: str, per_prompt: dict[str, dict[str, Float]], task: EvalTask) -> dict[str, Any]:
    differences = None if name == first else result.differences(per_prompt[name], per_prompt[first], task.seed)
    return {"metrics": _metrics(name, per_prompt, task), "differences": differences}


def _metrics(name: str, per_prompt: dict[str, dict[str, Float]], task: EvalTask) -> dict[str, Any]:
    shares = result.gain_shares(per_prompt[name], per_prompt[TARGET], target.pool_reward(task), task.seed)
    return {"kl_bon_policy": None, **result.estimates(per_prompt[name], task.seed), **shares}


def _rank_test(task: EvalTask, reference: PolicySamples) -> stats.RankTest:
    index = np.repeat(np.arange(len(task.pool)), task.samples_per_prompt)
    counts = (reference.k_lt.ravel(), reference.k_eq.ravel())
    return stats.rank_test(*counts, task.pool.num_samples[index], index, task.seed)
