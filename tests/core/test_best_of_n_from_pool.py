"""Best-of-N from one pool of M samples: all subsets, all pools, scipy's beta-binomial, simulation."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from vbon.core import best_of_n


def best_of_subsets(values, rewards, n):
    """Mean value of the best of n drawn without replacement, ties uniform: all subsets, exactly."""
    means = []
    for subset in itertools.combinations(range(len(rewards)), n):
        best = max(rewards[i] for i in subset)
        winners = [values[i] for i in subset if rewards[i] == best]
        means.append(sum(winners) / Fraction(len(winners)))
    return sum(means) / len(means)


@pytest.mark.parametrize(("num_samples", "n"), [(6, 1), (6, 2), (6, 6), (41, 7)])
def test_order_statistic_weights_are_binomial_ratios(num_samples, n):
    expected = [Fraction(math.comb(k - 1, n - 1), math.comb(num_samples, n)) for k in range(1, num_samples + 1)]
    np.testing.assert_allclose(
        best_of_n.order_statistic_weights(num_samples, n), [float(p) for p in expected], rtol=1e-11
    )


def test_order_statistic_weights_of_a_large_pool_sum_to_one():
    assert best_of_n.order_statistic_weights(50_000, 64).sum() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_expectation_equals_all_subsets(n):
    rewards, values = [1, 4, 1, 0, 4, 4, 2], [3, -5, 2, 11, 8, 1, 0]
    assert best_of_n.expectation(values, rewards, n) == pytest.approx(
        float(best_of_subsets(values, rewards, n)), rel=1e-12
    )


def bon_by_enumeration(mass, rewards, n):
    """P(best of n = y): all n-tuples of draws, one of the best drawn chosen uniformly."""
    probability = [Fraction(0)] * len(mass)
    for draws in itertools.product(range(len(mass)), repeat=n):
        best = max(rewards[y] for y in draws)
        winners = [y for y in draws if rewards[y] == best]
        for y in winners:
            probability[y] += math.prod(mass[y] for y in draws) / len(winners)
    return probability


def test_expectation_is_unbiased_over_all_pools():
    """Mean over every pool of M draws of the estimate = exact expectation under BoN."""
    mass, rewards, values, n = [Fraction(1, 2), Fraction(1, 8), Fraction(3, 8)], [1, 2, 1], [5.0, -2.0, 11.0], 3
    mean = 0.0
    for pool in itertools.product(range(3), repeat=5):
        estimate = best_of_n.expectation([values[y] for y in pool], [rewards[y] for y in pool], n)
        mean += float(math.prod(mass[y] for y in pool)) * estimate
    exact = float(sum(q * Fraction(v) for q, v in zip(bon_by_enumeration(mass, rewards, n), values, strict=True)))
    assert mean == pytest.approx(exact, rel=1e-12)


def test_tie_averaged_weights_keep_the_order_of_the_samples():
    weights = best_of_n.tie_averaged_weights([5, 0, 5, 2], 2)
    np.testing.assert_allclose(weights, [5 / 12, 0, 5 / 12, 1 / 6], rtol=1e-12)


@pytest.mark.parametrize(("n", "num_samples", "floor"), [(8, 64, 0.053), (11, 200, 0.025), (64, 200, 0.153)])
def test_kl_floor_printed_values(n, num_samples, floor):
    assert best_of_n.kl_floor(num_samples, n) == pytest.approx(floor, abs=6e-4)


@pytest.mark.parametrize(("n", "num_samples"), [(1.5, 3), (4, 20), (8, 64)])
def test_kl_floor_by_scipy_betabinom(n, num_samples):
    k = np.arange(num_samples + 1)
    weight = ((k + 1.0) ** n - k**n) / (num_samples + 1) ** (n - 1)
    estimate = scipy.stats.betabinom(num_samples, n, 1).pmf(k) @ np.log(weight)
    assert best_of_n.kl_floor(num_samples, n) == pytest.approx(math.log(n) - (n - 1) / n - estimate, abs=1e-10)


def test_kl_floor_by_simulation():
    n, num_samples, draws = 6, 40, 400_000
    rng = np.random.default_rng(3)
    u = rng.beta(n, 1, draws)
    k = rng.binomial(num_samples, u)
    gap = best_of_n.log_weight(u, u, n) - best_of_n.log_weight(k / (num_samples + 1), (k + 1) / (num_samples + 1), n)
    assert abs(gap.mean() - best_of_n.kl_floor(num_samples, n)) < 4 * gap.std() / math.sqrt(draws)
