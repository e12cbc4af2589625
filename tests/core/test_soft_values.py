"""Soft values against conditional expectations by enumeration, on a tree of uneven words."""

import itertools

import numpy as np
import pytest
import torch

from vbon.core.soft_values import soft_returns, soft_value_loss

FLOAT64 = 1e-9
SHORT = ["ab", "b"]  # words that end before the third letter
WORDS = SHORT + [
    "".join(rest) for rest in itertools.product("ab", repeat=3) if not "".join(rest).startswith(("ab", "b"))
]
MASS = np.array([0.3, 0.25, 0.2, 0.25])
WEIGHTS = np.array([0.4, 1.9, 0.1, 0.0])
WEIGHTS[3] = (1 - MASS[:3] @ WEIGHTS[:3]) / MASS[3]  # mean 1, as W has
PREFIXES = sorted({word[:t] for word in WORDS for t in range(len(word))})
LENGTHS = [len(word) for word in WORDS]
MASK = torch.arange(3)[None] < torch.tensor(LENGTHS)[:, None]


def conditional(prefix):
    """E[W | prefix], by summing."""
    below = np.array([word.startswith(prefix) for word in WORDS])
    return (MASS[below] @ WEIGHTS[below]) / MASS[below].sum()


def table_of(values):
    """Prefix values as (B, T), a row a word."""
    index = [[PREFIXES.index(word[: min(t, len(word) - 1)]) for t in range(3)] for word in WORDS]
    return values[torch.tensor(index)]


def expected_loss(values, trace_decay):
    """The loss under π_ref; every word on its own, weighted by its mass and length as the mean over tokens counts."""
    table = table_of(values)
    losses = [
        soft_value_loss(table[i : i + 1], torch.tensor(WEIGHTS[i : i + 1]), MASK[i : i + 1], trace_decay) * LENGTHS[i]
        for i in range(len(WORDS))
    ]
    return (torch.stack(losses) * torch.tensor(MASS)).sum()


def test_the_words_are_a_tree_whose_masses_sum_to_one():
    assert WORDS == ["ab", "b", "aaa", "aab"] and MASS.sum() == pytest.approx(1) and (WEIGHTS > 0).all()


@pytest.mark.parametrize("trace_decay", [1.0, 0.7, 0.0])
def test_the_loss_is_least_at_the_log_of_the_conditional_expectation(trace_decay):
    values = torch.zeros(len(PREFIXES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([values], lr=0.5)
    for _ in range(3000):  # semi-gradient: the targets move with the values, so no line search
        optimizer.zero_grad()
        expected_loss(values, trace_decay).backward()
        optimizer.step()
    expected = [np.log(conditional(prefix)) for prefix in PREFIXES]
    assert expected[PREFIXES.index("")] == pytest.approx(0)
    np.testing.assert_allclose(values.detach(), expected, atol=1e-6)


def test_returns_are_the_weight_itself_or_the_next_value():
    values = torch.tensor([[0.1, -0.4, 0.3], [0.2, 0.5, 9.0]], dtype=torch.float64)
    weights = torch.tensor([2.0, 0.5], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    monte_carlo = soft_returns(values, weights, mask, 1.0)
    assert (monte_carlo[0] == 2.0).all() and (monte_carlo[1, :2] == 0.5).all()
    one_step = soft_returns(values, weights, mask, 0.0)
    np.testing.assert_allclose(one_step[0], [np.exp(-0.4), np.exp(0.3), 2.0], atol=FLOAT64)
    np.testing.assert_allclose(one_step[1, :2], [np.exp(0.5), 0.5], atol=FLOAT64)
    mixed = soft_returns(values, weights, mask, 0.25)
    last_but_one = 0.75 * np.exp(0.3) + 0.25 * 2.0
    np.testing.assert_allclose(mixed[0], [0.75 * np.exp(-0.4) + 0.25 * last_but_one, last_but_one, 2.0], atol=FLOAT64)
