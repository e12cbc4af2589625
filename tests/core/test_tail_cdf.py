"""The tail against rewards whose CDF is known, and against the counts where it must not speak."""

import numpy as np
import pytest
from scipy import stats

from vbon.core import rank_tilts
from vbon.core.best_of_n import log_weight
from vbon.core.rank_tilts import RankTilt
from vbon.core.reward_cdf import RewardCDF
from vbon.core.tail_cdf import TailCDF, kl_floor, tail_cdf, tail_mean, tail_size

EDGES = np.unique(1 - np.concatenate([np.linspace(1, 1e-2, 2000), np.geomspace(1e-2, 1e-7, 4000)]))
MIDDLE, MASS = (EDGES[1:] + EDGES[:-1]) / 2, np.diff(EDGES)


def kl_of_target(cdf, law, n: int) -> float:
    """KL(π̂_bon‖π_bon) over quantiles of a law, the estimate normalised."""
    found = cdf.interval(np.zeros(len(MIDDLE), int), law.ppf(MIDDLE))
    q = MASS * np.exp(log_weight(found.cdf_lt, found.cdf_le, n))
    q, log_p = q / q.sum(), np.log(MASS * n) + (n - 1) * np.log(MIDDLE)
    return float(np.sum(np.where(q > 0, q * (np.log(np.maximum(q, 1e-300)) - log_p), 0)))


@pytest.mark.parametrize(
    ("law", "m", "n", "gain"),
    [(stats.norm, 32, 128, 0.5), (stats.t(4), 32, 128, 0.5), (stats.norm, 200, 1000, 0.5), (stats.norm, 64, 8, 1.0)],
    ids=["normal", "student", "large", "small-n"],
)
def test_the_target_is_nearer_where_n_is_near_m(law, m, n, gain):
    rng = np.random.default_rng(0)
    pools = [RewardCDF(law.ppf(rng.random(m)), [m]) for _ in range(30)]
    counts, tail = (np.mean([kl_of_target(make(pool), law, n) for pool in pools]) for make in (lambda p: p, TailCDF))
    assert tail < gain * counts


def test_a_bounded_reward_loses_little():
    rng = np.random.default_rng(1)
    pools = [RewardCDF(rng.random(64), [64]) for _ in range(30)]
    counts, tail = (
        np.mean([kl_of_target(make(pool), stats.uniform, 64) for pool in pools]) for make in (lambda p: p, TailCDF)
    )
    assert counts < tail < counts + 0.15  # 0.29 after 0.18 nats: the price of the assumption where it is wrong


def test_the_formula_by_hand():
    largest = np.array([1.0, 2.0, 4.0])  # threshold 1, k = 2, mean excess 2
    np.testing.assert_allclose(tail_cdf(largest, np.array([1.0, 3.0]), 9), [1 - 0.25, 1 - 0.25 * np.exp(-1)])
    assert tail_size([1, 4, 200]).tolist() == [0, 2, 14]
    far = tail_cdf(largest, np.array([1e6]), 9)
    assert far < 1 and np.isfinite(rank_tilts.log_weight(far, far, RankTilt("kth", 8, 3)))


def test_an_affine_map_of_the_reward_changes_nothing():
    rng = np.random.default_rng(2)
    rewards, fresh = rng.normal(size=100), rng.normal(size=50) * 2
    index = np.array([0] * 25 + [1] * 25)
    first = TailCDF(RewardCDF(rewards, [60, 40]))
    second = TailCDF(RewardCDF(rewards * 4 - 8, [60, 40]))  # exact in binary
    for one, other in (
        (first.interval(index, fresh), second.interval(index, fresh * 4 - 8)),
        (first.pool_interval(), second.pool_interval()),
    ):
        np.testing.assert_allclose(one.cdf_le, other.cdf_le, rtol=1e-12)


def test_below_the_threshold_and_among_ties_the_counts_decide():
    rewards = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 9, 9])
    pool, tail = RewardCDF(rewards, [10]), TailCDF(RewardCDF(rewards, [10]))
    at = np.array([-1.0, 3.0, 3.5, 9.0])  # k = 3: the threshold is 6
    for one, other in zip(tail.interval(np.zeros(4, int), at), pool.interval(np.zeros(4, int), at), strict=True):
        np.testing.assert_array_equal(one, other)
    above = tail.interval([0, 0], [8.0, 12.0])
    assert (above.cdf_lt == above.cdf_le).all()
    assert above.cdf_le[1] > 1 - 1 / 11  # beyond what eleven draws resolve


def test_a_completion_of_the_pool_is_ranked_among_the_others():
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=40)
    own = TailCDF(RewardCDF(rewards, [40])).pool_interval()
    for row in range(40):
        others = TailCDF(RewardCDF(np.delete(rewards, row), [39]))
        alone = others.interval([0], rewards[row : row + 1])
        assert own.cdf_lt[row] == pytest.approx(alone.cdf_lt[0], rel=1e-12)
        assert own.cdf_le[row] == pytest.approx(alone.cdf_le[0], rel=1e-12)


@pytest.mark.parametrize("rewards", [[1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0]])
def test_pools_without_a_tail_keep_the_counts(rewards):
    pool = RewardCDF(rewards, [len(rewards)])
    for one, other in zip(TailCDF(pool).pool_interval(), pool.pool_interval(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(TailCDF(pool).interval([0], [5.0]), pool.interval([0], [5.0]), strict=True):
        assert np.isfinite(one).all() and (np.diff(rewards).any() or (one == other).all())


def by_numerical_integration(ordered, n: int) -> float:
    """The mean of the largest of N from the law that the tail describes, by quantiles."""
    k = int(tail_size(len(ordered)))
    p, threshold = (k + 0.5) / (len(ordered) + 1), ordered[-k - 1]
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    u = u ** (1 / n)
    body = ordered[np.minimum((u / (1 - p) * (len(ordered) - k)).astype(int), len(ordered) - k - 1)]
    above = threshold + np.mean(ordered[-k:] - threshold) * np.log(p / (1 - u))
    return float(np.where(u < 1 - p, body, above).mean())


@pytest.mark.parametrize("n", [1, 5, 40, 400])
def test_the_mean_of_best_of_n_is_that_of_the_law_with_the_tail(n: int):
    ordered = np.sort(np.random.default_rng(4).normal(size=50))
    assert tail_mean(ordered[::-1], n) == pytest.approx(by_numerical_integration(ordered, n), abs=2e-4)


def test_the_mean_is_right_where_the_tail_is_exponential():
    found = [tail_mean(row, 128) for row in np.random.default_rng(5).exponential(size=(3000, 32))]
    exact = np.sum(1 / np.arange(1, 129))
    assert abs(np.mean(found) - exact) < 3 * np.std(found) / np.sqrt(len(found))  # 5.43; the pool's own largest: 4.06


@pytest.mark.parametrize("rewards", [[1.0], [0.0, 1.0, 1.0, 1.0], np.repeat([0.0, 1.0], 16)])
def test_without_a_tail_there_is_no_mean(rewards):
    assert np.isnan(tail_mean(rewards, 100))


@pytest.mark.parametrize("tilt", [RankTilt("best", 8), RankTilt("kth", 8, 2), RankTilt("poisson", 8)])
def test_the_floor_of_the_tail_is_what_the_estimate_reads_at_the_target(tilt):
    """At draws u of the tilt on an even grid, ranked in pools of 40 exponential rewards."""
    rng, readings = np.random.default_rng(6), []
    grid = (np.arange(20_000) + 0.5) / 20_000
    density = np.exp(rank_tilts.log_weight(grid, grid, tilt))
    for _ in range(300):
        u = rng.choice(grid, 50, p=density / density.sum())
        found = TailCDF(RewardCDF(rng.exponential(size=40), [40])).interval(np.zeros(50, int), -np.log(1 - u))
        readings.append(rank_tilts.log_weight(u, u, tilt) - rank_tilts.log_weight(found.cdf_lt, found.cdf_le, tilt))
    error = np.std([one.mean() for one in readings]) / np.sqrt(300)
    assert kl_floor(40, tilt, "exponential") == pytest.approx(np.mean(readings), abs=5 * error)
    assert kl_floor(40, tilt) == rank_tilts.kl_floor(40, tilt)
