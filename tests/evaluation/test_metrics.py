"""Pure metrics against brute force and closed forms."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import pearsonr

from vbon.core import best_of_n, stats
from vbon.core.reward_cdf import RewardCDF
from vbon.evaluation import metrics
from vbon.evaluation.result import gain_shares
from vbon.evaluation.warnings import judge_warnings
from vbon.pool.predict import sample_weights

EXACT = 1e-12


def test_win_rate_by_comparing_every_pair():
    rng = np.random.default_rng(0)
    pools = [rng.integers(0, 4, size).astype(float) for size in (7, 12)]
    fresh = rng.integers(0, 5, (2, 9)).astype(float)
    cdf = RewardCDF(np.concatenate(pools), [7, 12])
    k_lt, k_eq = (k.reshape(2, 9) for k in cdf.counts(np.repeat([0, 1], 9), fresh.ravel()))
    expected = [
        [np.mean([1.0 * (x > r) + 0.5 * (x == r) for r in pool]) for x in row]
        for pool, row in zip(pools, fresh, strict=True)
    ]
    assert metrics.win_rate(k_lt, k_eq, [7, 12]) == pytest.approx(np.array(expected), abs=EXACT)


@pytest.mark.parametrize("num_samples", [3, 40])
def test_the_reference_spends_the_kl_of_its_own_weights(num_samples: int):
    """log π_ref − log π_θ = 0 leaves Σ Ŵ/M log Ŵ; a policy shifted by a constant c adds c, as the weights sum to 1."""
    rewards = np.random.default_rng(1).normal(size=num_samples)
    interval = RewardCDF(rewards, [num_samples]).pool_interval()
    weight = best_of_n.log_weight(interval.cdf_lt, interval.cdf_le, 5)
    logprobs = np.linspace(-9, -2, num_samples)
    u = np.arange(num_samples + 1) / num_samples
    probability = np.diff(u**5)  # mass of each rank under best-of-5 drawn with replacement
    own = metrics.kl_bon_policy(weight, logprobs, logprobs)
    assert own == pytest.approx(np.sum(probability * np.log(probability * num_samples)), abs=EXACT)
    assert metrics.kl_bon_policy(weight, logprobs, logprobs - 0.7) == pytest.approx(own + 0.7, abs=EXACT)


def test_kl_policy_bon_takes_the_mean_over_samples_of_a_prompt():
    assert metrics.kl_policy_bon([[3.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [2.0, -1.0]]).tolist() == [1.5, -0.5]


def test_distinct_by_hand():
    rows = [[1, 2, 1, 2], [1, 2], [3], []]
    assert metrics.distinct_n(rows, 1) == 3 / 7
    assert metrics.distinct_n(rows, 2) == 2 / 4  # (1,2) three times, (2,1) once
    assert metrics.distinct_n(rows, 5) == 0.0
    assert metrics.distinct_completions([[1], [1], [2, 1], [1]]) == 0.5


def test_no_gain_to_share_is_null():
    flat = {"reward": np.ones(4), "win_rate": np.full(4, 0.5)}
    shares = gain_shares({"reward": np.arange(4.0), "win_rate": np.full(4, 0.7)}, flat, np.ones(4), seed=0)
    assert shares == {"reward_gain_share": None, "win_rate_gain_share": None}


def beats(a: float, b: float) -> float:
    return 1.0 * (a > b) + 0.5 * (a == b)


def bon_cdf(pool: Sequence[float], n: float) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(sample_weights(np.sort(pool), n))])


def test_win_rate_against_best_of_n_by_drawing_every_subset():
    """Best of 3 of a pool without replacement, all subsets of it, ties within and with the completion."""
    rng = np.random.default_rng(2)
    pools = [rng.integers(0, 5, size).astype(float) for size in (6, 9)]
    fresh = rng.integers(-1, 6, (2, 8)).astype(float)
    cdf = RewardCDF(np.concatenate(pools), [6, 9])
    k_lt, k_eq = (k.reshape(2, 8) for k in cdf.counts(np.repeat([0, 1], 8), fresh.ravel()))
    expected = [
        [np.mean([beats(r, max(drawn)) for drawn in itertools.combinations(pool, 3)]) for r in row]
        for pool, row in zip(pools, fresh, strict=True)
    ]
    measured = metrics.win_rate_bon(k_lt, k_eq, [bon_cdf(pool, 3) for pool in pools])
    assert measured == pytest.approx(np.array(expected), abs=EXACT)


@pytest.mark.parametrize("n", [2, 4, 2.5, 30])
def test_best_of_n_wins_half_the_time_against_itself(n: float):
    """Completions of the pool under best-of-N's weights, whole N, N that is no integer, and N above M."""
    pool = np.random.default_rng(3).integers(0, 8, 20).astype(float)
    k_lt, k_eq = (k[None] for k in RewardCDF(pool, [20]).counts(np.zeros(20, int), pool))
    wins = metrics.win_rate_bon(k_lt, k_eq, [bon_cdf(pool, n)])[0]
    assert sample_weights(pool, n) @ wins == pytest.approx(0.5, abs=EXACT)
    assert wins.mean() < 0.45


def test_best_of_k_by_drawing_every_subset():
    values = np.random.default_rng(4).integers(0, 6, (2, 7)).astype(float)
    for k in range(1, 8):
        expected = [np.mean([max(drawn) for drawn in itertools.combinations(row, k)]) for row in values]
        assert metrics.best_of_k(values, k) == pytest.approx(np.array(expected), abs=EXACT)


def test_length_and_reward_against_scipy_and_constant_prompts_are_0():
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 9, (3, 12)).astype(float)
    rewards = lengths * [[0.5], [-1.0], [0.0]] + rng.normal(size=(3, 12))
    expected = [pearsonr(x, y).statistic for x, y in zip(lengths, rewards, strict=True)]
    assert metrics.length_reward_correlation(lengths, rewards) == pytest.approx(np.array(expected), abs=EXACT)
    huge = metrics.length_reward_correlation(lengths, 1e300 * rewards / np.abs(rewards).max())
    assert huge == pytest.approx(np.array(expected), abs=EXACT)
    constant = np.full((3, 12), 0.1)  # its mean differs from 0.1 in the last bit
    assert metrics.length_reward_correlation(lengths, constant).tolist() == [0.0] * 3
    assert metrics.length_reward_correlation(constant, rewards).tolist() == [0.0] * 3


def test_a_prompt_is_worse_only_below_one_half():
    assert metrics.share_worse([[0.4, 0.6], [0.4, 0.59], [0.5, 0.5], [1.0, 0.0]]).tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_judge_that_falls_while_the_reward_rises_is_named():
    noise = np.random.default_rng(6).normal(scale=0.01, size=50)
    reference = {"reward": np.zeros(50), "judge_reward/j": np.zeros(50)}
    level = noise - noise.mean()
    rising, falling = 0.5 + level, -0.25 + level
    cases = {
        "exploits": (rising, falling),
        "improves": (rising, rising),
        "worsens": (falling, falling),
        "same": (level, falling),
        "unmoved": (rising, level),
    }
    policies = {name: {"reward": r, "judge_reward/j": j} for name, (r, j) in cases.items()}
    lines = list(judge_warnings(policies, reference, seed=0))
    assert len(lines) == 1 and lines[0].startswith("exploits: judge j falls by 0.25")


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_the_control_variate_leaves_the_mean_and_its_intervals_cover(noise):
    """A law of 40 outcomes for each of 24 prompts; best-of-N is known, the policy is it with noise in its logits."""
    rng = np.random.default_rng(3)
    prompts, samples, sets = 24, 20, 400
    ref = rng.dirichlet(np.ones(40), prompts)
    weight = np.exp(rng.normal(0, 1.2, ref.shape))
    weight /= (ref * weight).sum(1, keepdims=True)
    policy = ref * weight * np.exp(noise * rng.normal(size=ref.shape))
    policy /= policy.sum(1, keepdims=True)
    log_ratio, log_weight = np.log(policy / ref), np.log(weight)
    exact = (policy * (log_ratio - log_weight)).sum(1).mean()
    readings = {metrics.kl_policy_bon: [], metrics.kl_policy_bon_cv: []}
    covered = dict.fromkeys(readings, 0)
    for each in range(sets):
        drawn = np.stack([rng.choice(40, samples, p=row) for row in policy])
        taken = [np.take_along_axis(array, drawn, 1) for array in (log_ratio, log_weight)]
        for reading, means in readings.items():
            per_prompt = reading(*taken)
            means.append(per_prompt.mean())
            interval = stats.mean(per_prompt, each)
            # prompts differ in their own distance, which an interval over prompts has to allow for as well
            covered[reading] += interval.low <= exact <= interval.high
    spread = {reading: np.std(means) for reading, means in readings.items()}
    for reading, means in readings.items():
        assert np.mean(means) == pytest.approx(exact, abs=4 * spread[reading] / np.sqrt(sets))
        assert covered[reading] / sets > 0.92
    assert spread[metrics.kl_policy_bon_cv] < (0.2 if noise == 0.1 else 0.6) * spread[metrics.kl_policy_bon]
