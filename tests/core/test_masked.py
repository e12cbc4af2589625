"""Masked means against numpy on the selected entries."""

import numpy as np
import torch

from vbon.core.masked import last_token, masked_mean

VALUES = torch.tensor([[1.5, -2.0, 40.0, 7.0], [0.25, 9.0, -3.0, 100.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False, True], [True, False, True, False]])


def test_masked_mean():
    np.testing.assert_allclose(masked_mean(VALUES, MASK), VALUES.numpy()[MASK.numpy()].mean(), rtol=1e-15)


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(VALUES, torch.zeros_like(MASK)) == 0


def test_last_token():
    mask = torch.tensor([[True, False, True, False], [True, True, True, True], [True] + [False] * 3, [False] * 4])
    assert last_token(mask).tolist() == [2, 3, 0, 0]
