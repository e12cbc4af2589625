"""Rewards of enumerable worlds, as `vbon.lab.rewards:NAME`: a base value, and maps that keep or break its order.

A completion is letters with spaces between. Training sees these only through its pool and its rollouts.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Sequence

BINARY_THRESHOLD = 3.0
OUTLIER_SHARE = 0.01


def letter_value(letter: str) -> float:
    """What one letter is worth, in [−1.4, 1.4]: 0.90, 0.06, −0.99, 1.40, −1.08 for a … e."""
    return round(1.4 * math.sin(0.7 + 2.4 * (ord(letter) - ord("a"))), 2)


def base(prompt: str, completion: str) -> float:
    """Worth of the letters, of neighbours under this prompt, and 1e-6 times a hash, so that no two completions tie."""
    letters = completion.split()
    pairs = sum(_hash(f"{prompt}|{a}{b}") - 0.5 for a, b in itertools.pairwise(letters))
    return sum(map(letter_value, letters)) + 1.2 * pairs + 1e-6 * _hash(f"{prompt}:{' '.join(letters)}")


def _hash(text: str) -> float:
    """A number in [0, 1) for each text."""
    return zlib.crc32(text.encode()) / 2**32


def _mapped(change: Callable[[float], float], prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [change(base(prompt, completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def continuous(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The base value itself, without ties."""
    return _mapped(lambda r: r, prompts, completions)


def levels(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Five levels, −2 … 2."""
    return _mapped(lambda r: float(round(max(-2.0, min(2.0, r / 1.5)))), prompts, completions)


def binary(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A verifier: 1 above the threshold, else 0."""
    return _mapped(lambda r: float(r > BINARY_THRESHOLD), prompts, completions)


def affine(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """1000·r − 7: order kept."""
    return _mapped(lambda r: 1000 * r - 7, prompts, completions)


def exponential(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """exp(r): order kept."""
    return _mapped(math.exp, prompts, completions)


def cubic(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """r³ + r: order kept."""
    return _mapped(lambda r: r**3 + r, prompts, completions)


def stretched_tail(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Outliers that keep the order: what lies above 4.5 is worth a hundred times more above it."""
    return _mapped(lambda r: r + 100 * max(0.0, r - 4.5), prompts, completions)


def log_saturated(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """log(1 + (r + 8)·3) cut to a tenth: the upper rewards tie."""
    return _mapped(lambda r: round(math.log1p(3 * max(0.0, r + 8)), 1), prompts, completions)


def tanh_saturated(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """tanh(r/2) in steps of 0.01, as in a low-precision store: everything far from 0 ties."""
    return _mapped(lambda r: round(math.tanh(r / 2), 2), prompts, completions)


def outliers(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Wrong rewards, order not kept: 1 % of the completions, chosen by a hash, gain 100."""
    hit = (_hash(f"outlier {p}:{c.strip()}") < OUTLIER_SHARE for p, c in zip(prompts, completions, strict=True))
    return [r + 100 * wrong for r, wrong in zip(continuous(prompts, completions), hit, strict=True)]
