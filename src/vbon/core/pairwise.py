"""Ranks from comparisons of two: F̂ of a completion is the share of k pool samples that it beats; a tie is half.

A judge says of two completions which is better, or that it has no preference. A completion y that beats w of k samples
of π_ref and ties with t of them has

    a = w/(k+1),    b = (w + t + 1)/(k+1)

which is the rule of `core.reward_cdf` with m = k. y and its k opponents are k + 1 exchangeable draws, so that a judge
that orders completions (no cycles) has E_ref[W_N(a, b)] = 1 exactly, whatever k is: a smaller k only makes F̂ coarser,
as a smaller M does, and log W_N is at least −(N−1)·log(k+1).

Cycles (a beats b, b beats c, c beats a) lower it: the k + 1 numbers of wins are then less spread than 0, 1, …, k, by
which they are majorised (Landau 1953), and W_N is convex in them for N ≥ 2. So E_ref[W_N] ≤ 1: the target is flatter
than best-of-N, never sharper. At N = 2, W_N is linear and the mean is 1 even so. Not in the paper (arXiv 2407.06057),
whose reward is a number.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.reward_cdf import Interval

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def win_interval(wins: ArrayLike, ties: ArrayLike, num_opponents: ArrayLike) -> Interval:
    """Compute (F_<, F_≤) from comparisons with k samples of π_ref.

    `wins`, `ties` and `num_opponents` (k, at least 1) are int, of one shape; so are the results.

    Raises:
        ValueError: more wins and ties than opponents.
    """
    won, tied, count = (np.asarray(one, np.int64) for one in (wins, ties, num_opponents))
    if np.any((won < 0) | (tied < 0) | (won + tied > count)):
        raise ValueError("wins and ties must be counts that do not exceed num_opponents")
    return Interval(won / (count + 1), (won + tied + 1) / (count + 1), 1.0 / (count + 1))


def count_cycles(preference: ArrayLike) -> tuple[int, int]:
    """Count (cycles, triples): of three completions with three strict preferences, how many go round in a circle.

    `preference` is (K, K), antisymmetric: 1 where the row beats the column, −1 where it loses, 0 for a tie or for two
    that were not compared.
    """
    beats = (np.asarray(preference) > 0).astype(np.int64)
    compared = beats + beats.T
    cycles = int(np.trace(beats @ beats @ beats)) // 3
    return cycles, int(np.trace(compared @ compared @ compared)) // 6
