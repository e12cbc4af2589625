"""README.md of a run: the card that tells whoever finds the model what it is and how to make it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vbon.artifacts.run import SETTINGS_NAME
from vbon.config.methods import METHODS
from vbon.config.train import TrainConfig
from vbon.core.rank_tilts import win_rate
from vbon.training.task import Task, target_of
from vbon.version import __version__

METRICS = {
    "win_rate": "win rate against one sample of the reference",
    "kl_policy_ref": "KL(π_θ‖π_ref), nats",
    "kl_policy_bon": "KL(π_θ‖π_bon), nats",
    "reward": "mean reward",
    "eos_rate": "completions that end by themselves",
    "completion_length": "tokens per completion",
}


def model_card(config: TrainConfig, task: Task, allowed: Sequence[str], result: dict[str, Any]) -> str:
    """Write the card of a run: Markdown with the front matter that model hubs read.

    Args:
        config: the settings with every default filled in.
        task: the training prompts with their pool.
        allowed: the mismatches between pool and training that were allowed.
        result: the result of the run.

    Returns:
        The text of README.md.
    """
    measured_on = "its own training" if result["validated_on_training_prompts"] else "validation"
    target = target_of(config)
    return f"""---
{yaml.safe_dump(_front_matter(config), sort_keys=False).strip()}
---

# {title_of(config, result)}

{_what_it_is(config, task, result)}
Method `{config.method_name}` (objective `{config.objective}`, algorithm `{config.algorithm}`, warm start
`{config.warm_start}`).

| on {measured_on} prompts, after iteration {result["best_iteration"]} of {result["iterations"]} | | 95 % over prompts |
|---|--:|--:|
{_metric_lines(result)}

For comparison: a {target.name} sample of a reward without ties wins {win_rate(target):.3f} of the time,
at KL(π_bon‖π_ref) = {result["kl_bon_ref"]:.3f}; at π_θ = π_bon, KL(π_θ‖π_bon) reads
{result["kl_policy_bon_floor"]:.3f} with a pool of this size.

## How it was sampled

Temperature {task.sampling.temperature:g}, top-p 1, no top-k, at most {task.sampling.max_new_tokens} new tokens
(`generation_config.json`): the distribution that was trained is this one.

## How to make it again

    vbon train --config {SETTINGS_NAME} --out RUN

with the same pool: {len(task)} training prompts, {int(task.cdf.num_samples.min())} or more reference samples of each.
Seed {config.seed}, {result["num_processes"]} process{"es" if result["num_processes"] > 1 else ""}. These figures chose
the checkpoint; `vbon evaluate RUN --pool HELDOUT` gives some that did not.

| the pool's fingerprint | |
|---|---|
{_fingerprint_lines(task, allowed)}
"""


def title_of(config: TrainConfig, result: dict[str, Any]) -> str:
    """The title of a run's card: best-of-N only where the run was trained towards it."""
    if result["is_reference"]:
        return "The reference, unchanged"
    target = target_of(config).name
    return (
        f"{target[0].upper()}{target[1:]} in one sample"
        if config.targets_best_of_n
        else f"Trained by {config.method_name}"
    )


def _what_it_is(config: TrainConfig, task: Task, result: dict[str, Any]) -> str:
    """What was trained, by the optimum of the method."""
    source = f"its reference, `{config.model}`, by the reward `{task.reward.name}`"
    paper = "([Variational Best-of-N](https://arxiv.org/abs/2407.06057))"
    if result["is_reference"]:
        return f"No iteration of this run was better than `{config.model}` on validation, so these are its weights."
    if config.targets_best_of_n:
        target = target_of(config)
        what = f"the best of {config.n:g} samples" if target.kind == "best" else f"the {target.name}"
        aim = f"so that one sample of it is distributed like {what} of\n{source}\n{paper}"
        return f"A policy trained by vbon {__version__} {aim}."
    scale = f", KL coefficient {config.kl_coef:g}" if config.kl_coef is not None else ""
    aim = f"{METHODS[config.method_name].summary}{scale}, from {source}"
    return f"A policy trained by vbon {__version__}: {aim}.\nIts optimum is not best-of-N."


def _front_matter(config: TrainConfig) -> dict[str, Any]:
    tags = ["vbon", "best-of-n", "rlhf"]
    base = {} if config.model is None or Path(config.model).exists() else {"base_model": config.model}
    return {"library_name": "transformers", "pipeline_tag": "text-generation", **base, "tags": tags}


def _metric_lines(result: dict[str, Any]) -> str:
    rows = {text: [result[f"validation/{key}{end}"] for end in ("", "_low", "_high")] for key, text in METRICS.items()}
    bounds = {text: "" if low == high else f"{low:.3f} to {high:.3f}" for text, (_, low, high) in rows.items()}
    return "\n".join(f"| {text} | {value:.3f} | {bounds[text]} |" for text, (value, _, _) in rows.items())


def _fingerprint_lines(task: Task, allowed: Sequence[str]) -> str:
    known = task.pool.fingerprint.to_json()
    notes = {field: " (another one was used here)" for field in allowed}
    return "\n".join(
        f"| {field} | {'unknown' if value is None else f'`{value}`'}{notes.get(field, '')} |"
        for field, value in known.items()
    )
