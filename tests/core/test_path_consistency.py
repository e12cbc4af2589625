"""Path consistency: zero at best-of-N for every completion, and the sum of squares that its formula names."""

import numpy as np
import pytest
import torch

from vbon.core.path_consistency import path_loss, value_gaps


def tree(seed: int, vocabulary: int = 3, length: int = 3):
    """log π_ref of each token of all sequences of a tree, (V^T, T), and W of each, with mean 1 under π_ref."""
    random = np.random.default_rng(seed)
    logits = {(): None}
    table: dict[tuple[int, ...], np.ndarray] = {}
    for depth in range(length):
        for prefix in np.ndindex(*(vocabulary,) * depth):
            row = random.normal(size=vocabulary)
            table[prefix] = row - np.log(np.exp(row).sum())
    assert logits
    sequences = list(np.ndindex(*(vocabulary,) * length))
    ref = np.array([[table[s[:t]][s[t]] for t in range(length)] for s in sequences])
    weights = random.exponential(size=len(sequences))
    weights /= (np.exp(ref.sum(1)) * weights).sum()
    return sequences, ref, weights


def test_every_completion_of_best_of_n_has_no_loss_whatever_policy_it_came_from():
    sequences, ref, weights = tree(0)
    mass = np.exp(ref.sum(1))

    def value(prefix):
        rows = [i for i, s in enumerate(sequences) if s[: len(prefix)] == prefix]
        return np.log((mass[rows] * weights[rows]).sum() / mass[rows].sum())

    values = np.array([[value(s[:t]) for t in range(3)] for s in sequences])
    after = np.array([[value(s[: t + 1]) for t in range(3)] for s in sequences])
    log_ratios = torch.from_numpy(after - values)  # of best-of-N: what the value gains over the token
    mask = torch.ones(len(sequences), 3, dtype=torch.bool)
    gaps = value_gaps(log_ratios, torch.from_numpy(values) + 5.0, torch.from_numpy(np.log(weights)), mask)
    assert gaps.abs().max() < 1e-12
    assert path_loss(gaps, mask, 0.9, 10.0).max() < 1e-24
    assert (
        path_loss(
            value_gaps(0 * log_ratios, torch.zeros_like(log_ratios), torch.from_numpy(np.log(weights)), mask),
            mask,
            0.9,
            10.0,
        ).min()
        >= 0
    )


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_loss_is_the_sum_of_its_parts_and_padding_adds_none(decay):
    random = np.random.default_rng(1)
    length, padded = 4, 6
    ratios, values = (torch.from_numpy(random.normal(size=(1, padded))) for _ in range(2))
    log_weight = torch.tensor([0.7], dtype=torch.float64)
    mask = torch.arange(padded)[None] < length
    v, total = values[0] - values[0, 0], 0.0
    gaps = [float(v[t] - ratios[0, :t].sum()) for t in range(length)] + [0.7 - float(ratios[0, :length].sum())]
    pairs = [(decay ** (j - i), (gaps[j] - gaps[i]) ** 2) for i in range(length + 1) for j in range(i + 1, length + 1)]
    total = (gaps[-1] - gaps[0]) ** 2 + sum(w * d for w, d in pairs) / sum(w for w, _ in pairs)
    for width in (length, padded):
        found = value_gaps(ratios[:, :width], values[:, :width], log_weight, mask[:, :width])
        assert path_loss(found, mask[:, :width], decay, 100.0).item() == pytest.approx(total / 2, rel=1e-12)


def test_a_difference_beyond_the_clip_has_the_gradient_of_one_at_it():
    """One token: the loss is the square of log W − log-ratio, taken twice by halves."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    for log_weight, expected in ((-3.0, 2 * 3.0), (-50.0, 2 * 10.0), (50.0, -2 * 10.0)):
        ratio = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        values = torch.zeros(1, 1, dtype=torch.float64)
        gaps = value_gaps(ratio, values, torch.tensor([log_weight], dtype=torch.float64), mask)
        path_loss(gaps, mask, 0.9, 10.0).sum().backward()
        assert ratio.grad.item() == pytest.approx(expected)
