"""Pure metrics against brute force and closed forms."""

import numpy as np
import pytest

from vbon.core import best_of_n
from vbon.core.reward_cdf import RewardCDF
from vbon.evaluation import metrics
from vbon.evaluation.result import gain_shares

EXACT = 1e-12


def test_win_rate_by_comparing_every_pair():
    rng = np.random.default_rng(0)
    pools = [rng.integers(0, 4, size).astype(float) for size in (7, 12)]
    fresh = rng.integers(0, 5, (2, 9)).astype(float)
    cdf = RewardCDF(np.concatenate(pools), [7, 12])
    k_lt, k_eq = (k.reshape(2, 9) for k in cdf.counts(np.repeat([0, 1], 9), fresh.ravel()))
    expected = [[np.mean([1.0 * (x > r) + 0.5 * (x == r) for r in pool]) for x in row]
                for pool, row in zip(pools, fresh, strict=True)]  # fmt: skip
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
