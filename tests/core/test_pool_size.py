"""The cost of a pool against simulation of continuous rewards: F̂ from M uniforms, π̂ on a fine grid of quantiles."""

import math

import numpy as np
import pytest

from vbon.core.best_of_n import log_weight
from vbon.core.pool_size import TOLERANCE, kl_from_pool, num_samples_for

GRID = (np.arange(20_000) + 0.5) / 20_000
POOLS = 200


def simulated(num_samples, n):
    """Mean and standard error of KL(π̂_bon‖π_bon) over pools."""
    random, log_true = np.random.default_rng(1), np.log(n) + (n - 1) * np.log(GRID)
    found = []
    for _ in range(POOLS):
        k_lt = np.searchsorted(np.sort(random.random(num_samples)), GRID)
        log_w = log_weight(k_lt / (num_samples + 1), (k_lt + 1) / (num_samples + 1), n)
        log_w -= np.log(np.mean(np.exp(log_w)))
        found.append(np.mean(np.exp(log_w) * (log_w - log_true)))
    return np.mean(found), np.std(found) / math.sqrt(POOLS)


@pytest.mark.parametrize(("num_samples", "n"), [(400, 2), (1000, 8), (4000, 32)])
def test_cost_by_simulation(num_samples, n):
    mean, error = simulated(num_samples, n)
    assert abs(mean - kl_from_pool(num_samples, n)) < 4 * error + 0.1 * mean  # 4 errors, and the next order in 1/M


@pytest.mark.parametrize("n", [1.5, 2, 8, 100])
def test_rule_inverts_the_cost(n):
    m = num_samples_for(n)
    assert kl_from_pool(m, n) <= TOLERANCE < kl_from_pool(m - 1, n)


@pytest.mark.parametrize(
    "call", [lambda: kl_from_pool(0, 2), lambda: kl_from_pool(5, 0.5), lambda: num_samples_for(2, 0)]
)
def test_refusals(call):
    with pytest.raises(ValueError, match=r"needs|must be"):
        call()
