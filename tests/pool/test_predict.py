"""Predictions against closed forms, exact sums over levels, and brute force over draws."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import gamma, gammaln

from vbon.core import best_of_n, rank_tilts
from vbon.core.rank_tilts import RankTilt, kl_floor, log_weight, parse
from vbon.pool.predict import predict, sample_weights

EXACT = 1e-12  # float64 sums of a few hundred terms


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("num_samples", [8, 33, 250])
def test_without_ties_the_closed_forms_whatever_m_is(num_samples: int, n: int):
    prediction = predict(np.random.default_rng(0).normal(size=num_samples), n)
    assert prediction.win_rate == pytest.approx(best_of_n.win_rate(n), abs=EXACT)
    assert prediction.kl_bon_ref == pytest.approx(best_of_n.kl_from_reference(n), abs=EXACT)


SMALL = [(2, 3), (1, 2, 2), (3, 1, 1), (2, 1, 2), (5,)]
"""Numbers of samples of each reward level."""


@pytest.mark.parametrize("counts", SMALL)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_win_rate_against_all_sets_of_n_and_an_opponent(counts, n: int):
    rewards = np.repeat(np.arange(len(counts)), counts)
    wins = [
        (max(rewards[list(best)]) > rewards[one]) + (max(rewards[list(best)]) == rewards[one]) / 2
        for one in range(len(rewards))
        for best in combinations([i for i in range(len(rewards)) if i != one], n)
    ]
    assert predict(rewards, n).win_rate == pytest.approx(np.mean(wins), abs=EXACT)


@pytest.mark.parametrize("counts", [(2, 3), (4, 2, 2), (3, 3, 4, 2)])
@pytest.mark.parametrize("n", [2, 3.5, 7])
def test_the_kl_is_the_jackknife_of_the_exact_sum_over_levels(counts, n: float):
    """Levels of two samples or more are atoms, also with one of their samples left out."""
    counts = np.array(counts)
    exact = [best_of_n.kl_from_levels((counts - one) / (counts.sum() - 1), n) for one in np.eye(len(counts))]
    expected = counts.sum() * best_of_n.kl_from_levels(counts / counts.sum(), n)
    expected -= (counts.sum() - 1) * (counts @ exact) / counts.sum()
    assert predict(np.repeat(np.arange(len(counts)), counts), n).kl_bon_ref == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
@pytest.mark.parametrize(("num_samples", "n"), [(64, 4), (64, 16), (256, 16), (256, 64)])
def test_verifiers_are_predicted_without_bias(rate, num_samples, n):
    """A pass rate of 2 % and M = 64, N = 16 read .613 for a win rate of .628 without the correction."""
    mass, draws = [1 - rate, rate], np.random.default_rng(0).random((3000, num_samples)) < rate
    found = np.array([predict(row.astype(float), n) for row in draws])
    error = 4 * found.std(0) / np.sqrt(len(found))
    assert abs(found[:, 0].mean() - best_of_n.level_probabilities(mass, n)[1]) < error[0]
    assert abs(found[:, 1].mean() - best_of_n.win_rate_from_levels(mass, n)) < error[1]
    assert abs(found[:, 2].mean() - best_of_n.kl_from_levels(mass, n)) < error[2] + 0.01


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


TILTS = ["worst", "kth:2", "kth:4", "poisson", "capped:0.6"]


def density(text: str, n: float, u: np.ndarray) -> np.ndarray:
    """w(u), written down a second time."""
    kind, _, parameter = text.partition(":")
    if kind == "worst":
        return n * (1 - u) ** (n - 1)
    if kind == "poisson":
        return (1 + (n - 1) * u) * np.exp((n - 1) * (u - 1))
    if kind == "capped":
        w = np.minimum(u, float(parameter)) ** (n - 1)
        return w / w.mean()
    j = n - float(parameter) + 1
    return u ** (j - 1) * (1 - u) ** (n - j) * gamma(n + 1) / gamma(j) / gamma(n - j + 1)


@pytest.mark.parametrize("text", TILTS)
def test_tilts_of_levels_against_a_fine_grid(text: str):
    """Three atoms in a pool so large that its own noise is small: the mass of each is ∫w over its ranks."""
    u = (np.arange(300_000) + 0.5) / 300_000
    w, rewards = density(text, 4.0, u), np.array([0.0, 1.0, 5.0])
    level = np.digitize(u, [0.3, 0.8])
    mass, ref = np.bincount(level, w) / len(u), np.array([0.3, 0.5, 0.2])
    found = predict(np.repeat(rewards, [3000, 5000, 2000]), parse(text, 4.0))
    assert found.win_rate == pytest.approx(mass @ np.array([0.15, 0.55, 0.9]), abs=1e-3)
    assert found.kl_bon_ref == pytest.approx(mass @ np.log(mass / ref), abs=1e-3)
    assert found.reward == pytest.approx(mass @ rewards, abs=2e-3)


@pytest.mark.parametrize("text", TILTS)
def test_tilts_without_ties_are_the_closed_forms(text: str):
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    w = density(text, 4.0, u)
    found = predict(np.random.default_rng(0).normal(size=33), parse(text, 4.0))
    assert found.win_rate == pytest.approx((w * u).mean(), abs=1e-6)
    assert found.kl_bon_ref == pytest.approx((w * np.log(w)).mean(), abs=1e-5)


def test_worst_of_n_against_all_subsets():
    rewards = np.array([0.3, -1.0, 0.3, 2.0, 5.5, -7.0, 2.0])
    for n in range(2, 8):
        expected = np.mean([min(subset) for subset in combinations(rewards, n)])
        assert predict(rewards, parse("worst", n)).reward == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("text", TILTS)
def test_the_floor_against_simulation(text: str):
    """log w(u) − log Ŵ at draws u of the tilted policy, ranked in fresh pools of M = 40."""
    rng, tilt, grid = np.random.default_rng(1), parse(text, 4.0), (np.arange(100_000) + 0.5) / 100_000
    w = density(text, 4.0, grid)
    u = grid[np.searchsorted(np.cumsum(w) / w.sum(), rng.random(200_000))]
    k = rng.binomial(40, u)
    gaps = np.log(density(text, 4.0, u) if text != "capped:0.6" else np.interp(u, grid, w)) - log_weight(
        k / 41, (k + 1) / 41, tilt
    )
    assert kl_floor(40, tilt) == pytest.approx(gaps.mean(), abs=4 * gaps.std() / np.sqrt(len(gaps)))


MASS = np.array([0.5, 0.2, 0.3])
LEVELS = np.array([-1.0, 0.5, 3.0])


def expected_over_pools(num_samples: int, estimate) -> float:
    """E[estimate(rewards)] over every pool of M draws of a law with three levels."""
    total = 0.0
    for a in range(num_samples + 1):
        for b in range(num_samples + 1 - a):
            counts = np.array([a, b, num_samples - a - b])
            log_prob = gammaln(num_samples + 1) - gammaln(counts + 1).sum() + counts @ np.log(MASS)
            total += np.exp(log_prob) * estimate(np.repeat(LEVELS, counts))
    return float(total)


def mean_of_law(tilt) -> float:
    upper = np.cumsum(MASS)
    return float(MASS * np.exp(rank_tilts.log_weight(upper - MASS, upper, tilt)) @ LEVELS)


@pytest.mark.parametrize(
    ("text", "n"), [("best", 4), ("worst", 4), ("kth:1", 4), ("kth:2", 4), ("kth:3", 5), ("kth:4", 4), ("poisson", 1.5)]
)
def test_the_reward_of_a_tilt_has_no_bias_over_all_pools(text: str, n: float):
    tilt = parse(text, n)
    found = expected_over_pools(14, lambda rewards: predict(rewards, tilt).reward)
    assert found == pytest.approx(mean_of_law(tilt), abs=1e-10)  # of Poisson, 14 draws or more have mass 1e-15


@pytest.mark.parametrize(("quantile", "n", "num_samples"), [(0.9, 8.0, 24), (0.6, 4.0, 16), (0.95, 16.0, 48)])
def test_the_reward_of_a_capped_tilt_has_little_bias(quantile, n, num_samples):
    tilt = RankTilt("capped", n, quantile)
    exact = mean_of_law(tilt)
    plug_in = expected_over_pools(num_samples, lambda rewards: sample_weights(rewards, tilt) @ rewards) - exact
    left = expected_over_pools(num_samples, lambda rewards: predict(rewards, tilt).reward) - exact
    assert abs(left) < abs(plug_in) / 3


@pytest.mark.parametrize("text", ["best", "worst", "poisson", "capped:0.8", "kth:2"])
@pytest.mark.parametrize("n", [4.0, 7.5, 60.0])
def test_the_weights_of_a_pool_are_probabilities(text: str, n: float):
    if text == "kth:2" and n % 1:
        return
    rewards = np.random.default_rng(3).integers(0, 12, 40) / 4
    weights = sample_weights(rewards, parse(text, n))
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-12)
    assert all(np.ptp(weights[rewards == one]) < 1e-15 for one in np.unique(rewards))


def test_the_weights_of_best_of_n_are_those_of_core():
    rewards = np.random.default_rng(4).integers(0, 12, 40) / 4
    np.testing.assert_array_equal(sample_weights(rewards, 5), best_of_n.tie_averaged_weights(rewards, 5))
