"""`vbon train` takes the model and the reward that its pool records, and says so where they cannot be loaded."""

import dataclasses
import json
import shutil

import pytest

from vbon.artifacts.run import RunFolder
from vbon.errors import VbonError
from vbon.training.train import train


@pytest.fixture
def renamed(pool, tmp_path):
    """renamed(model=…, reward=…) → a copy of the pool that records these."""

    def make(**names):
        copied = tmp_path / "pool"
        shutil.copytree(pool, copied)
        manifest = copied / "manifest.json"
        content = json.loads(manifest.read_text())
        assert content["model"] and content["reward"]
        manifest.write_text(json.dumps(content | names))
        return str(copied)

    return make


def without_names(configure, **changes):
    return dataclasses.replace(configure(), model=None, reward=None, **changes)


def test_both_default_to_the_pools_own(configure, world):
    config = without_names(configure, num_iterations=1)
    train(config)
    record = RunFolder(config.out).read_record()
    assert (record.ref_model, record.reward) == (world.model, world.reward())


@pytest.mark.parametrize(
    ("what", "name"), [("model", "./moved/model"), ("reward", "moved.py:score"), ("reward", "./moved/classifier")]
)
def test_a_name_that_came_from_the_pool_is_told_apart_from_a_flag(configure, renamed, what, name):
    pool = renamed(**{what: name})
    with pytest.raises(VbonError, match=rf"the pool .* records this {what}; name another with --{what}"):
        train(without_names(configure, pool=pool))
    with pytest.raises(VbonError) as error:
        train(dataclasses.replace(configure(), pool=pool, **{what: name}))
    assert "records this" not in str(error.value)


@pytest.mark.parametrize(("what", "said"), [("model", "which model made it"), ("reward", "which reward scored it")])
def test_a_pool_without_names_asks_for_the_flag(configure, renamed, what, said):
    with pytest.raises(VbonError, match=rf"does not say {said}; name it with --{what}"):
        train(without_names(configure, pool=renamed(**{what: None})))


def test_a_pairwise_reward_of_the_pool_is_checked_like_one_that_is_given(configure, renamed):
    pool = renamed(reward="pairwise:builtin:length")
    with pytest.raises(VbonError, match="--reward pairwise: has no number for a completion alone"):
        train(without_names(configure, pool=pool, tie_rule="order"))
