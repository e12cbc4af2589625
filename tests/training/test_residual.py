"""`--algorithm residual`: its buffer, its choice by default, and how near it comes to best-of-N."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tests.enumerable import PROMPTS
from tests.training.runs import to_best_of_8

from vbon.config.pool import ImportConfig
from vbon.core import seeds
from vbon.errors import VbonError
from vbon.models import load
from vbon.pool import ReferencePool
from vbon.pool.importers import import_pool
from vbon.training.defaults import online_rate, share_recurring, with_defaults
from vbon.training.rollout import roll_out
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.task import objective_of
from vbon.training.train import train


def rolled(world, task, configure, seed: int, prompts=(0, 1, 2, 3)):
    model, index = load.load_policy(world.model), torch.tensor(prompts)
    uniforms = seeds.uniforms((len(index), 4, task.sampling.max_new_tokens), seed)
    return roll_out(model, model, task, index, uniforms, objective_of(configure()))


def itself(column):
    return column


def test_the_buffer_keeps_the_last_rows_as_they_were_sampled(world, task, configure):
    buffer = RolloutBuffer(task, 40, 4, 10.0)
    rollouts = [rolled(world, task, configure, seed) for seed in range(4)]  # 64 rows for 40 places
    for one in rollouts:
        buffer.add(one, itself)
    assert len(buffer) == 40
    batch, columns = buffer.select(torch.arange(8, 24))  # row 48 of all is in place 8
    last = rollouts[3]
    ends = last.mask.sum(1)
    for row in range(16):
        kept = batch.completion_ids[row][batch.completion_mask[row]].tolist()
        assert kept == last.sequences.completion_ids[row][: ends[row]].tolist()
        assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == task.prompt_ids[int(last.prompt_index[row])]
        np.testing.assert_array_equal(
            columns["ref_logprobs"][row][: ends[row]].numpy(), last.ref_logprobs[row][: ends[row]].numpy()
        )
    np.testing.assert_allclose(columns["log_weights"].numpy(), (last.sequence_reward / last.kl_coef).numpy())


def test_rows_are_drawn_by_their_residual_and_weigh_what_makes_the_mean_right(world, task, configure):
    buffer = RolloutBuffer(task, 16, 4, 10.0)
    buffer.add(rolled(world, task, configure, 0), itself)
    residuals = torch.arange(16).double() / 4
    buffer.update(torch.arange(16), -residuals)
    values, sums, counts = torch.arange(16).double() ** 2, [], torch.zeros(16)
    for draw in range(400):
        rows, weights = buffer.draw(8, 7, draw)
        sums.append((values[rows] * weights).mean())
        counts += torch.bincount(rows, minlength=16)
    assert torch.stack(sums).mean().item() == pytest.approx(values.mean().item(), rel=0.02)
    share = residuals + 0.5 * residuals.mean()
    np.testing.assert_allclose(counts / counts.sum(), share / share.sum(), atol=0.01)
    assert torch.equal(buffer.draw(8, 7, 3)[0], buffer.draw(8, 7, 3)[0])


def test_residuals_that_are_not_bounded_do_not_take_all_draws(world, task, configure):
    buffer = RolloutBuffer(task, 16, 4, 2.0)
    buffer.add(rolled(world, task, configure, 0), itself)
    buffer.update(torch.arange(16), torch.cat([torch.tensor([1e9]), torch.ones(15)]))
    rows, _ = buffer.draw(170, 1)
    assert 10 < int((rows == 0).sum()) < 30


def test_it_is_the_default_where_completions_recur(world, pool, configure):
    opened, policy = ReferencePool.open(pool), load.load_policy(world.model)
    assert share_recurring(opened) > 0.2
    chosen = with_defaults(dataclasses.replace(configure(learning_rate=None)), policy, opened)
    assert chosen.algorithm == "residual"
    width = policy.config.hidden_size
    assert chosen.learning_rate == pytest.approx(3 * online_rate(width), rel=0.05)
    for changes in (
        {"refine_tail": True},
        {"kl_estimator": "full"},
        {"whiten_advantages": True},
        {"objective": "bond"},
    ):
        assert with_defaults(configure(**changes), policy, opened).algorithm == "rloo"
    assert with_defaults(configure(algorithm="ppo"), policy, opened).algorithm == "ppo"


def test_a_pool_whose_completions_differ_is_trained_with_rloo(world, configure, tmp_path):
    rows = [{"prompt": PROMPTS[0], "response": f"a b c {row}", "reward": row} for row in range(40)]
    for texts, share in (("response", 0.0), ("reward", 0.0)):  # a pool of rewards only has no completions that recur
        file = tmp_path / f"{texts}.jsonl"
        kept = [{key: row[key] for key in ("prompt", texts, "reward")} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in kept))
        opened = ReferencePool.open(import_pool(ImportConfig(file=str(file), out=str(tmp_path / f"{texts}-pool"))))
        assert share_recurring(opened) == share
        assert with_defaults(configure(), load.load_policy(world.model), opened).algorithm == "rloo"


@pytest.mark.parametrize("changes", [{"refine_tail": True}, {"whiten_advantages": True}, {"critic": "shared"}])
def test_flags_that_mean_nothing_to_it_are_refused(configure, changes):
    with pytest.raises(VbonError, match="--algorithm residual"):
        configure(algorithm="residual", **changes).validate()


@pytest.mark.learning
def test_it_comes_nearer_to_best_of_n_than_rloo_from_as_many_rollouts(world, configure, tmp_path):
    """Seeds 0 and 1; residual at three times the rate, as by default: .018 on average after .030."""
    exact = {"rloo": 0.0, "residual": 0.0}
    for algorithm, rate in (("rloo", 5e-3), ("residual", 1.5e-2)):
        for seed in (0, 1):
            folder = tmp_path / f"{algorithm}-{seed}"
            config = to_best_of_8(world, configure, folder, "smooth", algorithm=algorithm)
            config = dataclasses.replace(config, learning_rate=rate, seed=seed, out=str(folder / "run"))
            exact[algorithm] += world.kl_policy_bon(train(config)["out"], 8.0, "smooth") / 2
    assert exact["residual"] < 0.75 * exact["rloo"]
