"""Estimators and pools of the lab: against scipy, RewardCDF, and the law of large numbers."""

import numpy as np
import pytest
from scipy import stats

from vbon.core.best_of_n import log_weight
from vbon.core.refined_cdf import RefinedCDF, balance_weights, weighted_interval
from vbon.core.reward_cdf import RewardCDF
from vbon.lab.pools import ESTIMATORS, Counts, beta_posterior, draw_counts, interval, ks_p_value


def test_counts_are_those_of_an_actual_pool(level_truth):
    """Rebuild the pool from the counts' levels; RewardCDF must rank every completion alike."""
    probs, rewards = level_truth.ref_probs[0], level_truth.rewards[0]
    counts = draw_counts(probs, rewards, 50, np.random.default_rng(3))
    levels, first = np.unique(rewards, return_index=True)
    pool = np.repeat(levels, counts.k_eq[first])
    assert len(pool) == 50
    k_lt, k_eq = RewardCDF(pool, [50]).counts(np.zeros(len(rewards), int), rewards)
    np.testing.assert_array_equal(counts.k_lt, k_lt)
    np.testing.assert_array_equal(counts.k_eq, k_eq)


def test_beta_posterior_by_quadrature():
    u = (np.arange(200_000) + 0.5) / 200_000
    density = stats.beta(17 + 1, 40 - 17 + 1).pdf(u)
    expected = np.log(np.mean(density * u**6))
    assert beta_posterior(Counts(np.array([17]), np.array([0]), 40), 7)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["interval", "mid-rank", "beta-posterior"])
def test_estimators_find_the_truth_in_a_large_pool(truth, name):
    """Up to their own bias between the forms, which vanishes where no completion carries mass; N = 2 has none."""
    counts = draw_counts(truth.ref_probs[0], truth.rewards[0], 10**8, np.random.default_rng(0))
    error = ESTIMATORS[name](counts, 2) - truth.log_weight(2)[0]
    spread = truth.ref_probs[0] @ (error - truth.ref_probs[0] @ error) ** 2
    assert spread < 1e-6


@pytest.mark.parametrize(("size", "shift"), [(50, 0.0), (200, 0.15), (400, 0.3)])
def test_ks_equals_scipy(size, shift):
    random = np.random.default_rng(size)
    a, b = random.normal(size=size), random.normal(shift, size=3000)
    # scipy's asymptotic form uses another effective size; the statistic is the same and p within a tenth
    expected = stats.kstwobign.sf(stats.ks_2samp(a, b).statistic * np.sqrt(size * 3000 / (size + 3000)))
    assert ks_p_value(a, b) == pytest.approx(expected, abs=1e-9)


def test_balance_weights_make_policy_samples_stand_for_the_reference(truth):
    """E_mixture[weight·f] = E_ref[f], exactly, for any f."""
    ref, policy = truth.ref_probs[0], np.exp(truth.log_bon(8)[0])
    m, k = 30, 70
    mixture = (m * ref + k * policy) / (m + k)
    weights = balance_weights(np.log(policy) - np.log(ref), m, k)
    np.testing.assert_allclose(mixture * weights, ref, atol=1e-15)
    assert weights.max() <= (m + k) / m


def test_refined_tail_is_closer_than_the_pool_alone(truth):
    """Above 1 − 1/M the pool knows nothing; a thousand samples of best-of-64 do."""
    random, ref = np.random.default_rng(5), truth.ref_probs[0]
    rewards, log_bon = truth.rewards[0], truth.log_bon(64)[0]
    pool, drawn = random.choice(40, 20, p=ref), random.choice(40, 1000, p=np.exp(log_bon))
    cdf = RefinedCDF(RewardCDF(rewards[pool], [20]), 1000)
    cdf.refresh(0, (log_bon - np.log(ref))[pool])
    cdf.add(np.zeros(1000), rewards[drawn], (log_bon - np.log(ref))[drawn])
    top = rewards > np.quantile(rewards, 0.8)
    index = np.zeros(40, int)
    k_lt, k_eq = RewardCDF(rewards[pool], [20]).counts(index, rewards)
    weights = np.exp(log_bon) * top

    def error(log_weight):
        gap = log_weight - truth.log_weight(64)[0]
        return float(weights @ (gap - weights @ gap / weights.sum()) ** 2)

    found = cdf.interval(index, rewards)
    assert error(log_weight(found.cdf_lt, found.cdf_le, 64)) < error(interval(Counts(k_lt, k_eq, 20), 64)) / 2


def test_equal_weights_rank_as_reward_cdf():
    """Without policy samples the refined interval is the pool's own rule."""
    rewards = np.array([0.5, 2.0, 1.0, 1.0, 3.0])
    at = np.array([0.0, 0.7, 1.0, 2.5, 9.0])
    expected = RewardCDF(rewards, [5]).interval(np.zeros(5, int), at)
    lower, upper = weighted_interval(rewards, np.ones(5), at)
    np.testing.assert_allclose(lower, expected.cdf_lt, atol=1e-12)
    np.testing.assert_allclose(upper, expected.cdf_le, atol=1e-12)
