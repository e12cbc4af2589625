"""Best-of-N in closed form against brute force over all N-tuples of draws, exact rationals, decimals, quadrature."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vbon.core import best_of_n

# Five completions, unsorted, two pairs of ties, no symmetry.
MASS = [Fraction(7, 16), Fraction(1, 8), Fraction(1, 4), Fraction(1, 16), Fraction(1, 8)]
TIED = [1, 1, 3, 0, 3]
ONE_TO_ONE = [2, 1, 4, 0, 3]
EXACT = 1e-13  # float64 against exact rationals


def bon_by_enumeration(mass, rewards, n):
    """P(best of n = y): all n-tuples of draws, one of the best drawn chosen uniformly."""
    probability = [Fraction(0)] * len(mass)
    for draws in itertools.product(range(len(mass)), repeat=n):
        best = max(rewards[y] for y in draws)
        winners = [y for y in draws if rewards[y] == best]
        for y in winners:
            probability[y] += math.prod(mass[y] for y in draws) / len(winners)
    return probability


def cdf(mass, rewards):
    """Exact (F_<, F_≤) of each completion."""
    pairs = list(zip(mass, rewards, strict=True))
    return [sum(p for p, s in pairs if s < r) for r in rewards], [sum(p for p, s in pairs if s <= r) for r in rewards]


def as_floats(values):
    return np.array([float(v) for v in values])


def decimal_log_weight(a, b, n, digits=80):
    """log (b^n − a^n)/(b − a) with `digits` digits from the exact values of the floats a and b."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = digits, -(10**12), 10**12
        a, b, n = Decimal(a), Decimal(b), Decimal(n)
        if a == b:
            return float((n - 1) * b.ln() + n.ln())
        return float(((b**n - (a**n if a else 0)) / (b - a)).ln())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("rewards", [TIED, ONE_TO_ONE, [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])
def test_density_equals_brute_force(rewards, n):
    a, b = cdf(MASS, rewards)
    density = np.exp(best_of_n.log_prob(np.log(as_floats(MASS)), as_floats(a), as_floats(b), n))
    np.testing.assert_allclose(density, as_floats(bon_by_enumeration(MASS, rewards, n)), rtol=EXACT)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_one_to_one_rewards_give_the_papers_binomial_sum(n):
    a, b = cdf(MASS, ONE_TO_ONE)
    paper = [sum(math.comb(n, i) * f ** (n - i) * p**i for i in range(1, n + 1)) for p, f in zip(MASS, a, strict=True)]
    weights = np.exp(best_of_n.log_weight(as_floats(a), as_floats(b), n))
    np.testing.assert_allclose(as_floats(MASS) * weights, as_floats(paper), rtol=EXACT)


@pytest.mark.parametrize("n", [2, 3, 11])
def test_weight_is_the_sum_of_powers(n):
    a, b = Fraction(3, 7), Fraction(5, 8)
    powers = sum(b**k * a ** (n - 1 - k) for k in range(n))
    assert math.exp(best_of_n.log_weight(float(a), float(b), n)) == pytest.approx(float(powers), rel=EXACT)


def test_binary_rewards():
    p, n = 0.23, 6.5
    success, failure = np.exp(best_of_n.log_weight([1 - p, 0.0], [1.0, 1 - p], n))
    assert success == pytest.approx((1 - (1 - p) ** n) / p, rel=EXACT)
    assert failure == pytest.approx((1 - p) ** (n - 1), rel=EXACT)


levels = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
any_n = st.one_of(st.integers(1, 10**6).map(float), st.floats(1.0, 1e6))


@given(levels, any_n)
def test_bon_sums_to_one_and_so_reference_mean_of_weight_is_one(counts, n):
    edges = np.concatenate([[0], np.cumsum(counts)]) / sum(counts)
    a, b = edges[:-1], edges[1:]
    assert np.sum(np.exp(best_of_n.log_prob(np.log(b - a), a, b, n))) == pytest.approx(1.0, abs=1e-9)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), any_n)
def test_log_weight_at_eighty_digits(x, y, n):
    a, b = min(x, y), max(x, y)
    if b > 0:
        assert best_of_n.log_weight(a, b, n) == pytest.approx(decimal_log_weight(a, b, n), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("n", [1.0, 1 + 1e-9, 2.0, 8.0, 101.5, 1e6])
@pytest.mark.parametrize("b", [1.0, 0.999999, 0.3, 1e-12, 1e-300])
def test_log_weight_as_b_approaches_a(b, n):
    one_ulp, ten_digits = np.nextafter(b, 0), b * (1 - 1e-10)
    for a in (0.0, ten_digits, one_ulp, b):
        expected = decimal_log_weight(a, b, n, digits=400)
        assert best_of_n.log_weight(a, b, n) == pytest.approx(expected, rel=1e-13, abs=1e-13)


def test_log_prob_of_a_completion_of_ten_thousand_nats():
    """π_ref = 1e-4343 is no float64: F_< and F_≤ coincide, and the density is right all the same."""
    with localcontext() as context:
        context.prec = 4400
        b, n, mass = Decimal("0.75"), 5, Decimal("1e-4343")
        density = b**n - (b - mass) ** n
        context.prec = 40
        expected, ref_logprob = float((+density).ln()), float(mass.ln())
    assert ref_logprob < -10_000
    assert best_of_n.log_prob(ref_logprob, 0.75, 0.75, 5) == pytest.approx(expected, rel=1e-15)


def test_nothing_below_the_worst_and_certainty_at_one():
    assert best_of_n.log_weight(0.0, 0.25, 3) == pytest.approx(2 * math.log(0.25), rel=EXACT)
    assert best_of_n.log_weight(1.0, 1.0, 1e6) == pytest.approx(math.log(1e6), rel=EXACT)
    assert best_of_n.log_weight(0.0, 1.0, 1e6) == 0.0
    assert best_of_n.log_weight(0.0, 0.0, 2) == -np.inf


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_n_of_one_is_the_reference(x, y):
    assert best_of_n.log_prob(-3.25, min(x, y), max(x, y), 1) == -3.25
    assert best_of_n.log_weight_lower_bound(min(x, y), 1) == best_of_n.log_weight_upper_bound(max(x, y), 1) == 0


def test_n_of_one_has_no_cost():
    assert best_of_n.kl_from_reference(1) == 0
    assert best_of_n.win_rate(1) == 0.5
    assert best_of_n.kl_floor(30, 1) == 0


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(1.0, 1e6))
def test_bounds_bracket_log_weight(x, y, n):
    a, b = min(x, y), max(x, y)
    exact = best_of_n.log_weight(a, b, n)
    slack = 1e-12 * max(1.0, abs(exact)) if np.isfinite(exact) else 0.0
    assert best_of_n.log_weight_lower_bound(a, n) <= exact + slack
    assert best_of_n.log_weight_upper_bound(b, n) >= exact - slack


def test_bounds_are_the_powers_of_the_paper():
    f = np.array([0.0, 0.2, 0.9])
    with np.errstate(divide="ignore"):
        expected = np.log(8 * f**7)
    np.testing.assert_allclose(best_of_n.log_weight_lower_bound(f, 8), expected, rtol=EXACT)
    np.testing.assert_allclose(best_of_n.log_weight_upper_bound(f, 8), expected, rtol=EXACT)


@pytest.mark.parametrize("n", [2, 3.5, 11, 64])
def test_continuous_expectations_by_quadrature(n):
    def mean(weight):
        return scipy.integrate.quad(weight, 0, 1, epsabs=1e-11, limit=200)[0]

    def log_w(u):
        return float(best_of_n.log_weight(u, u, n))

    assert mean(lambda u: math.exp(log_w(u))) == pytest.approx(1, abs=1e-9)  # E_ref[W] = 1
    mean_log_f = (mean(log_w) - math.log(n)) / (n - 1)
    assert mean_log_f == pytest.approx(-1, abs=1e-9)  # E_ref[log F] = −1
    kl = mean(lambda u: n * u ** (n - 1) * log_w(u))
    assert best_of_n.kl_from_reference(n) == pytest.approx(kl, abs=1e-9)
    assert (kl - math.log(n)) / (n - 1) == pytest.approx(-1 / n, abs=1e-9)  # E_bon[log F] = −1/N
    assert best_of_n.win_rate(n) == pytest.approx(mean(lambda u: u * n * u ** (n - 1)), abs=1e-9)


@pytest.mark.parametrize(("n", "kl"), [(2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835), (64, 3.174)])
def test_kl_from_reference_printed_values(n, kl):
    assert best_of_n.kl_from_reference(n) == pytest.approx(kl, abs=6e-4)  # printed digits, some of them cut


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("rewards", [TIED, ONE_TO_ONE])
def test_levels_equal_brute_force(rewards, n):
    bon = bon_by_enumeration(MASS, rewards, n)
    a, b = cdf(MASS, rewards)
    kl = sum(float(q) * math.log(q / p) for q, p in zip(bon, MASS, strict=True) if q)
    win = sum(q * (low + high) / 2 for q, low, high in zip(bon, a, b, strict=True))
    ascending = sorted(set(rewards))
    mass = as_floats(sum(p for p, r in zip(MASS, rewards, strict=True) if r == level) for level in ascending)
    per_level = [sum(q for q, r in zip(bon, rewards, strict=True) if r == level) for level in ascending]
    np.testing.assert_allclose(best_of_n.level_probabilities(mass, n), as_floats(per_level), rtol=EXACT)
    assert best_of_n.win_rate_from_levels(mass, n) == pytest.approx(float(win), rel=EXACT)
    assert best_of_n.kl_from_levels(mass, n) == pytest.approx(kl, rel=EXACT, abs=EXACT)


@given(levels, st.floats(1.0, 200.0))
def test_ties_only_lower_kl_and_win_rate(counts, n):
    mass = np.array([0.0, *counts, 0.0]) / sum(counts)  # levels without mass change nothing and warn of nothing
    assert -1e-9 <= best_of_n.kl_from_levels(mass, n) <= best_of_n.kl_from_reference(n) + 1e-9
    assert 0.5 - 1e-9 <= best_of_n.win_rate_from_levels(mass, n) <= best_of_n.win_rate(n) + 1e-9


@given(st.floats(1.0, 1e6))
def test_n_from_kl_inverts_kl_from_reference(n):
    # near n = 1 the KL is quadratic in n − 1, so half of the digits are lost there
    assert best_of_n.n_from_kl(best_of_n.kl_from_reference(n)) == pytest.approx(n, rel=1e-9, abs=1e-7)


@given(st.floats(0.0, 30.0))
def test_kl_from_reference_inverts_n_from_kl(kl):
    assert best_of_n.kl_from_reference(best_of_n.n_from_kl(kl)) == pytest.approx(kl, rel=1e-9, abs=1e-14)


def test_kl_coef_and_n():
    assert best_of_n.kl_coef_from_n(11) == 0.1
    assert best_of_n.n_from_kl_coef(0.25) == 5.0
    assert best_of_n.n_from_kl_coef(best_of_n.kl_coef_from_n(37.5)) == pytest.approx(37.5, rel=EXACT)


@pytest.mark.parametrize(
    "call",
    [
        lambda: best_of_n.log_weight(0.1, 0.2, 0.99),
        lambda: best_of_n.log_weight(0.1, 0.2, math.nan),
        lambda: best_of_n.log_weight(0.1, 0.2, math.inf),
        lambda: best_of_n.log_weight(0.3, 0.2, 2),
        lambda: best_of_n.log_weight(-0.1, 0.2, 2),
        lambda: best_of_n.log_weight(0.5, 1.0000001, 2),
        lambda: best_of_n.log_weight(math.nan, 0.5, 2),
        lambda: best_of_n.log_weight_lower_bound(0.5, 0.5),
        lambda: best_of_n.kl_coef_from_n(1),
        lambda: best_of_n.n_from_kl_coef(0),
        lambda: best_of_n.n_from_kl(-0.1),
        lambda: best_of_n.n_from_kl(math.nan),
        lambda: best_of_n.n_from_kl(701),
        lambda: best_of_n.level_probabilities([0.5, 0.2], 2),
        lambda: best_of_n.level_probabilities([1.5, -0.5], 2),
        lambda: best_of_n.kl_from_reference(0.5),
        lambda: best_of_n.win_rate(0),
        lambda: best_of_n.kl_floor(10, 0.5),
        lambda: best_of_n.order_statistic_weights(5, 6),
        lambda: best_of_n.order_statistic_weights(5, 0),
        lambda: best_of_n.order_statistic_weights(5, 2.5),
        lambda: best_of_n.order_statistic_weights(5, math.inf),
        lambda: best_of_n.order_statistic_weights(5, math.nan),
        lambda: best_of_n.expectation([1.0, 2.0], [1.0, math.nan], 1),
    ],
)
def test_out_of_range_raises(call):
    with pytest.raises(ValueError):
        call()
