"""Counts against loops; the counting rule against enumeration; what the interval buys over one number."""

import bisect
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.core.best_of_n import log_weight
from vbon.core.reward_cdf import RewardCDF

few_rewards = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0, math.inf, -math.inf])
ragged_pools = st.lists(st.lists(few_rewards, min_size=1, max_size=6), min_size=1, max_size=4)
keyed_pools = st.lists(
    st.lists(st.tuples(few_rewards, st.integers(-3, 3)), min_size=1, max_size=6), min_size=1, max_size=4
)


def flat(pools):
    return [r for pool in pools for r in pool], [len(pool) for pool in pools]


@given(ragged_pools, st.lists(st.one_of(few_rewards, st.floats(-3, 4)), min_size=1, max_size=5))
def test_counts_equal_loops(pools, rewards):
    cdf = RewardCDF(*flat(pools))
    for index, pool in enumerate(pools):
        k_lt, k_eq = cdf.counts([index] * len(rewards), rewards)
        assert k_lt.tolist() == [sum(s < r for s in pool) for r in rewards]
        assert k_eq.tolist() == [sum(s == r for s in pool) for r in rewards]


@given(keyed_pools, st.lists(st.tuples(st.one_of(few_rewards, st.floats(-3, 4)), st.integers(-4, 4)), min_size=1))
def test_counts_in_the_total_order_equal_loops_over_pairs(pools, queries):
    pairs, sizes = flat(pools)
    cdf = RewardCDF([r for r, _ in pairs], sizes, [k for _, k in pairs])
    rewards, keys = [r for r, _ in queries], [k for _, k in queries]
    for index, pool in enumerate(pools):
        k_lt, k_eq = cdf.counts([index] * len(queries), rewards, keys)
        assert k_lt.tolist() == [sum(s < q for s in pool) for q in queries]
        assert k_eq.tolist() == [sum(s == q for s in pool) for q in queries]


@given(ragged_pools)
def test_order_makes_rewards_one_to_one(pools):
    rewards, sizes = flat(pools)
    keys = list(range(len(rewards)))[::-1]
    interval = RewardCDF(rewards, sizes, keys).pool_interval()
    widths = interval.cdf_le - interval.cdf_lt
    np.testing.assert_allclose(widths, interval.sample_mass, rtol=1e-12)  # each alone on its level
    start = 0
    for pool in pools:
        ranked = sorted(zip(pool, keys[start:], strict=False))
        ranks = [bisect.bisect_left(ranked, pair) for pair in zip(pool, keys[start:], strict=False)]
        assert interval.cdf_lt[start : start + len(pool)].tolist() == [rank / len(pool) for rank in ranks]
        start += len(pool)


def test_fresh_and_pool_completions_follow_one_rule():
    """a = k_</(m+1), b = (k_< + k_= + 1)/(m+1) among the m other draws."""
    pools = [[1.0, 4.0, 4.0, 0.0], [4.0, 4.0], [7.0]]
    cdf = RewardCDF(*flat(pools))
    fresh = cdf.interval([0, 1, 2, 0], [4.0, 4.0, 6.0, 2.0])
    np.testing.assert_array_equal(fresh.cdf_lt, [2 / 5, 0 / 3, 0 / 2, 2 / 5])
    np.testing.assert_array_equal(fresh.cdf_le, [5 / 5, 3 / 3, 1 / 2, 3 / 5])
    np.testing.assert_array_equal(fresh.sample_mass, [1 / 5, 1 / 3, 1 / 2, 1 / 5])
    own = cdf.pool_interval()
    start = 0
    for pool in pools:
        for i, reward in enumerate(pool):
            others = pool[:i] + pool[i + 1 :]
            below, tied = sum(r < reward for r in others), sum(r == reward for r in others)
            assert own.cdf_lt[start + i] == below / (len(others) + 1)
            assert own.cdf_le[start + i] == (below + tied + 1) / (len(others) + 1)
        start += len(pool)


@given(ragged_pools)
def test_a_pool_member_is_fresh_to_the_pool_without_it(pools):
    rewards, sizes = flat([*pools, [0.0, 3.0, 3.0]])
    own = RewardCDF(rewards, sizes).pool_interval()
    fresh = RewardCDF([0.0, 3.0], [2]).interval([0], [3.0])
    assert (own.cdf_lt[-1], own.cdf_le[-1], own.sample_mass[-1]) == (fresh.cdf_lt, fresh.cdf_le, fresh.sample_mass)


@pytest.mark.parametrize("n", [1, 2, 3.5, 40])
def test_reference_mean_of_the_estimated_weight_is_one(n):
    """Every pool of 4 and every fresh completion, with ties, weighted by its exact probability."""
    mass, rewards = [Fraction(1, 2), Fraction(1, 8), Fraction(3, 8)], [1.0, 0.0, 1.0]
    outcomes = list(itertools.product(range(3), repeat=5))
    probability = np.array([float(math.prod(mass[y] for y in draws)) for draws in outcomes])
    table = np.array(rewards)[np.array(outcomes)]
    cdf = RewardCDF(table[:, :4].ravel(), [4] * len(outcomes))
    fresh = cdf.interval(np.arange(len(outcomes)), table[:, 4])
    assert probability @ np.exp(log_weight(fresh.cdf_lt, fresh.cdf_le, n)) == pytest.approx(1, abs=1e-12)


@given(ragged_pools, st.floats(1, 300))
def test_mean_weight_over_one_pool_is_one(pools, n):
    own = RewardCDF(*flat(pools)).pool_interval()
    weights = np.split(np.exp(log_weight(own.cdf_lt, own.cdf_le, n)), np.cumsum([len(p) for p in pools])[:-1])
    assert [w.mean() for w in weights] == pytest.approx([1.0] * len(pools), abs=1e-11)


@pytest.mark.parametrize(("num_samples", "expected"), [(8, -0.775), (32, -0.919), (100, -0.968), (300, -0.988)])
def test_plug_in_mean_log_cdf(num_samples, expected):
    """The mean of log (k+1)/(M+1) over a tie-free pool in which each is ranked among M others."""
    rewards = np.random.default_rng(num_samples).normal(size=num_samples + 1)
    interval = RewardCDF(rewards, [num_samples + 1]).pool_interval()
    mean = np.log(interval.cdf_lt + interval.sample_mass).mean()
    stirling_free = (math.lgamma(num_samples + 2) - (num_samples + 1) * math.log(num_samples + 1)) / (num_samples + 1)
    assert mean == pytest.approx(stirling_free, rel=1e-12)
    assert mean == pytest.approx(expected, abs=6e-4)


MONOTONE = [lambda r: 1000 * r - 7, np.exp, lambda r: r**3 + r]


@pytest.mark.parametrize("transform", MONOTONE)
def test_increasing_maps_change_no_bit(transform):
    rng = np.random.default_rng(5)
    pool, fresh = np.round(rng.normal(size=400), 2), np.round(rng.normal(size=60), 2)
    both = np.unique(np.concatenate([pool, fresh]))
    assert len(np.unique(transform(both))) == len(both)  # injective in float64, so the comparison is fair
    sizes, index = [150, 50, 200], rng.integers(0, 3, 60)
    before = RewardCDF(pool, sizes).interval(index, fresh)
    after = RewardCDF(transform(pool), sizes).interval(index, transform(fresh))
    for x, y in zip(before, after, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize(
    "call",
    [
        lambda: RewardCDF([1.0, 2.0], [1]),
        lambda: RewardCDF([1.0, 2.0], [2, 0]),
        lambda: RewardCDF([1.0, math.nan], [2]),
        lambda: RewardCDF([1.0, 2.0], [2], [7]),
        lambda: RewardCDF([1.0], [1]).counts([0], [math.nan]),
        lambda: RewardCDF([1.0], [1]).counts([1], [0.5]),
        lambda: RewardCDF([1.0], [1]).counts([-1], [0.5]),
        lambda: RewardCDF([1.0], [1]).counts([0], [0.5], [1]),
        lambda: RewardCDF([1.0], [1], [4]).counts([0], [0.5]),
    ],
)
def test_bad_input_raises(call):
    with pytest.raises(ValueError):
        call()


def zipf_policy(exponent, size=3000):
    """π_ref in ascending order of one-to-one rewards, shuffled except that the heaviest completion is the best."""
    mass = 1 / np.arange(1, size + 1) ** exponent
    mass[1:] = np.random.default_rng(0).permutation(mass[1:])
    return mass[::-1] / mass.sum()


def kl_of_tilted(mass, log_estimate, log_exact):
    """KL(π̂_bon‖π_bon), π̂_bon ∝ π_ref·Ŵ."""
    log_tilted = np.log(mass) + log_estimate
    log_tilted -= np.logaddexp.reduce(log_tilted)
    return np.exp(log_tilted) @ (log_tilted - np.log(mass) - log_exact)


def mean_kl_of_estimates(mass, n, num_samples):
    """(published one-sided estimate, interval): mean KL(π̂_bon‖π_bon) over 20 pools."""
    edges = np.minimum(np.concatenate([[0], np.cumsum(mass)]), 1)
    exact = log_weight(edges[:-1], edges[1:], n)
    pools = np.random.default_rng(7).choice(len(mass), (20, num_samples), p=mass)
    everything = np.tile(np.arange(len(mass)), (20, 1))
    index = np.repeat(np.arange(20), len(mass))
    estimate = RewardCDF(pools.ravel(), [num_samples] * 20).interval(index, everything.ravel())
    published = ((n - 1) * np.log(estimate.cdf_lt + estimate.sample_mass)).reshape(20, -1)
    interval = log_weight(estimate.cdf_lt, estimate.cdf_le, n).reshape(20, -1)
    return [np.mean([kl_of_tilted(mass, row, exact) for row in rows]) for rows in (published, interval)]


# The magnitudes of the method's table, whose policy is another: interval .0471 .0062 .0017 .0076 (N, M as here).
@pytest.mark.parametrize(("n", "num_samples", "gain"), [(8, 32, 1.5), (8, 250, 3), (8, 1000, 8), (32, 250, 10)])
def test_interval_beats_one_number_where_the_best_completion_carries_mass(n, num_samples, gain):
    mass = zipf_policy(1.0)
    assert -mass @ np.log(mass) > 5.5  # nats: still thousands of completions
    one_sided, interval = mean_kl_of_estimates(mass, n, num_samples)
    assert interval < one_sided / gain
    assert 0 < interval < n / (2 * num_samples)


def test_interval_equals_one_number_where_no_completion_carries_mass():
    one_sided, interval = mean_kl_of_estimates(zipf_policy(0.1), 8, 250)
    assert interval == pytest.approx(one_sided, rel=0.05)
