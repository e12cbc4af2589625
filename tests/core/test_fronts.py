"""Fronts by all pairs, and differences at matched cost against curves whose difference is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.core.fronts import difference_at, pareto_front

SMALL = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(SMALL)
def test_a_point_is_on_the_front_if_none_is_at_least_as_good_in_both_and_better_in_one(points):
    expected = [not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points) for cost, gain in points]
    cost, gain = np.array(points, float).T
    assert pareto_front(cost, gain).tolist() == expected


def curves(shift: float, seeds: int = 2, prompts: int = 30):
    """Cost 0.5, 1 … 2 and gain 3·cost + shift, with noise that both curves share: it cancels in the difference."""
    rng = np.random.default_rng(4)
    effect = rng.normal(size=(seeds, 1, prompts))
    cost = np.broadcast_to(np.array([0.5, 1.0, 1.5, 2.0])[None, :, None], (seeds, 4, prompts))
    return cost, 3 * cost + shift + effect


def test_the_difference_of_parallel_lines_is_their_shift_and_shared_noise_cancels():
    mine, theirs = curves(0.25), curves(0.0)
    for estimate in difference_at([0.5, 0.8, 1.9], *mine, *theirs):
        assert estimate == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)


def test_an_interval_covers_the_noise_of_prompts():
    rng = np.random.default_rng(1)
    cost, gain = curves(0.0, prompts=400)
    noisy = gain + rng.normal(scale=2.0, size=gain.shape[2])  # a prompt's own difference, at every seed and point
    (estimate,) = difference_at([1.2], cost, noisy, cost, gain)
    half = 1.96 * 2 / np.sqrt(400)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.15)
    assert estimate.low < 0 < estimate.high


def test_nothing_is_said_outside_either_curve():
    cost, gain = curves(0.0)
    assert all(np.isnan(value) for one in difference_at([0.4, 2.1], cost, gain, cost, gain) for value in one)


def test_curves_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match="share"):
        difference_at([1.0], *curves(0.0), *curves(0.0, prompts=29))
