"""Numbers in print, against what a careful typist would write."""

import pytest

from vbon.core.estimate import Estimate
from vbon.report.words import estimate_text, n_text, number, percent_estimate


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.2345, 2, "1.23"), (-0.5, 1, "−0.5"), (-0.0001, 2, "0.00"), (12345.6, 0, "12,346"), (None, 2, "–")],
)
def test_number(value, digits, text):
    assert number(value, digits) == text


def test_estimates_carry_their_interval():
    assert percent_estimate(Estimate(0.8814, 0.87, 0.8925)) == "88.1 % (87.0–89.2)"
    assert estimate_text(Estimate(-0.1, -0.2, 0.0)) == "−0.10 (−0.20 to 0.00)"
    assert estimate_text(Estimate(1.31, 1.25, 1.37)) == "1.31 (1.25–1.37)"


def test_n_is_printed_without_needless_decimals():
    assert (n_text(8.0), n_text(2.5)) == ("8", "2.5")
