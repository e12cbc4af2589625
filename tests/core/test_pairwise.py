"""Ranks from comparisons: the mean weight by enumeration and simulation, with and without cycles; cycles by loops."""

import itertools
import math

import numpy as np
import pytest

from vbon.core.best_of_n import log_weight
from vbon.core.pairwise import count_cycles, win_interval

MASS = np.array([0.4, 0.3, 0.2, 0.1])
ORDER = np.array([[0, 1, 0, 1], [-1, 0, -1, 1], [0, 1, 0, 1], [-1, -1, -1, 0]])  # levels 2, 1, 2, 0: with a tie
CIRCLE = np.array([[0, 1, -1, 1], [-1, 0, 1, 1], [1, -1, 0, 1], [-1, -1, -1, 0]])  # three that beat each other


def mean_weight(preference, num_opponents: int, n: float) -> float:
    """E_ref[W] by enumeration of the completion and its opponents."""
    total = 0.0
    for own, *others in itertools.product(range(4), repeat=num_opponents + 1):
        met = preference[own, others]
        interval = win_interval((met > 0).sum(), (met == 0).sum(), num_opponents)
        total += MASS[own] * math.prod(MASS[others]) * np.exp(log_weight(interval.cdf_lt, interval.cdf_le, n))
    return total


@pytest.mark.parametrize("n", [2.0, 3.5, 8.0])
@pytest.mark.parametrize("num_opponents", [1, 2, 5])
def test_reference_mean_is_one_for_every_number_of_opponents(num_opponents, n):
    assert mean_weight(ORDER, num_opponents, n) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("num_opponents", [2, 5])
def test_cycles_lower_it_but_not_at_two(num_opponents):
    assert mean_weight(CIRCLE, num_opponents, 2.0) == pytest.approx(1, abs=1e-12)
    assert mean_weight(CIRCLE, num_opponents, 8.0) < 0.999


def test_opponents_drawn_from_a_pool_by_the_completion_itself_keep_the_mean():
    """8 of 20 pool samples, chosen by a hash of the completion: simulated, within 4 standard errors."""
    rng, weights = np.random.default_rng(3), []
    for _ in range(20_000):
        pool, own = rng.random(20), rng.random()
        chosen = np.random.default_rng(int(own * 2**40)).permutation(20)[:8]
        interval = win_interval((own > pool[chosen]).sum(), 0, 8)
        weights.append(float(np.exp(log_weight(interval.cdf_lt, interval.cdf_le, 6.0))))
    assert abs(np.mean(weights) - 1) < 4 * np.std(weights) / np.sqrt(len(weights))


def test_cycles_are_counted_as_by_loops():
    upper = np.triu(np.random.default_rng(5).integers(-1, 2, (9, 9)), 1)
    preference = upper - upper.T
    cycles = triples = 0
    for a, b, c in itertools.combinations(range(9), 3):
        met = (preference[a, b], preference[b, c], preference[c, a])
        triples += 0 not in met
        cycles += met in ((1, 1, 1), (-1, -1, -1))
    assert count_cycles(preference) == (cycles, triples) and 0 < cycles < triples


def test_more_wins_than_opponents_are_refused():
    with pytest.raises(ValueError, match="num_opponents"):
        win_interval([3], [2], [4])
