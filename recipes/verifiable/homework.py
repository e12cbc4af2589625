"""Sums as a class writes them down: right, or with the mistakes that pupils make. Answers are written ones first."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from vbon.errors import VbonError


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What the reference learns from: how many written sums, and how often a column of one goes wrong."""

    digits: int = 3
    """Digits of each of the two numbers."""
    sums: int = 60_000
    held_out: float = 0.1
    """Share of all sums that the reference never sees: problems come from these."""
    forgotten_carry: float = 0.3
    """Chance that a carry is dropped."""
    slip: float = 0.1
    """Chance that a digit is written one too high or too low."""
    seed: int = 0


class Sum(NamedTuple):
    """Two numbers of equally many digits, to be added."""

    a: int
    b: int

    @property
    def prompt(self) -> str:
        return f"{self.a}+{self.b}="

    @property
    def answer(self) -> str:
        """The right digits, ones first: the order in which one adds."""
        return str(self.a + self.b)[::-1]

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Pairs of digits, ones first."""
        return [(int(x), int(y)) for x, y in zip(reversed(str(self.a)), reversed(str(self.b)), strict=True)]

    @property
    def carries(self) -> int:
        """Columns whose digits add to ten or more, the carry from the right included."""
        carry = count = 0
        for column in self.columns:
            carry = (sum(column) + carry) // 10
            count += carry
        return count


def draw_sums(corpus: CorpusConfig, count: int, seed: int, *, held_out: bool) -> list[Sum]:
    """Distinct sums, all held out or none, in random order. Raises VbonError where there are not so many."""
    chosen = list(islice(_draws(corpus, 100 * count, seed, held_out=held_out), count))
    if len(chosen) < count:
        where = "held out" if held_out else "left to learn from"
        raise VbonError(f"{count} sums of {corpus.digits} digits are wanted, but only {len(chosen)} are {where}")
    return chosen


def write_answer(one: Sum, corpus: CorpusConfig, rng: random.Random) -> str:
    """The digits that a pupil writes, ones first, column by column."""
    written, carry = [], 0
    for column in one.columns:
        total = sum(column) + carry
        digit = total % 10
        if rng.random() < corpus.slip:
            digit = (digit + rng.choice((-1, 1))) % 10
        written.append(str(digit))
        carry = int(total >= 10 and rng.random() >= corpus.forgotten_carry)
    return "".join(written) + "1" * carry


def _draws(corpus: CorpusConfig, tries: int, seed: int, *, held_out: bool) -> Iterator[Sum]:
    rng, seen = random.Random(seed), set()
    first, end = 10 ** (corpus.digits - 1), 10**corpus.digits
    for _ in range(tries):
        one = Sum(rng.randrange(first, end), rng.randrange(first, end))
        if one not in seen and _is_held_out(one, corpus.held_out) == held_out:
            seen.add(one)
            yield one


def _is_held_out(one: Sum, share: float) -> bool:
    return zlib.crc32(one.prompt.encode()) < share * 2**32
