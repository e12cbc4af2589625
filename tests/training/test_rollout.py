"""Rollouts against plain forward passes, row by row, without padding or cache."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.enumerable import COMPLETIONS, EOS, PROMPTS, STEPS, Enumerable, plain_token_logprobs

from vbon.core import seeds
from vbon.core.objectives import vbon
from vbon.models import load
from vbon.training.rollout import Rollouts, roll_out

FLOAT32 = 2e-6  # a float32 forward pass in other shapes, per token
N = 4.0


@pytest.fixture
def policy(world: Enumerable):
    model = load.load_policy(world.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def rollouts(world: Enumerable, policy, task) -> Rollouts:
    index = torch.tensor([3, 0, 6])
    return roll_out(
        policy,
        load.load_policy(world.model),
        task,
        index,
        seeds.uniforms((3, 16, STEPS), 1),
        partial(vbon, n=N),
        keep_ref_states=True,
    )


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    ids = rollouts.sequences.completion_ids
    return [row[mask].tolist() for row, mask in zip(ids, rollouts.mask, strict=True)]


def test_completions_end_at_the_stop_token_or_at_the_length(rollouts):
    rows = rows_of(rollouts)
    assert all(row in COMPLETIONS for row in rows)
    assert rollouts.finished.tolist() == [row[-1] == EOS for row in rows]
    assert rollouts.prompt_index.tolist() == [3] * 16 + [0] * 16 + [6] * 16
    assert len({tuple(row) for row in rows}) > 5


def test_logprobs_are_those_of_a_plain_forward_pass(world, policy, rollouts):
    reference = load.load_policy(world.model)
    for model, kept in ((policy, rollouts.old_logprobs), (reference, rollouts.ref_logprobs)):
        expected = plain_token_logprobs(model, rollouts.sequences).detach().numpy()
        np.testing.assert_allclose(kept.numpy(), expected, atol=FLOAT32)
    assert np.abs((rollouts.old_logprobs - rollouts.ref_logprobs).numpy()).max() > 0.1


def test_the_whole_reference_distribution_can_be_made_on_demand(rollouts):
    ids = rollouts.sequences.completion_ids
    table = rollouts.ref_states.log_softmax(torch.arange(ids.numel()), 1.0).unflatten(0, ids.shape)
    picked = table.gather(2, ids[..., None])[..., 0]
    np.testing.assert_allclose((picked * rollouts.mask).numpy(), rollouts.ref_logprobs.numpy(), atol=FLOAT32)
    assert torch.logsumexp(table, -1)[rollouts.mask].abs().max() < FLOAT32
    few = rollouts.ref_states.select(torch.tensor([5, 2]), 1).log_softmax(torch.tensor([1, 0]), 1.0)
    assert torch.equal(few, table[[2, 5], 0])


def test_rewards_and_ranks_are_those_of_the_text(world, task, rollouts):
    table = world.rewards()
    index = rollouts.prompt_index.tolist()
    places = [COMPLETIONS.index(row) for row in rows_of(rollouts)]
    assert rollouts.rewards.tolist() == [table[p, c] for p, c in zip(index, places, strict=True)]
    pools = np.split(task.pool.rewards, task.pool.offsets[1:-1])
    lower = [(pools[p] < table[p, c]).sum() for p, c in zip(index, places, strict=True)]
    upper = [(pools[p] <= table[p, c]).sum() + 1 for p, c in zip(index, places, strict=True)]
    np.testing.assert_allclose(rollouts.interval.cdf_lt, np.array(lower) / 251, rtol=1e-12)
    np.testing.assert_allclose(rollouts.interval.cdf_le, np.array(upper) / 251, rtol=1e-12)


def test_sequence_reward_is_log_w_over_n_minus_1(rollouts):
    a, b = rollouts.interval.cdf_lt, rollouts.interval.cdf_le
    expected = np.log(sum(b**k * a ** (N - 1 - k) for k in range(int(N)))) / (N - 1)
    np.testing.assert_allclose(rollouts.sequence_reward.numpy(), expected, rtol=1e-12)
    assert rollouts.kl_coef == 1 / (N - 1)


def test_log_ratio_sums_real_tokens(rollouts):
    terms = (rollouts.old_logprobs.double() - rollouts.ref_logprobs.double()).numpy()
    expected = [row[: len(ids)].sum() for row, ids in zip(terms, rows_of(rollouts), strict=True)]
    np.testing.assert_allclose(rollouts.log_ratio().numpy(), expected, rtol=1e-12)
    assert len(PROMPTS) == 8
