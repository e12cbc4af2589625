"""Predictions against closed forms, exact sums over levels, and brute force over draws."""

from itertools import combinations, product

import numpy as np
import pytest

from vbon.core import best_of_n
from vbon.pool.predict import predict, sample_weights

EXACT = 1e-12  # float64 sums of a few hundred terms


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("num_samples", [8, 33, 250])
def test_without_ties_the_closed_forms_whatever_m_is(num_samples: int, n: int):
    prediction = predict(np.random.default_rng(0).normal(size=num_samples), n)
    assert prediction.win_rate == pytest.approx(best_of_n.win_rate(n), abs=EXACT)
    assert prediction.kl_bon_ref == pytest.approx(best_of_n.kl_from_reference(n), abs=EXACT)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_levels_against_enumeration_of_all_draws(n: int):
    """Three atoms of mass 3/10, 5/10, 2/10: best of N by brute force over all 3^N outcomes."""
    rewards = np.repeat([0.0, 1.0, 5.0], [3, 5, 2])
    mass = np.array([0.3, 0.5, 0.2])
    best = np.zeros(3)
    for draw in product(range(3), repeat=n):
        best[max(draw)] += np.prod(mass[list(draw)])
    below = np.array([0.0, 0.3, 0.8])
    prediction = predict(rewards, n)
    assert prediction.win_rate == pytest.approx(best @ (below + mass / 2), abs=EXACT)
    assert prediction.kl_bon_ref == pytest.approx(best @ np.log(best / mass), abs=EXACT)


def test_reward_against_all_subsets():
    rewards = np.array([0.3, -1.0, 0.3, 2.0, 5.5, -7.0, 2.0])
    for n in range(1, 8):
        expected = np.mean([max(subset) for subset in combinations(rewards, n)])
        assert predict(rewards, n).reward == pytest.approx(expected, abs=1e-10)


def test_one_level_cannot_be_improved():
    prediction = predict(np.ones(10), 4)
    assert tuple(prediction) == pytest.approx((1.0, 0.5, 0.0), abs=EXACT)


@pytest.mark.parametrize("n", [2.5, 40.5])
def test_a_real_n_against_the_quantiles(n: float):
    """Each level of a tied pool keeps its mass b^N − a^N, whatever N is."""
    levels = np.sort(np.random.default_rng(1).normal(size=30))
    weights = sample_weights(np.repeat(levels, 4), n).reshape(30, 4).sum(1)
    expected = np.diff((np.arange(31) / 30) ** n)
    assert weights == pytest.approx(expected, abs=EXACT)
    assert predict(np.repeat(levels, 4), n).reward == pytest.approx(expected @ levels, abs=1e-10)


def test_n_above_m_takes_draws_with_replacement():
    assert sample_weights([3.0, 1.0, 2.0], 5) == pytest.approx(np.diff((np.arange(4) / 3) ** 5)[[2, 0, 1]], abs=EXACT)
