"""`--dial`: a run with N turned after training, sampled and measured against best-of-N of that N."""

import dataclasses
from typing import Any, cast

from transformers import PreTrainedModel

from vbon.artifacts.evaluation import EvaluationFolder
from vbon.config.evaluate import EvaluateConfig, GenerateConfig
from vbon.evaluation import result, target
from vbon.evaluation.measurements import Measured, read_measured, write_measured
from vbon.evaluation.plan import EvaluationPlan
from vbon.evaluation.runs import check_dial, read_run
from vbon.evaluation.samples import draw_samples, per_prompt_metrics
from vbon.models import load
from vbon.models.dial import Dial, dial_share
from vbon.pool.sampling import Sampler

_METRICS = ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon")


def dialed_sampler(sampler: Sampler, config: GenerateConfig) -> Sampler:
    """The sampler of a run with N turned to `config.dial`.

    Raises:
        VbonError: the model is no run that was trained towards best-of-N, or its reference cannot be loaded.
    """
    assert config.dial is not None
    run = read_run(config.model, config.model)
    share = dial_share(check_dial(run), config.dial)
    ref_policy = load.load_configured_policy(str(run.record.ref_model), config, sampler.model.device)
    return sampler._replace(model=_as_model(Dial(ref_policy, sampler.model, share)))


def measure_dials(plan: EvaluationPlan, config: EvaluateConfig, folder: EvaluationFolder) -> list[dict[str, Any]]:
    """Measure every run at every N of --dial, with the random numbers of the other policies.

    What `folder` already holds is read from there.

    Returns:
        For each run and N: the share λ, the metrics with intervals, and what KL(·‖bon) reads at best-of-N itself.
    """
    rows = []
    for index, run in enumerate(plan.runs):
        policy = None
        for place, n in enumerate(config.dial):
            task = dataclasses.replace(plan.task, n=float(n))
            share = dial_share(check_dial(run), n)
            file = folder.measured(1 + len(plan.runs) + index * len(config.dial) + place)
            measured = read_measured(file)
            if measured is None:
                policy = policy or load.load_configured_policy(run.path, config, plan.device)
                samples = draw_samples(_as_model(Dial(task.sampler.model, policy, share)), task)
                measured = Measured(samples, per_prompt_metrics(samples, task), {})
                write_measured(file, measured)
            metrics = result.estimates({key: measured.per_prompt[key] for key in _METRICS}, task.seed)
            floor = target.kl_policy_bon_floor(task)
            rows.append({"policy": run.name, "n": n, "share": share, "metrics": metrics, "floor": floor})
    return rows


def _as_model(dial: Dial) -> PreTrainedModel:
    """A Dial where a model is only sampled and measured, which `models` does for both."""
    return cast("PreTrainedModel", dial)
