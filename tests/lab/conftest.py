"""A world of 40 completions, small enough for brute force."""

import pytest

from vbon.lab.exact import Truth, score_all
from vbon.lab.training import truth_of
from vbon.lab.world import World

SMALL = World(
    letters=3, max_new_tokens=3, prompts=("one", "two one"), sharpness=4.0, hidden_size=16, num_layers=1, seed=3
)


@pytest.fixture(scope="session")
def small() -> World:
    return SMALL


@pytest.fixture(scope="session")
def truth() -> Truth:
    return truth_of(SMALL)


@pytest.fixture(scope="session")
def level_truth(truth: Truth) -> Truth:
    return Truth(truth.ref_logprobs, score_all(SMALL, "vbon.lab.rewards:levels"))
