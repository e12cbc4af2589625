"""Rank tilts against exact rationals, enumeration of draws, and quadrature of the density itself."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from vbon.core import best_of_n
from vbon.core.rank_tilts import RankTilt, kl_from_reference, log_weight, parse, win_rate

TILTS = [
    RankTilt("best", 5),
    RankTilt("worst", 4.5),
    RankTilt("capped", 8, 0.8),
    RankTilt("poisson", 6.5),
    RankTilt("kth", 5, 2),
    RankTilt("kth", 4, 4),
]
IDS = [f"{tilt.kind}-{tilt.n:g}" for tilt in TILTS]
MASS = [Fraction(1, 12), Fraction(1, 3), Fraction(1, 4), Fraction(1, 12), Fraction(1, 4)]  # of levels, ascending
ROUNDING = 1e-12  # relative, float64 with a few dozen operations
DENSITIES = {  # written out anew, as method and literature give them
    "best": lambda u, n, p: n * u ** (n - 1),
    "worst": lambda u, n, p: n * (1 - u) ** (n - 1),
    "capped": lambda u, n, p: n * np.minimum(u, p) ** (n - 1) / (p**n + n * p ** (n - 1) * (1 - p)),
    "poisson": lambda u, n, p: (1 + (n - 1) * u) * np.exp((n - 1) * (u - 1)),
    "kth": lambda u, n, p: (
        math.factorial(n) / (math.factorial(n - p) * math.factorial(p - 1)) * u ** (n - p) * (1 - u) ** (p - 1)
    ),
}


def levels() -> tuple[np.ndarray, np.ndarray]:
    edges = np.array([float(x) for x in itertools.accumulate([Fraction(0), *MASS])])
    return edges[:-1], np.minimum(edges[1:], 1.0)


@pytest.mark.parametrize("tilt", TILTS, ids=IDS)
def test_the_weight_is_the_mean_of_the_density_over_the_tie(tilt):
    a, b = levels()
    points = np.linspace(0, 1, 2_000_001)
    for low, high, found in zip(a, b, np.exp(log_weight(a, b, tilt)), strict=True):
        u = low + (high - low) * points
        mean = np.trapezoid(DENSITIES[tilt.kind](u, tilt.n, tilt.parameter), points)
        assert found == pytest.approx(mean, rel=1e-9)  # the trapezoid's own error is below 1e-10


@pytest.mark.parametrize("tilt", TILTS, ids=IDS)
def test_without_ties_the_weight_is_the_density(tilt):
    u = np.array([0.05, 0.3, 0.8, 0.95])
    expected = DENSITIES[tilt.kind](u, tilt.n, tilt.parameter)
    np.testing.assert_allclose(np.exp(log_weight(u, u, tilt)), expected, rtol=ROUNDING)
    np.testing.assert_allclose(np.exp(log_weight(u - 1e-9, u + 1e-9, tilt)), expected, rtol=1e-6)


@pytest.mark.parametrize("tilt", TILTS, ids=IDS)
def test_the_reference_averages_the_weight_to_one(tilt):
    a, b = levels()
    assert np.sum((b - a) * np.exp(log_weight(a, b, tilt))) == pytest.approx(1, rel=ROUNDING)


@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 3), (3, 3), (2, 4)])
def test_kth_best_is_what_sorting_every_draw_gives(k, n):
    a, b = levels()
    chance = [Fraction(0)] * len(MASS)
    for draw in itertools.product(range(len(MASS)), repeat=n):
        chance[sorted(draw)[-k]] += math.prod((MASS[i] for i in draw), start=Fraction(1))
    found = (b - a) * np.exp(log_weight(a, b, RankTilt("kth", n, k)))
    np.testing.assert_allclose(found, [float(x) for x in chance], rtol=ROUNDING)


def test_worst_of_n_is_what_the_worst_of_every_draw_gives():
    a, b = levels()
    chance = [Fraction(0)] * len(MASS)
    for draw in itertools.product(range(len(MASS)), repeat=3):
        chance[min(draw)] += math.prod((MASS[i] for i in draw), start=Fraction(1))
    found = (b - a) * np.exp(log_weight(a, b, RankTilt("worst", 3)))
    np.testing.assert_allclose(found, [float(x) for x in chance], rtol=ROUNDING)


def test_poisson_is_best_of_n_with_a_random_number_of_samples():
    a, b, mu = *levels(), 2.5
    chance = sum(
        math.exp(-mu) * mu**extra / math.factorial(extra) * np.exp(best_of_n.log_weight(a, b, 1 + extra))
        for extra in range(60)  # the rest has less than 1e-60
    )
    np.testing.assert_allclose(np.exp(log_weight(a, b, RankTilt("poisson", 1 + mu))), chance, rtol=ROUNDING)


def test_first_of_n_and_a_cap_at_the_top_are_best_of_n():
    a, b = levels()
    best = best_of_n.log_weight(a, b, 5)
    np.testing.assert_array_equal(log_weight(a, b, RankTilt("best", 5)), best)
    np.testing.assert_allclose(log_weight(a, b, RankTilt("kth", 5, 1)), best, rtol=ROUNDING)
    np.testing.assert_allclose(log_weight(a, b, RankTilt("capped", 5, 1 - 1e-15)), best, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [2.0, 8.0, 64.0])
def test_kl_and_win_rate_are_the_closed_forms_of_best_of_n(n):
    for kind, beats in (("best", n / (n + 1)), ("worst", 1 / (n + 1))):
        assert kl_from_reference(RankTilt(kind, n)) == pytest.approx(best_of_n.kl_from_reference(n), rel=1e-9)
        assert win_rate(RankTilt(kind, n)) == pytest.approx(beats, rel=1e-9)


@pytest.mark.parametrize("tilt", TILTS, ids=IDS)
def test_kl_and_win_rate_are_those_of_many_ranks(tilt):
    edges = np.linspace(0, 1, 200_001)
    log_w = log_weight(edges[:-1], edges[1:], tilt)
    mass = np.exp(log_w) / 200_000
    assert kl_from_reference(tilt) == pytest.approx(float(mass @ log_w), abs=1e-4)
    assert win_rate(tilt) == pytest.approx(float(mass @ (edges[:-1] + edges[1:]) / 2), abs=1e-4)


def test_far_tails_stay_finite_and_ordered():
    u = np.array([1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6])
    for tilt in (
        RankTilt("worst", 200),
        RankTilt("kth", 100, 3),
        RankTilt("poisson", 500),
        RankTilt("capped", 300, 0.9),
    ):
        assert np.isfinite(log_weight(u * (1 - 1e-4), u, tilt)).all()


@pytest.mark.parametrize(
    ("text", "n", "words"),
    [
        ("median", 4, "one of best, worst"),
        ("best:2", 4, "no parameter"),
        ("capped", 4, "a parameter"),
        ("capped:1.5", 4, "between 0 and 1"),
        ("kth:3", 4.5, "integers"),
        ("kth:9", 4, "1 ≤ k ≤ n"),
        ("best", 1, "greater than 1"),
    ],
)
def test_what_is_no_tilt_is_refused(text, n, words):
    with pytest.raises(ValueError, match=words):
        parse(text, n)


def test_a_text_names_a_tilt():
    assert parse("kth:2", 8) == RankTilt("kth", 8, 2.0)
    assert parse("poisson", 8) == RankTilt("poisson", 8)
