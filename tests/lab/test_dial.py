"""The distances of a turned N in the enumerable world, with the exact best-of-N in place of a run."""

import pytest
from benchmarks.dial import distances

KNOWN = {(8, 4): (0.060, 1.613), (32, 8): (0.215, 4.919), (32, 16): (0.104, 12.220)}


def test_distances_to_best_of_n_after_turning():
    """The figures were computed by an independent script on the same world; the guide quotes them."""
    rows = distances(list(KNOWN))
    for row, (turned, reference) in zip(rows, KNOWN.values(), strict=True):
        assert row["turned"] == pytest.approx(turned, abs=6e-4)
        assert row["reference"] == pytest.approx(reference, abs=6e-4)
        assert row["turned"] < row["unturned"]
        assert row["kl_policy_ref"] == pytest.approx(row["kl_bon_ref"], rel=0.1)
