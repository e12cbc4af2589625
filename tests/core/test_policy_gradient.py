"""Policy-gradient pieces against loops, the O(T²) definition of GAE, and autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vbon.core.policy_gradient import (
    clipped_policy_loss,
    clipped_token_loss,
    clipped_value_loss,
    gae,
    leave_one_out,
    returns_to_go,
    token_rewards,
)

LENGTHS = [5, 2, 1, 4]


def ragged(seed, lengths=LENGTHS):
    """Right-padded mask and a maker of (B, T) float64 values that are rubbish, not 0, on the padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return mask, lambda: torch.randn(mask.shape, generator=generator, dtype=torch.float64)


def test_token_rewards_sum_to_the_sequence_objective():
    """Σ_t reward_t = ρ − β·Σ_t KL_t, ρ on the last real token alone."""
    mask, draw = ragged(0)
    kl, sequence_reward, beta = draw(), torch.tensor([2.0, -1.0, 0.5, 7.0], dtype=torch.float64), 0.3
    rewards = token_rewards(sequence_reward, kl, mask, beta)
    for i, length in enumerate(LENGTHS):
        for t in range(mask.shape[1]):
            expected = -beta * kl[i, t] * (t < length) + sequence_reward[i] * (t == length - 1)
            assert float(rewards[i, t]) == pytest.approx(float(expected), rel=1e-14)
        total = sequence_reward[i] - beta * kl[i, :length].sum()
        assert float(rewards[i].sum()) == pytest.approx(float(total), rel=1e-12)


def test_token_rewards_of_an_empty_completion_are_zero():
    mask = torch.tensor([[False, False], [True, False]])
    rewards = token_rewards(torch.tensor([5.0, 3.0]), torch.ones(2, 2), mask, 0.5)
    assert rewards.tolist() == [[0.0, 0.0], [2.5, 0.0]]


def test_token_rewards_keep_the_precision_of_the_sequence_reward():
    reward = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    rewards = token_rewards(reward, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 0.1)
    assert rewards.dtype == torch.float64
    assert float(rewards[0, 1]) == float(reward[0])


@pytest.mark.parametrize(("gae_lambda", "gamma"), [(0.95, 1.0), (0.7, 0.9), (0.0, 1.0), (1.0, 1.0)])
def test_gae_equals_its_definition(gae_lambda, gamma):
    mask, draw = ragged(1)
    rewards, values = draw() * mask, draw()
    advantages = gae(rewards, values, mask, gae_lambda, gamma)
    for i, length in enumerate(LENGTHS):
        value = [*values[i, :length].tolist(), 0.0]
        delta = [float(rewards[i, t]) + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * gae_lambda) ** (s - t) * delta[s] for s in range(t, length))
            assert float(advantages[i, t]) == pytest.approx(expected, rel=1e-12, abs=1e-13)
        assert not advantages[i, length:].any()


def test_gae_at_lambda_one_is_return_minus_value():
    mask, draw = ragged(2)
    rewards, values = draw() * mask, draw()
    torch.testing.assert_close(gae(rewards, values, mask, 1.0), returns_to_go(rewards, mask) - values * mask)


def test_returns_to_go_equal_loops():
    mask, draw = ragged(3)
    rewards = draw()
    returns = returns_to_go(rewards, mask)
    for i, length in enumerate(LENGTHS):
        for t in range(mask.shape[1]):
            expected = float(rewards[i, t:length].sum()) if t < length else 0.0
            assert float(returns[i, t]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=14), st.integers(0, 99))
def test_leave_one_out_equals_loops(prompt_index, seed):
    prompt_index = prompt_index + prompt_index[::-1]  # each prompt at least twice, in no order
    returns = torch.randn(len(prompt_index), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = leave_one_out(returns, torch.tensor(prompt_index))
    for i, prompt in enumerate(prompt_index):
        others = [float(returns[j]) for j, p in enumerate(prompt_index) if p == prompt and j != i]
        assert float(result[i]) == pytest.approx(float(returns[i]) - sum(others) / len(others), rel=1e-11, abs=1e-12)


def test_leave_one_out_needs_company():
    with pytest.raises(ValueError, match="two samples"):
        leave_one_out(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 4, 9]))


def test_clipped_policy_loss_equals_a_loop():
    mask, draw = ragged(4)
    logprobs, old_logprobs, advantages, epsilon = draw(), draw(), draw(), 0.2
    terms = []
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            w, a = float((logprobs[i, t] - old_logprobs[i, t]).exp()), float(advantages[i, t])
            terms.append(-min(w * a, min(max(w, 1 - epsilon), 1 + epsilon) * a))
    loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, epsilon)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "gradient"),
    [(0.5, 1.0, 0), (0.5, -1.0, 1), (-0.5, 1.0, 1), (-0.5, -1.0, 0), (0.1, 2.0, 1), (-0.1, -2.0, 1)],
)
def test_gradient_stops_only_past_the_clip_on_the_improving_side(log_ratio, advantage, gradient):
    logprobs = torch.tensor([-1.0 + log_ratio], requires_grad=True)
    clipped_token_loss(logprobs, torch.tensor([-1.0]), torch.tensor([advantage]), 0.2).sum().backward()
    expected = -advantage * torch.tensor(log_ratio).exp() * gradient
    assert float(logprobs.grad) == pytest.approx(float(expected), rel=1e-6)


def test_first_step_gradient_is_reinforce():
    mask, draw = ragged(5)
    logprobs, advantages = draw(), draw()
    moving = logprobs.clone().requires_grad_()
    clipped_policy_loss(moving, logprobs, advantages, mask, 0.2).backward()
    torch.testing.assert_close(moving.grad, -advantages * mask / mask.sum())


def test_clipped_value_loss_equals_a_loop():
    mask, draw = ragged(6)
    values, old_values, returns, epsilon = draw(), draw(), draw(), 0.3
    terms = []
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            v, old, target = float(values[i, t]), float(old_values[i, t]), float(returns[i, t])
            near = old + min(max(v - old, -epsilon), epsilon)
            terms.append(max((v - target) ** 2, (near - target) ** 2))
    loss = clipped_value_loss(values, old_values, returns, mask, epsilon)
    assert float(loss) == pytest.approx(sum(terms) / len(terms) / 2, rel=1e-12)


def test_value_gradient_stops_past_the_clip():
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    mask, old, target = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), torch.tensor([[2.0, 2.0]])
    clipped_value_loss(values, old, target, mask, 0.2).backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, (0.1 - 2.0) / 2]]))
