"""The resolution of a reward is measured where its numbers depend on the batch, and 0 elsewhere."""

import numpy as np
import pytest

from vbon.rewards import callable_reward
from vbon.rewards.checked import checked
from vbon.rewards.resolution import MARGIN, rescore

NOISE = 1e-7


def lengths(completions):
    return [len(text) for text in completions]


def by_batch(completions):
    """The length, and in the last digits the size of the batch."""
    return [len(text) + NOISE * (len(completions) % 7) for text in completions]


by_batch.batch_noise = True
TEXTS = ["x" * n for n in range(1, 33)]


def of(reward):
    return rescore(reward, ["p"] * len(TEXTS), TEXTS, {})


def test_a_function_is_exact_unless_it_says_otherwise():
    calls = []

    def counted(completions):
        calls.append(len(completions))
        return lengths(completions)

    again = of(callable_reward(counted, name="f", fingerprint="f"))
    assert again.resolution == 0 and again.rewards.tolist() == lengths(TEXTS) and calls == [32]


def test_batch_noise_is_measured():
    again = of(callable_reward(by_batch, name="f", fingerprint="f"))
    seen = max(NOISE * abs(size % 7 - 32 % 7) for size in (16, 1))
    assert again.resolution == pytest.approx(MARGIN * seen, rel=1e-6)
    assert of(callable_reward(by_batch, name="f", fingerprint="f", batch_size=1)).resolution == 0


def test_the_least_noise_of_a_network_counts_where_none_is_seen():
    reward = checked(lambda prompts, texts, columns: lengths(texts), name="n", fingerprint="n", noise=2**-23)
    assert of(reward).resolution == MARGIN * 2**-23 * 32
    assert np.isclose(rescore(reward, [], [], {}).resolution, 0)
