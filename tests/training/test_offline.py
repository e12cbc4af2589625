"""Offline losses on an enumerable pool: what is drawn, and that each loss nears its own optimum."""

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tests.enumerable import plain_token_logprobs, task_of, write_pool

from vbon.config.train import OfflineLoss
from vbon.core.best_of_n import tie_averaged_weights
from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.logprobs import completion_logprobs
from vbon.pool import ReferencePool
from vbon.training.offline import held_out_loss, method_objective, offline_step
from vbon.training.offline_methods import OFFLINE_METHODS, PolicyRows, best_and_worst
from vbon.training.parallel.learner import make_learner
from vbon.training.pool_data import PoolData, pool_log_weights, systematic_draw, tilt_log_weights
from vbon.training.train import train

N = 4.0
FLOAT32 = 1e-5  # a sum of at most 3 float32 log-probabilities


def draw_rows(data, config, *key):
    return OFFLINE_METHODS[config.offline_loss].draw(data, config, *key)


def test_the_table_of_methods_holds_every_offline_loss_of_the_config(task, configure):
    """Whoever adds a name to the config must say what it draws and what its loss is, and the other way round."""
    assert set(OFFLINE_METHODS) == set(get_args(OfflineLoss)) - {"auto"}
    data = PoolData(task, N)
    for name, method in OFFLINE_METHODS.items():
        config = configure(algorithm="offline", offline_loss=name, offline_batch_size=16)
        rows = method.draw(data, config, 1, 2)
        assert len(rows) == 16 and (rows == method.draw(data, config, 1, 2)).all(), name
        logprobs = torch.zeros(16, dtype=torch.float64, requires_grad=True)
        [gradient] = torch.autograd.grad(method.loss(PolicyRows(data, rows, logprobs), config), logprobs)
        assert gradient.abs().sum() > 0, name


def test_systematic_draw_gives_each_row_its_expectation_up_to_one():
    weights = np.array([0.0, 0.5, 3.25, 0.25, 1.0, 2.0])
    expected = 40 * weights / weights.sum()
    counts = np.array([np.bincount(systematic_draw(weights, 40, 1, key), minlength=6) for key in range(400)])
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_allclose(counts.mean(0), expected, atol=4 * 0.5 / np.sqrt(400))  # a count's deviation is ≤ ½
    assert len({tuple(row) for row in counts}) > 1


def test_pool_log_weights_leave_each_completion_out_of_its_own_ranks(task):
    pools = np.split(task.pool.rewards, task.pool.offsets[1:-1])
    expected = []
    for rewards in pools:
        for own in rewards:
            a = (rewards < own).sum() / len(rewards)
            b = (rewards <= own).sum() / len(rewards)
            expected.append(np.log(sum(b**k * a ** (3 - k) for k in range(4))))
    np.testing.assert_allclose(pool_log_weights(task, N), expected, rtol=1e-10)


def test_a_warm_start_weighs_samples_by_the_objectives_own_tilt(task, configure):
    rewards = task.pool.rewards.reshape(8, -1)
    beaten = (rewards[:, :, None] > rewards[:, None, :]).mean(2)
    others = ((rewards[:, :, None] == rewards[:, None, :]).sum(2) - 1) / rewards.shape[1]
    scores = {"kl-rl": rewards, "quantile": beaten + (others + 1 / rewards.shape[1]) / 2}
    for method, score in scores.items():
        expected = np.exp(score / 0.3) / np.exp(score / 0.3).mean(1, keepdims=True)
        found = np.exp(tilt_log_weights(task, configure(method=method, kl_coef=0.3))).reshape(8, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(tilt_log_weights(task, configure()), pool_log_weights(task, N), atol=1e-12)


def test_weighted_rows_are_drawn_by_weight_and_regression_rows_half_so(task, configure):
    data = PoolData(task, N)
    expected = np.exp(data.log_weights).reshape(8, -1).sum(1)  # by prompt: M each, as the mean of Ŵ is 1
    np.testing.assert_allclose(expected, 250, rtol=1e-9)
    rows = draw_rows(data, configure(offline_batch_size=800), 0, 5, 0)
    assert np.bincount(data.prompt_index[rows]).tolist() == [100] * 8
    half = draw_rows(data, configure(offline_batch_size=800, offline_loss="regression"), 0, 5, 0)
    mean_reward = [data.task.pool.rewards[part].mean() for part in (rows, half[:400], half[400:])]
    assert mean_reward[0] == pytest.approx(mean_reward[1], abs=0.02)
    assert mean_reward[2] == pytest.approx(data.task.pool.rewards.mean(), abs=0.02) and mean_reward[2] < mean_reward[0]


def test_listwise_groups_are_distinct_rows_of_one_prompt(task, configure):
    data = PoolData(task, N)
    rows = draw_rows(data, configure(offline_loss="listwise", offline_batch_size=16, samples_per_prompt=4), 0, 5, 3)
    groups = rows.reshape(4, 4)
    assert all(len(set(data.prompt_index[group])) == 1 and len(set(group)) == 4 for group in groups)


def test_best_and_worst_are_order_statistics_of_sets_without_replacement(task):
    """How often each row is the best of 4 (the worst: of negated rewards) against C(k−1, 3)/C(M, 4), by prompt."""
    data, sets = PoolData(task, N), 40_000
    best, worst = best_and_worst(data, 4, sets, 7, 1)
    rewards = task.pool.rewards.reshape(8, -1)
    for rows, sign in ((best, 1), (worst, -1)):
        counts = np.bincount(rows, minlength=rewards.size).reshape(rewards.shape)
        assert counts.sum(1).tolist() == [sets // 8] * 8
        for count, reward in zip(counts, rewards, strict=True):
            expected = tie_averaged_weights(sign * reward, 4)
            levels = np.digitize(expected, np.quantile(expected, [0.25, 0.5, 0.75]))  # 4 bins: no count too small
            seen, due = (np.bincount(levels, weights=w, minlength=4) for w in (count, expected * count.sum()))
            kept = due > 5
            assert (((seen - due)[kept] ** 2 / due[kept]).sum()) < 25  # χ² with 3 degrees: p = 1e-5


def test_a_set_of_the_whole_pool_has_its_extremes(task):
    best, worst = best_and_worst(PoolData(task, N), 250, 80, 1)
    rewards = task.pool.rewards.reshape(8, -1)
    assert task.pool.rewards[best].tolist() == np.repeat(rewards.max(1), 10).tolist()
    assert task.pool.rewards[worst].tolist() == np.repeat(rewards.min(1), 10).tolist()


def test_a_set_of_equals_gives_one_row_twice(world, task):
    data = PoolData(task, N)
    data.log_weights[:] = 0.0
    best, worst = best_and_worst(data, 4, 40, 1)
    assert (best == worst).all() and len(set(best.tolist())) > 30  # ties at random, not the first of the pool


def test_pairs_come_first_half_best_second_half_worst(task, configure):
    data = PoolData(task, N)
    config = configure(method="dpo", offline_batch_size=64)
    rows = draw_rows(data, config, 0, 5, 3)
    best, worst = np.split(rows, 2)
    assert (data.prompt_index[best] == data.prompt_index[worst]).all()
    assert (task.pool.rewards[best] >= task.pool.rewards[worst]).all()
    assert (task.pool.rewards[best] > task.pool.rewards[worst]).any()


def test_unknown_reference_logprobs_are_computed(world, task):
    data = PoolData(task, N)
    known = data.ref_logprobs.copy()
    missing = np.arange(3, len(known), 7)
    data.ref_logprobs[missing] = np.nan
    data.fill_ref_logprobs(load.load_policy(world.model))
    np.testing.assert_allclose(data.ref_logprobs, known, atol=FLOAT32)
    assert (data.ref_logprobs != known).any()


def test_logprobs_by_length_are_those_row_by_row(world, task):
    policy = load.load_policy(world.model)
    batch = PoolData(task, N).batch(np.arange(0, 2000, 97))
    expected = plain_token_logprobs(policy, batch).detach().numpy()
    np.testing.assert_allclose(completion_logprobs(policy, batch, 1.0, 4).numpy(), expected, atol=FLOAT32)


def test_a_pool_of_bare_rewards_is_refused(task):
    table = task.pool.completion_ids.values
    object.__setattr__(task.pool, "has_completion_ids_", False)
    bare = ReferencePool(task.pool.path, task.pool.manifest, task.pool.prompts, task.pool.num_samples, None)
    bare.__dict__["completion_ids"] = type(task.pool.completion_ids)(_all_null(table))
    with pytest.raises(VbonError, match="holds no token ids, which offline training needs"):
        PoolData(type(task)(**{**task.__dict__, "pool": bare}), N)


def _all_null(column):
    import pyarrow as pa

    return pa.chunked_array([pa.nulls(len(column), column.type)])


STEPS = 200
# Nats left of 1.07 (KL(π_θ‖π_bon)) or 0.49 (KL(π_bon‖π_θ)) after 200 steps of 64 rows; measured 0.07, 0.14, 0.08
LEFT = {"weighted-sft": 0.12, "sft": 0.12, "regression": 0.25, "listwise": 0.13}


@pytest.mark.parametrize("loss", list(LEFT))
def test_each_loss_nears_best_of_n(world, tmp_path, configure, loss):
    """All have their optimum at π_θ = π_bon; the two that are cross-entropies fall in KL(π_bon‖π_θ)."""
    config = configure(
        offline_loss=loss, offline_steps=STEPS, offline_batch_size=64, offline_learning_rate=1e-2, samples_per_prompt=8
    )
    policy = load.load_policy(world.model)
    distance = world.kl_policy_bon if loss == "regression" else world.kl_bon_policy
    start = distance(policy, N)
    learner = make_learner(policy, config, Accelerator(cpu=True))
    data = PoolData(task_of(world, write_pool(world, tmp_path / "pool", 2000)), N)
    data.fill_ref_logprobs(load.load_policy(world.model))
    for step in range(STEPS):
        offline_step(learner, data, config, step)
    assert start > 0.4 and distance(policy, N) < LEFT[loss]


def losses_by_hand(world, task, rows, loss: str) -> float:
    """DPO (β = 1/3) and BoNBoN (margin 3·(1 + 1/2 + 1/3)) of pairs, pair by pair, from plain log-probabilities."""
    data = PoolData(task, N)
    logprobs = plain_token_logprobs(policy_of(world), data.batch(rows)).sum(1).detach().numpy()
    ratio = logprobs - task.pool.ref_logprobs[rows]
    pairs = len(rows) // 2
    gaps = ratio[:pairs] - ratio[pairs:]
    if loss == "dpo":
        return float(np.mean([np.log(1 + np.exp(-gap / 3)) for gap in gaps]))
    if loss == "sft":
        return -float(logprobs.mean())
    return float(np.mean([0.995 * (gap - 5.5) ** 2 - 0.005 * own for gap, own in zip(gaps, logprobs, strict=False)]))


def policy_of(world):
    """A policy that is not its reference, so that log-ratios are not 0."""
    policy = load.load_policy(world.model)
    for parameter in policy.parameters():
        parameter.data.mul_(1.1)
    return policy


@pytest.mark.parametrize("loss", ["sft", "dpo", "bonbon"])
def test_losses_on_sets_equal_those_by_hand(world, task, configure, loss):
    config = configure(algorithm="offline", offline_loss=loss, offline_batch_size=16)
    rows = np.concatenate([draw_rows(PoolData(task, N), config, 0, 3, 2, draw) for draw in range(4)])
    by_draw = [losses_by_hand(world, task, part, loss) for part in np.split(rows, 4)]
    assert held_out_loss(policy_of(world), PoolData(task, N), config) == pytest.approx(np.mean(by_draw), rel=1e-4)
    objective = method_objective({}, policy_of(world), PoolData(task, N), config)["objective"]
    assert objective == pytest.approx(-np.mean(by_draw), rel=1e-4)


def test_the_objective_of_bond_is_half_of_either_divergence(world, task, configure):
    """From the exact cross-entropy of the draws and an objective of rollouts that is given."""
    config = configure(method="bond", offline_batch_size=16)
    data = PoolData(task, N)
    rows = [draw_rows(data, configure(offline_batch_size=16), 0, 3, 2, draw) for draw in range(4)]
    forward = np.mean([losses_by_hand(world, task, part, "sft") for part in rows])
    measured = {"objective": -0.7, "objective_se": 0.02}
    own = method_objective(measured, policy_of(world), data, config)
    assert own["objective"] == pytest.approx(0.5 * -0.7 - 0.5 * forward / 3, rel=1e-4)
    assert own["objective_se"] == 0.01


def test_sets_larger_than_a_pool_are_refused(world, configure):
    config = configure(method="bonbon", n=251.0)
    with pytest.raises(VbonError, match=r"takes sets of --n 251 samples, but a prompt has only 250"):
        train(config)


def test_prompts_weigh_alike_whatever_their_numbers_of_samples(configure):
    """Draws of every method of a pool in which one prompt has fifty times the samples of the others."""
    sizes = np.array([8, 8, 8, 8, 8, 8, 8, 400])

    class Sized(SimpleNamespace):
        def __len__(self):
            return 8

    task = Sized(
        pool=SimpleNamespace(
            has_completion_ids=True,
            completion_ids=[[1, 0]] * sizes.sum(),
            prompt_index=np.repeat(np.arange(8), sizes),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            num_samples=sizes,
            ref_logprobs=np.zeros(sizes.sum()),
        ),
        cdf=RewardCDF(np.random.default_rng(0).normal(size=sizes.sum()), sizes),
    )
    data = PoolData(task, N)
    for name, method in OFFLINE_METHODS.items():
        config = configure(algorithm="offline", offline_loss=name, offline_batch_size=800, samples_per_prompt=4)
        rows = np.concatenate([method.draw(data, config, 0, 5, step) for step in range(20)])
        share = np.bincount(data.prompt_index[rows], minlength=8) / len(rows)
        np.testing.assert_allclose(share, 1 / 8, atol=0.02, err_msg=name)
