"""Stored log π_ref are believed where a few of them agree with the model in use."""

from pathlib import Path

import numpy as np
import pytest

from vbon.pool.ref_logprobs import ROWS_COMPARED, TOLERANCE, checked_ref_logprobs

TRUE = np.random.default_rng(0).normal(-20, 5, 300)


class Model:
    def __init__(self):
        self.asked: list[int] = []

    def __call__(self, rows):
        self.asked += list(rows)
        return TRUE[rows]


def checked(stored, model):
    return checked_ref_logprobs(stored, lambda rows: np.full(len(rows), 10), model, Path("pool"))


def test_right_ones_stay_to_the_bit():
    stored, model = TRUE + 0.9 * TOLERANCE * 10 * np.random.default_rng(1).uniform(-1, 1, 300), Model()
    assert checked(stored, model).tobytes() == stored.tobytes()
    assert len(model.asked) == ROWS_COMPARED


def test_only_unknown_ones_are_computed_where_the_known_are_right():
    stored, model = TRUE.copy(), Model()
    stored[[3, 250]] = np.nan
    np.testing.assert_array_equal(checked(stored, model), TRUE)
    assert len(model.asked) == ROWS_COMPARED + 2


@pytest.mark.parametrize("wrong", [lambda true: true * 2, lambda true: true + 0.01])
def test_where_they_are_of_another_model_all_are_computed(wrong):
    with pytest.warns(UserWarning, match="differ from this model's by up to .* nats per token"):
        np.testing.assert_array_equal(checked(wrong(TRUE), Model()), TRUE)


def test_a_pool_that_knows_none():
    np.testing.assert_array_equal(checked(np.full(300, np.nan), Model()), TRUE)
