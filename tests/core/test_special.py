"""Special functions against scipy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from vbon.core.special import chi2_sf, log_beta, log_binomial, log_gamma

RTOL = 1e-12  # both are float64 series; lgamma differs in the last digits


def test_log_gamma():
    x = np.array([1e-3, 0.5, 1.0, 2.5, 41.0, 1e6])
    np.testing.assert_allclose(log_gamma(x), scipy.special.gammaln(x), rtol=RTOL, atol=1e-14)


def test_log_gamma_takes_a_read_only_reversed_view():
    x = np.arange(1.0, 6.0)[::-1]
    x.flags.writeable = False
    np.testing.assert_allclose(log_gamma(x), np.log([24, 6, 2, 1, 1]), atol=1e-14)


def test_log_beta_broadcasts():
    a, b = np.array([[0.3], [7.0], [250.0]]), np.array([1.0, 2.2, 90.0])
    np.testing.assert_allclose(log_beta(a, b), scipy.special.betaln(a, b), rtol=1e-10)


def test_log_binomial():
    n, k = np.array([10, 250, 250, 1000.5, 7]), np.array([3, 11, 250, 40.25, 0])
    np.testing.assert_allclose(log_binomial(n, k), np.log(scipy.special.binom(n, k)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dof", [1, 2, 9, 40])
@pytest.mark.parametrize("x", [0.0, 0.7, 9.3, 60.0])
def test_chi2_sf(x, dof):
    assert chi2_sf(x, dof) == pytest.approx(scipy.stats.chi2.sf(x, dof), rel=1e-10)
