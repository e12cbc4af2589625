"""Offline losses on an enumerable pool: what is drawn, and that each loss nears its own optimum."""

import numpy as np
import pytest
from accelerate import Accelerator
from tests.training.conftest import plain_token_logprobs, task_of, write_pool

from vbon.errors import VbonError
from vbon.models import load
from vbon.models.logprobs import completion_logprobs
from vbon.pool import ReferencePool
from vbon.training.offline import PoolData, draw_rows, offline_step, pool_log_weights, systematic_draw
from vbon.training.online import make_learner

N = 4.0
FLOAT32 = 1e-5  # a sum of at most 3 float32 log-probabilities


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


def test_weighted_rows_are_drawn_by_weight_and_regression_rows_half_so(task, configure):
    data = PoolData(task, N)
    expected = np.exp(data.log_weights).reshape(8, -1).sum(1)  # by prompt: M each, as the mean of Ŵ is 1
    np.testing.assert_allclose(expected, 250, rtol=1e-9)
    rows = draw_rows(data, configure(offline_batch_size=800), 0)
    assert np.bincount(data.prompt_index[rows]).tolist() == [100] * 8
    half = draw_rows(data, configure(offline_batch_size=800, offline_loss="regression"), 0)
    mean_reward = [data.task.pool.rewards[part].mean() for part in (rows, half[:400], half[400:])]
    assert mean_reward[0] == pytest.approx(mean_reward[1], abs=0.02)
    assert mean_reward[2] == pytest.approx(data.task.pool.rewards.mean(), abs=0.02) and mean_reward[2] < mean_reward[0]


def test_listwise_groups_are_distinct_rows_of_one_prompt(task, configure):
    data = PoolData(task, N)
    rows = draw_rows(data, configure(offline_loss="listwise", offline_batch_size=16, samples_per_prompt=4), 3)
    groups = rows.reshape(4, 4)
    assert all(len(set(data.prompt_index[group])) == 1 and len(set(group)) == 4 for group in groups)


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
LEFT = {"weighted-sft": 0.12, "regression": 0.25, "listwise": 0.13}


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
