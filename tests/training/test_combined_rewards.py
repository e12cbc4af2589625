"""Training on the ranks of several rewards: what it aims at, what no scale changes, and what is refused."""

import itertools

import numpy as np
import pytest
from tests.enumerable import write_pool
from tests.training.runs import refuse, weights

from vbon.core.rank_combination import RankCombination
from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.pool import ReferencePool
from vbon.training.train import train

FUNCTIONS = ("score", "scaled", "levels", "smooth")


@pytest.fixture(scope="module")
def pools(world):
    """Pools of the same samples under rewards that rank them differently, and one of them a thousand times larger."""
    return {name: str(write_pool(world, world.folder / f"combined-{name}", function=name)) for name in FUNCTIONS}


def beside(world, pools, *names, how="mean"):
    return {
        "combine_with": tuple(pools[name] for name in names),
        "combine_rewards": tuple(world.reward(name) for name in names),
        "combine": how,
    }


@pytest.mark.parametrize(
    ("how", "changes"),
    [*itertools.product(["mean", "worst", "lexicographic"], [{}]), ("mean", {"algorithm": "offline"})],
)
def test_a_reward_a_thousand_times_larger_changes_no_byte(world, configure, pools, tmp_path, how, changes):
    hashes, first = [], {"pool": pools["levels"], "reward": world.reward("levels")}
    for name in ("score", "scaled"):
        out = str(tmp_path / name)
        train(configure(**first, out=out, **beside(world, pools, name, how=how), **changes))
        hashes.append(weights(out))
    alone = str(tmp_path / "alone")
    train(configure(**first, out=alone, **changes))
    assert hashes[0] == hashes[1] != weights(alone)


def test_rollouts_are_ranked_by_every_reward(world, configure, pools, tmp_path, monkeypatch):
    """The sequence rewards of a run against the combination of the exact rewards of what it sampled."""
    from vbon.training import rollout

    seen = []
    original = rollout.Task.score

    def score(task, index, ids):
        result = original(task, index, ids)
        seen.append((task, index, ids, result))
        return result

    monkeypatch.setattr(rollout.Task, "score", score)
    train(configure(pool=pools["score"], **beside(world, pools, "smooth"), num_iterations=1))
    task, index, ids, (shares, interval) = seen[0]
    rows = [world.world.completions.index(list(row)) for row in ids]
    prompts = [world.world.prompts.index(task.prompts[one].prompt) for one in index]
    values = np.stack([world.rewards(name)[prompts, rows] for name in ("score", "smooth")], 1)
    names = [prompt.prompt_id for prompt in task.prompts]
    stored = [ReferencePool.open(pools[name]).select(names) for name in ("score", "smooth")]
    expected = RankCombination(np.stack([p.rewards for p in stored], 1), stored[0].num_samples, "mean")
    np.testing.assert_array_equal(interval, expected.interval(index, values))
    np.testing.assert_array_equal(shares, (interval.cdf_lt + interval.cdf_le) / 2)
    alone = RewardCDF(stored[0].rewards, stored[0].num_samples).interval(index, values[:, 0])
    assert (interval.cdf_lt != alone.cdf_lt).any()


def test_other_samples_are_refused(world, configure, pools, tmp_path):
    fewer = str(write_pool(world, tmp_path / "fewer", 200, "levels"))
    other = str(write_pool(world, tmp_path / "other", function="levels", drawn_at=2.0))
    for path in (fewer, other):
        config = configure(combine_with=(path,), combine_rewards=(world.reward("levels"),))
        refuse(config, "does not hold the samples of .*vbon rescore")


def test_the_reward_must_be_the_one_that_scored_its_pool(world, configure, pools):
    refuse(
        configure(combine_with=(pools["levels"],), combine_rewards=(world.reward("smooth"),)),
        "reward is .* in the pool",
    )


@pytest.mark.parametrize(
    "changes",
    [{"refine_tail": True}, {"tie_rule": "order"}, {"rounds": 2}, {"method": "kl-rl"}, {"combine_rewards": ("a", "b")}],
)
def test_flags_that_do_not_fit_are_refused(configure, changes):
    with pytest.raises(VbonError, match="--combine-with"):
        configure(combine_with=("a-pool",), **changes).validate()
