"""Random numbers as functions of their purpose: there is no state, so a resumed run draws the same numbers."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# The second part of a key, after the seed. 2 is not used: renumbering the others would change every draw.
ROLLOUT, PROMPT_ORDER, VALIDATION, RANK_TEST, OFFLINE, EVALUATION, FORWARD_KL = 0, 1, 3, 4, 5, 6, 7
# The third part, where one purpose draws several times.
COMPLETIONS, HELD_OUT_LOSS = 1, 2


def generator(*key: int) -> np.random.Generator:
    """Make a Philox generator for a key such as (seed, ROLLOUT, iteration); the numbers of a key are ≥ 0."""
    # the length keeps (s, k) and (s, k, 0) apart, which SeedSequence pads to the same words
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((len(key), *key))))


def uniforms(shape: tuple[int, ...], *key: int) -> Tensor:
    """Draw float64 uniforms in [0, 1) as a function of the key."""
    return torch.from_numpy(generator(*key).random(shape))


def permutation(count: int, *key: int) -> Tensor:
    """Draw an int64 permutation of range(count) as a function of the key."""
    return torch.from_numpy(generator(*key).permutation(count))


def systematic(weights: ArrayLike, count: int, offset: float) -> NDArray[np.int64]:
    """Draw `count` places with expected multiplicity ∝ weight, evenly spread over the cumulated weights.

    Args:
        weights: at least 0, not all 0, (B,).
        count: the number of draws.
        offset: the one random number that all draws share, in [0, 1).

    Returns:
        Places, int64 (count,), ascending.
    """
    cumulative = np.cumsum(np.asarray(weights, np.float64))
    points = (np.arange(count) + offset) / count * cumulative[-1]
    places = np.searchsorted(cumulative, points, side="right")
    return np.asarray(np.minimum(places, len(cumulative) - 1), np.int64)
