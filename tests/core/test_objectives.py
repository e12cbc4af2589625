"""Each method's optimum π* ∝ π_ref·exp(ρ/β) by enumeration, and what each is blind to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.core.best_of_n import level_probabilities, log_weight
from vbon.core.objectives import OBJECTIVES, Signal, bond, quantile, reward, vbon, vbon_bound
from vbon.core.reward_cdf import Interval, RewardCDF

MASS = np.array([0.35, 0.2, 0.05, 0.3, 0.1])
REWARDS = np.array([0.5, -1.0, 2.0, 0.5, 2.0])


def exact_interval():
    lt = np.array([MASS[r > REWARDS].sum() for r in REWARDS])
    le = np.array([MASS[r >= REWARDS].sum() for r in REWARDS])
    return Interval(lt, np.minimum(le, 1.0), np.full(len(MASS), 1 / 301))


def optimum(signal):
    tilted = MASS * np.exp(signal.sequence_reward / signal.kl_coef)
    return tilted / tilted.sum()


def objective_value(policy, signal):
    return policy @ signal.sequence_reward - signal.kl_coef * policy @ np.log(policy / MASS)


@pytest.mark.parametrize("n", [1.5, 2, 8, 64])
def test_vbon_is_maximised_by_best_of_n_where_it_is_zero(n):
    """J(θ) = −KL(π_θ‖π_bon)/(N−1): its maximum is 0, at π_bon, and everywhere else it is that KL."""
    signal = vbon(REWARDS, exact_interval(), n)
    levels = [-1.0, 0.5, 2.0]
    best = optimum(signal)
    mass = [MASS[level == REWARDS].sum() for level in levels]
    per_level = [best[level == REWARDS].sum() for level in levels]
    np.testing.assert_allclose(per_level, level_probabilities(mass, n), rtol=1e-12)
    np.testing.assert_allclose(best[0] / best[3], MASS[0] / MASS[3], rtol=1e-12)  # ties keep π_ref's proportions
    assert objective_value(best, signal) == pytest.approx(0, abs=1e-13)
    other = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    assert objective_value(other, signal) == pytest.approx(-(other @ np.log(other / best)) / (n - 1), rel=1e-11)


def test_vbon_uses_one_factor_for_reward_and_kl():
    interval = exact_interval()
    signal = vbon(REWARDS, interval, 9)
    assert signal.kl_coef == 1 / 8
    np.testing.assert_allclose(signal.sequence_reward, log_weight(interval.cdf_lt, interval.cdf_le, 9) / 8, rtol=1e-15)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(-4, 4), st.floats(1.01, 1000))
def test_vbon_range(pool, fresh, n):
    interval = RewardCDF(pool, [len(pool)]).interval([0], [fresh])
    rho = vbon(np.array([fresh]), interval, n).sequence_reward[0]
    assert -math.log(len(pool) + 1) - 1e-12 <= rho <= math.log(n) / (n - 1) + 1e-12


def test_vbon_bound_is_the_published_estimator():
    """log((k_<+1)/(M+1)) from plain counts, ties and all."""
    pool, fresh = [3.0, 1.0, 1.0, 5.0], [1.0, 0.0, 4.0, 9.0]
    signal = vbon_bound(np.array(fresh), RewardCDF(pool, [4]).interval([0] * 4, fresh), 11)
    assert signal.kl_coef == pytest.approx(0.1, rel=1e-15)
    expected = [math.log((sum(r < f for r in pool) + 1) / 5) for f in fresh]
    np.testing.assert_allclose(signal.sequence_reward, expected, rtol=1e-14)


def test_vbon_bound_without_ties_is_the_upper_form():
    interval = RewardCDF([1.0, 2.0, 4.0], [3]).interval([0, 0], [0.0, 3.0])
    np.testing.assert_allclose(
        vbon_bound(np.zeros(2), interval, 4).sequence_reward, np.log(interval.cdf_le), rtol=1e-14
    )


def test_bond_is_the_upper_bound_of_vbon():
    """(N−1)·log F_≤ + log N ≥ log W, with equality as ties vanish; from plain sums of mass."""
    interval = exact_interval()
    signal = bond(REWARDS, interval, 6)
    assert signal.kl_coef == 0.2
    upper = [5 * math.log(MASS[r >= REWARDS].sum()) for r in REWARDS]
    np.testing.assert_allclose(signal.sequence_reward / signal.kl_coef, upper, rtol=1e-12, atol=1e-14)
    exact = vbon(REWARDS, interval, 6).sequence_reward / 0.2
    assert (np.array(upper) + math.log(6) >= exact).all() and (np.array(upper) + math.log(6) > exact + 0.1).any()


def test_reward_is_kl_rl():
    assert reward(REWARDS, exact_interval(), 5).kl_coef == 0.25
    signal = reward(REWARDS, exact_interval(), 5, kl_coef=0.7)
    log_ratio = np.log(optimum(signal) / MASS)
    np.testing.assert_allclose(log_ratio - log_ratio[0], (REWARDS - REWARDS[0]) / 0.7, rtol=1e-12, atol=1e-14)


def test_quantile_has_reference_mean_one_half():
    signal = quantile(REWARDS, exact_interval(), 5, kl_coef=0.2)
    assert signal.kl_coef == 0.2
    assert MASS @ signal.sequence_reward == pytest.approx(0.5, rel=1e-14)
    beats_or_half = [(MASS * ((r > REWARDS) + 0.5 * (r == REWARDS))).sum() for r in REWARDS]
    np.testing.assert_allclose(signal.sequence_reward, beats_or_half, rtol=1e-14)


@pytest.mark.parametrize("name", ["vbon", "vbon-bound", "quantile", "bond", "reward"])
def test_only_kl_rl_sees_the_scale_of_rewards(name):
    rng = np.random.default_rng(1)
    pool, fresh = rng.normal(size=50), rng.normal(size=20)
    signals = []
    for transform in (np.asarray, np.exp):
        interval = RewardCDF(transform(pool), [50]).interval(np.zeros(20, int), transform(fresh))
        signals.append(OBJECTIVES[name](transform(fresh), interval, 8, None))
    same = signals[0].sequence_reward.tobytes() == signals[1].sequence_reward.tobytes()
    assert same == (name != "reward")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("n", [1.0, 0.5])
def test_objectives_need_n_above_one(name, n):
    with pytest.raises(ValueError, match="greater than 1"):
        OBJECTIVES[name](REWARDS, exact_interval(), n, None)


def test_every_objective_returns_float64_for_each_completion():
    for objective in OBJECTIVES.values():
        signal = objective(REWARDS.astype(np.float32), exact_interval(), 8, None)
        assert isinstance(signal, Signal)
        assert (signal.sequence_reward.dtype, signal.sequence_reward.shape) == (np.float64, REWARDS.shape)
