"""Keyed random numbers: a function of the key, and of nothing else."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from vbon.core import seeds


def test_a_key_repeats_whatever_was_drawn_between():
    first = seeds.uniforms((3, 2), 1, seeds.ROLLOUT, 7)
    torch.rand(5), np.random.default_rng().random(), seeds.uniforms((4,), 9)
    assert torch.equal(first, seeds.uniforms((3, 2), 1, seeds.ROLLOUT, 7))


def test_neighbouring_keys_differ():
    keys = [
        (0,),
        (0, 0),
        (0, 0, 0),
        (0, 1),
        (1, 0),
        (1, 0, 0),
        (0, 2, 1),
        (0, 1, 2),
        (2, 1, 0),
        (5, 3, 2, 1),
        (5, 3, 2),
    ]
    draws = {float(seeds.uniforms((1,), *key)) for key in keys}
    assert len(draws) == len(keys)


def test_draws_across_keys_are_uniform():
    draws = np.array([float(seeds.uniforms((1,), 4, seeds.ROLLOUT, i)) for i in range(2000)])
    assert scipy.stats.kstest(draws, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 3 / np.sqrt(len(draws))


def test_permutations_are_permutations_and_all_occur():
    seen = [tuple(seeds.permutation(3, 4, seeds.PROMPT_ORDER, i).tolist()) for i in range(600)]
    assert {tuple(sorted(p)) for p in seen} == {(0, 1, 2)}
    counts = np.unique(np.array(seen), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_a_negative_key_raises():
    with pytest.raises(ValueError):
        seeds.generator(-1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any), st.integers(1, 40), st.floats(0, 0.999))
def test_a_systematic_draw_takes_each_place_as_often_as_its_weight_says(weights, count, offset):
    """To within one draw, rounded up or down, whatever the offset."""
    drawn = seeds.systematic(weights, count, offset)
    expected = count * np.array(weights) / np.sum(weights)
    assert len(drawn) == count and (np.diff(drawn) >= 0).all()
    assert (np.abs(np.bincount(drawn, minlength=len(weights)) - expected) < 1 + 1e-9).all()
