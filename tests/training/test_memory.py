"""The memory plan of a run against the tensors that a run of a tiny model really holds."""

import dataclasses
import json

import pytest
import torch
from accelerate import Accelerator

from vbon.cli import main
from vbon.config.methods import METHODS
from vbon.config.yaml_file import merged_text
from vbon.models import load
from vbon.models.copies import sharing_weights
from vbon.pool.store import ReferencePool
from vbon.training import memory
from vbon.training.memory import training_lines, training_size, work_of
from vbon.training.online import sample_rollouts, update, update_settings
from vbon.training.parallel.learner import make_learner

SETTINGS = {
    "full": {},
    "bfloat16": {"dtype": "bfloat16"},
    "ppo": {"algorithm": "ppo"},
    "ppo, shared critic": {"algorithm": "ppo", "critic": "shared"},
    "LoRA": {"lora_rank": 2},
    "LoRA, ppo": {"lora_rank": 2, "algorithm": "ppo"},
}


def of_item(plan, what: str) -> float:
    return sum(item.bytes for item in plan.always if what in item.what)


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_the_planned_bytes_are_those_of_the_tensors_after_a_step(configure, task, pool, changes):
    config = configure(**changes)
    plan, _ = training_lines(config, ReferencePool.open(pool))
    reference = load.load_policy(config.model, dtype=config.dtype)
    policy = sharing_weights(reference) if config.lora_rank else load.load_policy(config.model, dtype=config.dtype)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    rollouts = sample_rollouts(learner, reference, task, config, 0)
    update(learner, rollouts, update_settings(config, 1.0), 0)
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    moments = [s[name] for s in learner.optimizer._optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    critic = [] if learner.critic is None else [p for p in learner.critic.parameters() if p.requires_grad]
    whole = sum(p.nbytes for p in reference.parameters())
    assert of_item(plan, "gradients") == sum(p.grad.nbytes for p in trained)
    assert of_item(plan, "moments") == sum(moment.nbytes for moment in moments)
    assert of_item(plan, "weights of the policy") == whole
    assert of_item(plan, "reference") == (0 if config.lora_rank else whole)
    assert of_item(plan, "critic") == sum(p.nbytes for p in critic)
    assert of_item(plan, "adapters,") == (sum(p.nbytes for p in trained) - of_item(plan, "critic")) * bool(
        config.lora_rank
    )
    assert plan.peak == pytest.approx(
        sum(i.bytes for i in plan.always) + max(sum(i.bytes for i in part) for part in plan.phases.values())
    )


def test_a_dry_run_shows_the_plan_and_writes_nothing(configure, tmp_path, capsys):
    config = configure(dry_run=True)
    file, result = tmp_path / "train.yaml", tmp_path / "plan.json"
    file.write_text(merged_text(config))
    assert main(["train", "--config", str(file), "--json", str(result)]) == 0
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert "Adam's moments" in printed and "peak" in printed and "disk:" in printed
    assert json.loads(result.read_text())["peak_bytes"] > 0


def test_what_does_not_fit_names_the_flags_that_help_and_the_peak_with_each(configure, pool, monkeypatch):
    config, opened = configure(), ReferencePool.open(pool)
    plan, lines = training_lines(config, opened)
    assert not any("with --" in line for line in lines)
    monkeypatch.setattr(memory, "available_bytes", lambda device: plan.peak - 1)
    helped = [line for line in training_lines(config, opened)[1] if "with --" in line]
    assert [line.split("with ")[1].split(":")[0] for line in helped] == [
        "--lora-rank 16",
        "--lora-rank 16 --dtype bfloat16",
        "--lora-rank 16 --dtype bfloat16 --gradient-checkpointing",
    ]


def test_every_run_begins_with_its_plan_and_says_how_long_it_will_take(configure, capsys):
    from vbon.training.train import train

    train(configure(num_iterations=2))
    shown = capsys.readouterr().err
    assert "memory that this will need" in shown and "1 of 2 iterations took" in shown


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.trained])
def test_each_method_has_a_plan(configure, pool, method):
    changes = {"n": 4.0, "kl_coef": 0.3 if METHODS[method].knob == "kl_coef" else None}
    config = dataclasses.replace(
        configure(),
        method=method,
        objective="auto",
        algorithm="auto",
        warm_start="auto",
        kl_estimator="auto",
        offline_loss="auto",
        **changes,
    )
    size = training_size(config)
    work = work_of(config, ReferencePool.open(pool), torch.device("cpu"), 8)
    assert memory.training_plan(size, work, 1e9).peak > 20 * size.parameters
