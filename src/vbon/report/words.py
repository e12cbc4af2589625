"""Numbers as the page prints them."""

from vbon.core.estimate import Estimate

MISSING = "–"
MINUS = "−"


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals and a true minus sign; a dash where there is none."""
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    is_zero = not text.strip("-0.,")
    return text.lstrip("-") if is_zero else text.replace("-", MINUS)


def percent_text(value: float) -> str:
    """0.8814 → 88.1 %."""
    return f"{number(100 * value, 1)} %"


def percent_estimate(estimate: Estimate) -> str:
    """88.1 % (87.0–89.2)."""
    return f"{percent_text(estimate.value)} ({_interval(100 * estimate.low, 100 * estimate.high, 1)})"


def estimate_text(estimate: Estimate, digits: int = 2) -> str:
    """1.31 (1.25–1.37)."""
    return f"{number(estimate.value, digits)} ({_interval(estimate.low, estimate.high, digits)})"


def n_text(n: float) -> str:
    """8.0 → 8, 2.5 → 2.5."""
    return f"{n:g}"


def _interval(low: float, high: float, digits: int) -> str:
    if low == high:
        return "one prompt, no interval"
    # A minus after a dash would be hard to read.
    between = "–" if low >= 0 else " to "
    return f"{number(low, digits)}{between}{number(high, digits)}"
