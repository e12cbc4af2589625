"""Combined ranks against loops over exact fractions; the mean weight by enumeration; invariance to scales."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from vbon.core.best_of_n import log_weight
from vbon.core.rank_combination import COMBINE, RankCombination
from vbon.core.reward_cdf import RewardCDF

WAYS = list(COMBINE)
few = st.sampled_from([-1.0, 0.0, 0.5, 3.0])
pools_of_three = st.lists(st.lists(st.tuples(few, few, few), min_size=1, max_size=5), min_size=1, max_size=3)


def keys_of(rows, how):
    """What the combined order of these completions compares, from scipy's mid-ranks."""
    ranks = [[Fraction(rank) for rank in rankdata(column)] for column in zip(*rows, strict=True)]
    per_row = list(zip(*ranks, strict=True))
    return [{"mean": sum, "worst": min, "lexicographic": tuple}[how](row) for row in per_row]


@pytest.mark.parametrize("how", WAYS)
@given(pools_of_three, st.lists(st.tuples(few, few, few), min_size=1, max_size=4))
def test_counts_equal_a_ranking_of_all_completions_together(how, pools, queries):
    cdf = RankCombination([row for pool in pools for row in pool], [len(pool) for pool in pools], how)
    shares = np.split(cdf.rewards, cdf.offsets[1:-1])
    for index, pool in enumerate(pools):
        k_lt, k_eq = cdf.counts([index] * len(queries), queries)
        for row, query in enumerate(queries):
            *samples, own = keys_of([*pool, query], how)
            assert (k_lt[row], k_eq[row]) == (sum(s < own for s in samples), sum(s == own for s in samples))
        levels = keys_of(pool, how)
        middles = [(sum(s < own for s in levels) + sum(s == own for s in levels) / 2) / len(pool) for own in levels]
        np.testing.assert_allclose(shares[index], middles, atol=1e-15)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("n", [1, 2, 3.5, 40])
def test_reference_mean_of_the_estimated_weight_is_one(how, n):
    """Every pool of 4 and fresh completion of a reference of 3 completions, with two rewards that disagree and tie."""
    mass, rewards = [Fraction(1, 2), Fraction(1, 8), Fraction(3, 8)], np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    outcomes = list(itertools.product(range(3), repeat=5))
    probability = np.array([float(math.prod(mass[y] for y in draws)) for draws in outcomes])
    table = rewards[np.array(outcomes)]
    cdf = RankCombination(table[:, :4].reshape(-1, 2), [4] * len(outcomes), how)
    fresh = cdf.interval(np.arange(len(outcomes)), table[:, 4])
    assert probability @ np.exp(log_weight(fresh.cdf_lt, fresh.cdf_le, n)) == pytest.approx(1, abs=1e-12)


def test_placing_the_completion_into_the_pools_own_order_does_not_keep_the_mean():
    """Why the samples are ranked anew with every completion: the obvious shortcut is biased."""
    mass, rewards = [0.5, 0.125, 0.375], np.array([[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]])
    total = 0.0
    for draws in itertools.product(range(3), repeat=4):
        pool, own = rewards[list(draws[:3])], rewards[draws[3]]
        # mid-ranks among the M samples alone, and the completion's own in the same units
        score = (2 * (pool[None] < pool[:, None]).sum(1) + (pool[None] == pool[:, None]).sum(1) - 1).sum(1)
        mine = (2 * (pool < own).sum(0) + (pool == own).sum(0)).sum()
        interval = RewardCDF(score, [3]).interval([0], [mine])
        total += math.prod(mass[y] for y in draws) * np.exp(log_weight(interval.cdf_lt, interval.cdf_le, 8.0))[0]
    assert abs(total - 1) > 0.01


@pytest.mark.parametrize("how", WAYS)
@given(pools_of_three, st.floats(1, 300))
def test_mean_weight_over_one_pool_is_one(how, pools, n):
    cdf = RankCombination([row for pool in pools for row in pool], [len(pool) for pool in pools], how)
    own = cdf.pool_interval()
    weights = np.split(np.exp(log_weight(own.cdf_lt, own.cdf_le, n)), cdf.offsets[1:-1])
    assert [w.mean() for w in weights] == pytest.approx([1.0] * len(pools), abs=1e-11)


@pytest.mark.parametrize("how", WAYS)
def test_scales_of_rewards_change_nothing_which_a_weighted_sum_cannot_say(how):
    rng = np.random.default_rng(4)
    pool, fresh, index = rng.normal(size=(60, 2)), rng.normal(size=(20, 2)), np.arange(20) % 2
    before = RankCombination(pool, [40, 20], how)
    for change in (np.array([1000.0, 1.0]), np.array([1.0, 1e-3])):
        after = RankCombination(pool * change, [40, 20], how)
        np.testing.assert_array_equal(after.interval(index, fresh * change), before.interval(index, fresh))
        np.testing.assert_array_equal(after.rewards, before.rewards)
        summed = [RewardCDF((pool * c).sum(1), [40, 20]).counts(index, (fresh * c).sum(1))[0] for c in (1, change)]
        assert (summed[0] != summed[1]).any()


def test_one_reward_alone_is_that_reward():
    rng = np.random.default_rng(5)
    pool, fresh, index = rng.integers(0, 4, 30) * 1.0, rng.integers(0, 5, 12) * 1.0, np.arange(12) % 2
    plain = RewardCDF(pool, [10, 20])
    for how in WAYS:
        combined = RankCombination(pool[:, None], [10, 20], how)
        np.testing.assert_array_equal(combined.interval(index, fresh[:, None]), plain.interval(index, fresh))
        np.testing.assert_array_equal(combined.pool_interval(), plain.pool_interval())


def test_tie_keys_and_unknown_combinations_are_refused():
    with pytest.raises(ValueError, match="one of mean, worst, lexicographic"):
        RankCombination([[1.0]], [1], "sum")
    with pytest.raises(ValueError, match="tie_keys"):
        RankCombination([[1.0]], [1], "mean").counts([0], [[1.0]], [3])
