"""Random numbers as functions of what they are for: without state, a resumed run draws what it would have."""

import numpy as np
import torch
from torch import Tensor

ROLLOUT, PROMPT_ORDER, MINIBATCH, VALIDATION, RANK_TEST, OFFLINE, EVALUATION, FORWARD_KL = range(8)


def generator(*key: int) -> np.random.Generator:
    """A Philox generator of its own for each key, e.g. (seed, MINIBATCH, iteration, epoch). Keys are ≥ 0."""
    # the length keeps (s, k) and (s, k, 0) apart, which SeedSequence pads to the same words
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((len(key), *key))))


def uniforms(shape: tuple[int, ...], *key: int) -> Tensor:
    """float64 uniforms in [0, 1), a function of the key."""
    return torch.from_numpy(generator(*key).random(shape))


def permutation(count: int, *key: int) -> Tensor:
    """int64 permutation of range(count), a function of the key."""
    return torch.from_numpy(generator(*key).permutation(count))
