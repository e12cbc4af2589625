"""The exact cases of the map from N to β, against sums and quadrature."""

import numpy as np
import pytest
from scipy import integrate, stats

from vbon.core.best_of_n import kl_from_reference, level_probabilities
from vbon.core.kl_rl import kl_coef_for_gaussian, kl_coef_for_log_rank, kl_coef_for_verifier

NS = [1.5, 2, 8, 64]


@pytest.mark.parametrize("n", NS)
def test_gaussian_spends_the_kl_of_best_of_n(n):
    """KL of N(r; 0, σ²)·exp(r/β), normalised, by quadrature."""
    std = 1.7
    shift = std**2 / kl_coef_for_gaussian(n, std)
    tilted = stats.norm(shift, std)
    kl, _ = integrate.quad(
        lambda r: tilted.pdf(r) * (tilted.logpdf(r) - stats.norm.logpdf(r, 0, std)), -60, 60, points=[shift]
    )
    assert kl == pytest.approx(kl_from_reference(n), rel=1e-8)


@pytest.mark.parametrize("n", NS)
@pytest.mark.parametrize("pass_rate", [1e-6, 0.3, 0.97])
def test_verifier_is_best_of_n(n, pass_rate):
    odds = pass_rate / (1 - pass_rate) * np.exp(1 / kl_coef_for_verifier(n, pass_rate))
    failed, passed = level_probabilities([1 - pass_rate, pass_rate], n)
    assert odds == pytest.approx(passed / failed, rel=1e-9)


@pytest.mark.parametrize("n", NS)
def test_log_rank_is_best_of_n(n):
    """exp(r/β) with r = s·log u is u^(N−1), the shape of best-of-N's density."""
    u = np.linspace(0.01, 1, 50)
    np.testing.assert_allclose(np.exp(3.0 * np.log(u) / kl_coef_for_log_rank(n, 3.0)), u ** (n - 1), rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [lambda: kl_coef_for_gaussian(8, 0), lambda: kl_coef_for_verifier(8, 1), lambda: kl_coef_for_verifier(8, 0),
     lambda: kl_coef_for_log_rank(1, 1)],
)  # fmt: skip
def test_refusals(call):
    with pytest.raises(ValueError, match="must be"):
        call()
