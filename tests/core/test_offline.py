"""Offline losses: what minimises each, by enumeration on a policy of a few completions."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch

from vbon.core.best_of_n import log_weight, tie_averaged_weights
from vbon.core.offline import bonbon, bonbon_margin, dpo, ipo, jeffreys, listwise, regression, weighted_sft
from vbon.core.reward_cdf import RewardCDF

MASS = np.array([0.35, 0.2, 0.05, 0.3, 0.1])
REWARDS = np.array([0.5, -1.0, 2.0, 0.5, 2.0])
N = 4


def exact_log_weight(n=N):
    lt = np.array([MASS[r > REWARDS].sum() for r in REWARDS])
    le = np.array([MASS[r >= REWARDS].sum() for r in REWARDS])
    return log_weight(lt, np.minimum(le, 1), n)


def minimised(loss, size):
    """Logits at which `loss` has no gradient: L-BFGS in float64 from zero."""
    logits = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def test_regression_is_zero_only_at_best_of_n():
    """Over free logits, one for each completion: π_θ ∝ e^logits reaches π_ref·W, with no partition function to fit."""
    log_ref, target = torch.from_numpy(np.log(MASS)), torch.from_numpy(exact_log_weight())

    def loss(logits):
        return regression((logits.log_softmax(0) - log_ref)[None], target[None], N)

    logits = minimised(loss, len(MASS))
    np.testing.assert_allclose(logits.softmax(0), MASS * np.exp(exact_log_weight()), rtol=1e-7)
    assert float(loss(logits)) == pytest.approx(0, abs=1e-15)


def test_regression_equals_a_loop():
    ratio = torch.tensor([[0.5, -2.0, 1.0], [0.0, 3.0, -1.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, -9.0, 0.5], [-4.0, 1.5, 0.25]], dtype=torch.float64)
    expected = np.mean([((float(ratio[i, j]) - float(target[i, j])) / 6) ** 2 for i in range(2) for j in range(3)])
    assert float(regression(ratio, target, 7)) == pytest.approx(expected, rel=1e-13)


def pools_of(num_samples, prompts=2):
    rewards = np.round(np.random.default_rng(2).normal(size=(prompts, num_samples)), 1)
    own = RewardCDF(rewards.ravel(), [num_samples] * prompts).pool_interval()
    return log_weight(own.cdf_lt, own.cdf_le, N).reshape(prompts, num_samples), rewards


def test_listwise_is_minimised_exactly_at_log_weight():
    target, _ = pools_of(6)
    weights = torch.from_numpy(np.exp(target) / 6)
    ratio = minimised(lambda flat: listwise(flat.view(2, 6), weights), 12).view(2, 6).numpy()
    np.testing.assert_allclose(ratio - ratio.mean(1, keepdims=True), target - target.mean(1, keepdims=True), atol=1e-5)
    at_target = torch.from_numpy(target).requires_grad_()
    listwise(at_target, weights).backward()
    assert float(at_target.grad.abs().max()) < 1e-15


def test_listwise_equals_a_loop():
    ratio = np.array([[0.5, -2.0, 1.0], [0.0, 3.0, -1.0]])
    weights = np.array([[0.2, 0.1, 0.7], [0.5, 0.5, 0.0]])
    rows = [
        -sum(w * math.log(math.exp(r) / sum(np.exp(row))) for w, r in zip(ws, row, strict=True))
        for ws, row in zip(weights, ratio, strict=True)
    ]
    assert float(listwise(torch.from_numpy(ratio), torch.from_numpy(weights))) == pytest.approx(
        np.mean(rows), rel=1e-13
    )


def test_weighted_sft_is_the_expected_cross_entropy_on_the_best_of_n():
    """All-sample weights against every subset of n: same loss, ties shared."""
    rewards, logprobs = [1.0, 3.0, 1.0, 0.0, 3.0], np.array([-2.0, -7.0, -1.5, -3.0, -11.0])
    per_subset = []
    for subset in itertools.combinations(range(5), 3):
        best = max(rewards[i] for i in subset)
        per_subset.append(-np.mean([logprobs[i] for i in subset if rewards[i] == best]))
    weights = torch.from_numpy(tie_averaged_weights(rewards, 3))
    assert float(weighted_sft(torch.from_numpy(logprobs)[None], weights[None])) == pytest.approx(
        np.mean(per_subset), rel=1e-12
    )


def test_weighted_sft_is_minimised_at_best_of_n():
    weights = torch.from_numpy(MASS * np.exp(exact_log_weight()))
    logits = minimised(lambda logits: weighted_sft(logits.log_softmax(0)[None], weights[None]), len(MASS))
    np.testing.assert_allclose(logits.softmax(0), weights, rtol=1e-5)


def test_weighted_sft_is_a_mean_over_prompts():
    logprobs, weights = torch.tensor([[-1.0, -2.0], [-5.0, -3.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert float(weighted_sft(logprobs, weights)) == pytest.approx((1.75 + 5.0) / 2)


def test_dpo_equals_the_logistic_loss():
    best, worst = np.array([1.5, -0.3, 40.0]), np.array([0.2, 2.0, -700.0])
    expected = np.mean(np.log1p(np.exp(-0.3 * (best - worst))))
    assert float(dpo(torch.from_numpy(best), torch.from_numpy(worst), 0.3)) == pytest.approx(expected, rel=1e-13)


def test_dpo_prefers_the_best():
    best, worst = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    dpo(best, worst, 0.4).backward()
    assert (float(best.grad), float(worst.grad)) == pytest.approx((-0.2, 0.2))


@pytest.mark.parametrize("n", [2, 5, 11])
def test_bonbon_margin_is_the_expected_log_ratio_gap_of_best_and_worst(n):
    """(N−1)·E[log F(best) − log F(worst)], by the digammas of Beta(N, 1) and Beta(1, N)."""
    digamma = scipy.special.digamma
    best, worst = digamma(n) - digamma(n + 1), digamma(1) - digamma(n + 1)
    assert bonbon_margin(n) == pytest.approx((n - 1) * (best - worst), rel=1e-12)


def test_bonbon_margin_by_simulation():
    n, draws = 5, 200_000
    u = np.random.default_rng(0).random((draws, n))
    gap = log_weight(u.max(1), u.max(1), n) - log_weight(u.min(1), u.min(1), n)
    assert abs(gap.mean() - bonbon_margin(n)) < 4 * gap.std() / math.sqrt(draws)


def test_ipo_is_minimised_where_the_mean_gap_is_the_margin():
    """One gap shared by all pairs: the minimiser of a squared error is its target."""
    gap = minimised(lambda g: ipo(g, torch.tensor([0.5], dtype=torch.float64), 3.25), 1)
    assert float(gap) - 0.5 == pytest.approx(3.25, rel=1e-9)
    assert float(ipo(torch.tensor([4.0, 0.0]), torch.tensor([1.0, 1.0]), 2.0)) == pytest.approx((1 + 9) / 2)


def test_bonbon_mixes_sft_and_ipo():
    logprobs, best, worst = np.array([-3.0, -8.0]), np.array([2.0, 1.0]), np.array([-1.0, 0.5])
    margin = 3 * (1 + 1 / 2 + 1 / 3)
    expected = 0.2 * 5.5 + 0.8 * np.mean((best - worst - margin) ** 2)
    tensors = [torch.from_numpy(x) for x in (logprobs, best, worst)]
    assert float(bonbon(*tensors, 4, sft_weight=0.2)) == pytest.approx(expected, rel=1e-13)
    default = 0.005 * 5.5 + 0.995 * np.mean((best - worst - margin) ** 2)
    assert float(bonbon(*tensors, 4)) == pytest.approx(default, rel=1e-13)


def test_jeffreys_is_zero_at_best_of_n_only_and_mixes_the_two_directions():
    best = MASS * np.exp(exact_log_weight())
    other = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)

    def divergence(policy, **weight):
        target = torch.from_numpy(best)
        forward = (target * (target / policy).log()).sum()
        return float(jeffreys(forward, (policy * (policy / target).log()).sum(), **weight))

    assert divergence(torch.from_numpy(best)) == pytest.approx(0, abs=1e-14)
    one, two = scipy.special.rel_entr(best, other.numpy()).sum(), scipy.special.rel_entr(other.numpy(), best).sum()
    assert divergence(other) == pytest.approx((one + two) / 2, rel=1e-12)
    assert divergence(other, backward_weight=0.9) == pytest.approx(0.1 * one + 0.9 * two, rel=1e-12)


@pytest.mark.parametrize("n", [1, 0, 2.5, -3, math.nan, math.inf])
def test_bonbon_needs_an_integer_n(n):
    with pytest.raises(ValueError, match="integer"):
        bonbon_margin(n)
