"""Bootstrap against scipy and normal theory; the rank test's p-values under the null and its power."""

import math

import numpy as np
import pytest
import scipy.stats

from vbon.core.reward_cdf import RewardCDF
from vbon.core.stats import FEW_PROMPTS, bootstrap, interpolate, mean, paired_difference, rank_test, ratio


def skewed(seed, size=60):
    return np.random.default_rng(seed).gamma(2.0, size=size)


def test_bootstrap_equals_scipy_percentile_bootstrap():
    x = skewed(0)
    estimate = bootstrap((x,), lambda v: np.median(v, axis=-1), seed=0)
    scipys = scipy.stats.bootstrap(
        (x,), np.median, method="percentile", confidence_level=0.95, n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = scipys.high - scipys.low
    assert estimate.value == np.median(x)
    assert estimate.low == pytest.approx(scipys.low, abs=0.06 * width)  # resampling noise of 2,000
    assert estimate.high == pytest.approx(scipys.high, abs=0.06 * width)


def test_mean_equals_normal_theory():
    x = skewed(1, size=400)
    estimate, half = mean(x), 1.96 * x.std() / math.sqrt(len(x))
    assert estimate.value == x.mean()
    assert estimate.low == pytest.approx(x.mean() - half, abs=0.12 * half)
    assert estimate.high == pytest.approx(x.mean() + half, abs=0.12 * half)


def test_mean_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    covered = sum(low <= 3.0 <= high for _, low, high in (mean(rng.normal(3.0, 2.0, 40), seed=s) for s in range(300)))
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.parametrize("count", [2, 3, 5, 8, 16, 29])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_intervals_of_few_prompts_cover_the_truth_nineteen_times_in_twenty(count, draw):
    rng, truth = np.random.default_rng(count), 0.5 if draw == "uniform" else 0.0
    estimates = [mean(getattr(rng, draw)(size=count)) for _ in range(1500)]
    covered = np.mean([one.low <= truth <= one.high for one in estimates])
    assert covered >= (0.90 if draw == "uniform" else 0.935) and covered <= 0.97  # 3 standard errors of 1,500 draws


@pytest.mark.parametrize("count", range(2, FEW_PROMPTS))
def test_few_prompts_have_students_interval(count):
    x = skewed(count, size=count)
    low, high = scipy.stats.t.interval(0.95, count - 1, x.mean(), scipy.stats.sem(x))
    assert (mean(x).low, mean(x).high) == pytest.approx((low, high), rel=1e-3)


def test_a_ratio_of_few_prompts_covers_the_truth():
    rng, covered = np.random.default_rng(6), 0
    for _ in range(1000):
        b = rng.uniform(1, 2, 6)
        estimate = ratio(0.7 * b + rng.normal(0, 0.2, 6), b)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.92 <= covered / 1000 <= 0.98


def test_one_prompt_has_no_interval():
    assert mean([3.0]) == (3.0, 3.0, 3.0)


def test_ratio_resamples_numerator_and_denominator_together():
    rng = np.random.default_rng(3)
    denominator = rng.gamma(2.0, size=300)
    numerator = 0.7 * denominator + rng.normal(0, 0.05, 300)
    estimate = ratio(numerator, denominator)
    assert estimate.value == pytest.approx(numerator.sum() / denominator.sum(), rel=1e-14)
    residual = numerator - estimate.value * denominator  # delta method
    half = 1.96 * residual.std() / math.sqrt(300) / denominator.mean()
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.12)


def test_paired_difference_is_narrower_than_the_difference_of_means():
    rng = np.random.default_rng(4)
    prompt_effect = rng.normal(0, 5, 200)
    a, b = prompt_effect + rng.normal(0.3, 0.5, 200), prompt_effect + rng.normal(0, 0.5, 200)
    estimate, half = paired_difference(a, b), 1.96 * (a - b).std() / math.sqrt(200)
    assert estimate.value == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.12)
    assert half < 0.2 * (mean(a).high - mean(a).low)


def test_bootstrap_is_a_function_of_its_seed():
    x = skewed(5)
    assert mean(x, seed=3) == mean(x, seed=3)
    assert mean(x, seed=3) != mean(x, seed=4)


def ranked(pools, fresh, seed=0):
    """rank_test of fresh (P, K) against pools (P, M)."""
    (prompts, m), draws = pools.shape, fresh.shape[1]
    index = np.repeat(np.arange(prompts), draws)
    counts = RewardCDF(pools.ravel(), [m] * prompts).counts(index, fresh.ravel())
    return rank_test(*counts, np.full(len(index), m), index, seed)


REGIMES = {"many prompts, few draws": (200, 50, 2), "one prompt, many draws": (1, 250, 256), "between": (20, 99, 30)}


def p_values(regime, sample, replicates=300):
    prompts, m, draws = regime
    rng = np.random.default_rng(11)
    return np.array(
        [ranked(sample(rng, (prompts, m)), sample(rng, (prompts, draws)), s).p_value for s in range(replicates)]
    )


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_rank_test_p_values_are_uniform_when_the_pool_is_right(regime):
    values = p_values(regime, lambda rng, shape: rng.normal(size=shape))
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.02 <= np.mean(values < 0.05) <= 0.09


def test_rank_test_does_not_reject_too_often_with_ties():
    values = p_values(REGIMES["one prompt, many draws"], lambda rng, shape: rng.binomial(1, 0.3, shape))
    assert np.mean(values < 0.05) <= 0.06


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_rank_test_catches_another_temperature(regime):
    """Softmax policies over 500 completions of random reward: fresh draws from a colder one."""
    rng = np.random.default_rng(12)
    rewards = rng.normal(size=500)
    logits = 2 * rewards + rng.normal(size=500)

    def draw(temperature, shape):
        p = np.exp(logits / temperature)
        return rng.choice(rewards, shape, p=p / p.sum())

    prompts, m, draws = regime
    assert ranked(draw(1.0, (prompts, m)), draw(1.0, (prompts, draws))).p_value > 0.01
    assert ranked(draw(1.0, (prompts, m)), draw(0.5, (prompts, draws))).p_value < 1e-4


def test_rank_test_reads_its_counts():
    """By hand: no ties below, two bins, four draws of four pools of three."""
    result = rank_test([3, 3, 3, 0], [0, 0, 0, 0], [3] * 4, [0, 1, 2, 3], num_bins=2)
    np.testing.assert_array_equal(result.histogram, [0.25, 0.75])
    assert (result.chi2, result.dof) == (1.0, 1)  # one draw a pool: nothing shared, so Σ(O−E)²/E itself
    assert result.p_value == pytest.approx(scipy.stats.chi2.sf(1.0, 1), rel=1e-10)
    shared = rank_test([3, 3, 3, 0], [0, 0, 0, 0], [3] * 4, [7] * 4, num_bins=2)
    assert shared.chi2 == pytest.approx(1.0 / ((4 + 4) / (1 + 4)), rel=1e-14)  # (K+M+1)/(M+2)


def test_rank_test_spreads_ties_over_their_levels():
    """All tied: ranks are pure randomisation, uniform on (0, 1)."""
    result = rank_test(np.zeros(20_000), np.full(20_000, 9), np.full(20_000, 9), np.arange(20_000))
    np.testing.assert_allclose(result.histogram, 0.1, atol=0.01)
    assert result.p_value > 0.01


def test_interpolate_equals_hand_drawn_segments():
    x, y = [3.0, 1.0, 2.0], [9.0, 1.0, 5.0]
    np.testing.assert_allclose(interpolate(x, y, [1.0, 1.25, 2.5, 3.0]), [1.0, 2.0, 7.0, 9.0], rtol=1e-14)


def test_interpolate_does_not_extrapolate():
    assert np.isnan(interpolate([1.0, 2.0], [4.0, 5.0], [0.999, 2.001])).all()


@pytest.mark.parametrize(
    "call", [lambda: mean([]), lambda: ratio([1.0, 2.0], [1.0, 2.0, 3.0]), lambda: rank_test([], [], [], [])]
)
def test_too_little_raises(call):
    with pytest.raises(ValueError, match="at least one"):
        call()
