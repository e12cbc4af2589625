"""Runs that differ in their seed alone, told as one row and one curve."""

from vbon.lab import rows

RUNS = [
    {"n": 8, "way": "plain", "seed": 0, "kl_policy_bon": 3.0, "reward": 1.0},
    {"n": 2, "way": "plain", "seed": 0, "kl_policy_bon": 0.5, "reward": 4.0},
    {"n": 8, "way": "plain", "seed": 1, "kl_policy_bon": 1.0, "reward": 5.0},
    {"n": 8, "way": "plain", "seed": 2, "kl_policy_bon": 2.0, "reward": 9.0},
]


def test_a_row_has_the_medians_and_the_ends_of_the_distance():
    first, second = rows.summary(RUNS, ("n", "way"))
    assert first == {
        "n": 8,
        "way": "plain",
        "seeds": 3,
        "kl_policy_bon": 2.0,
        "reward": 5.0,
        "lowest": 1.0,
        "highest": 3.0,
    }
    assert second["n"] == 2 and second["seeds"] == 1 and second["lowest"] == second["highest"] == 0.5


def test_a_curve_ascends_and_its_band_is_that_of_what_is_drawn():
    curve = rows.seeds_line(RUNS, "n", "reward", "plain")
    assert curve.x == [2, 8] and curve.y == [4.0, 5.0]
    assert curve.low == [4.0, 1.0] and curve.high == [4.0, 9.0]
