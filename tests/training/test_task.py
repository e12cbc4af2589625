"""Prompts in turn, the split, and the checks before a start."""

import numpy as np
import pytest
import torch
from tests.enumerable import COMPLETIONS, EOS, PAD, PROMPTS, STEPS, task_of, write_pool

from vbon.errors import VbonError
from vbon.models import load
from vbon.models.generate import Sampling
from vbon.pool import ReferencePool
from vbon.rewards import load_reward
from vbon.training.task import check_rank_test, make_task, pool_rank_test, prompt_slots, sampling_of, split_pool
from vbon.training.trainer import VBoNTrainer


@pytest.mark.parametrize("slots", [3, 8, 20])
def test_every_pass_over_the_prompts_holds_each_once(slots):
    taken = torch.cat([prompt_slots(8, first, slots, 5) for first in range(0, 24 * slots, slots)])
    passes = taken[: len(taken) // 8 * 8].view(-1, 8)
    assert (passes.sort(1).values == torch.arange(8)).all()
    assert len({tuple(one.tolist()) for one in passes}) > len(passes) // 2


def test_prompt_order_depends_on_the_seed_alone():
    whole = prompt_slots(8, 0, 40, 5)
    assert torch.equal(prompt_slots(8, 13, 9, 5), whole[13:22])
    assert not torch.equal(prompt_slots(8, 0, 40, 6), whole)


def test_split_keeps_validation_prompts_out_of_training(pool, configure):
    opened = ReferencePool.open(pool)
    training, validation = split_pool(opened, configure(validation_fraction=0.5, seed=1))
    ids = [{prompt.prompt_id for prompt in part.prompts} for part in (training, validation)]
    assert ids[0].isdisjoint(ids[1]) and len(ids[0] | ids[1]) == len(PROMPTS) and all(ids)
    assert split_pool(opened, configure(validation_fraction=0.0)) == (opened, opened)


def test_ranks_in_a_pool_of_the_same_distribution_are_uniform(world, pool):
    policy = load.load_policy(world.model)
    p_values = [pool_rank_test(policy, task_of(world, pool), seed).p_value for seed in range(5)]
    assert min(p_values) > 1e-3 and max(p_values) > 0.2


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_pool_made_at_another_temperature_is_refused(world, tmp_path, temperature):
    task = task_of(world, write_pool(world, tmp_path / "pool", drawn_at=temperature))
    result = pool_rank_test(load.load_policy(world.model), task, 0)
    with pytest.raises(VbonError, match=r"do not rank like this pool's \(p = .*--allow-mismatch rank_test"):
        check_rank_test(result, task.pool, allowed=False)
    check_rank_test(result, task.pool, allowed=True)


def test_a_pool_scored_by_another_reward_is_refused(world, tmp_path, configure):
    """Ranks cannot show it where most samples are copies of the pool's, so a few of the pool's are scored again."""
    pool = write_pool(world, tmp_path / "pool", function="levels", reward=None)  # what scored it is not known
    policy = load.load_policy(world.model)
    parts = (policy, policy, load_reward(world.reward("score")), ReferencePool.open(pool))
    with pytest.raises(VbonError, match=r"^reward mismatch: .*reward.py:score gives .* --allow-mismatch reward"):
        VBoNTrainer(*parts, configure(pool=str(pool)))
    VBoNTrainer(*parts, configure(pool=str(pool), allow_mismatch=("reward",)))


def test_sampling_is_the_flags_then_the_pools(world, pool, configure):
    opened, tokenizer = ReferencePool.open(pool), load.load_tokenizer(world.model)
    policy = load.load_policy(world.model)
    assert sampling_of(policy, tokenizer, opened, configure()) == Sampling(1.0, STEPS, (EOS,), PAD)
    flags = configure(temperature=0.7, max_new_tokens=2, stop_token_ids=(0, 3))
    assert sampling_of(policy, tokenizer, opened, flags) == Sampling(0.7, 2, (0, 3), PAD)


@pytest.mark.parametrize("extra", [(), (3,), (EOS,), (2, 3)])
def test_stop_token_ids_add_to_the_models_own_in_every_verb(world, tmp_path, configure, extra):
    """Training, collecting, and an engine that does not load the weights, for an imported pool that does not say."""
    opened = ReferencePool.open(write_pool(world, tmp_path / "pool", stop=None))
    policy, tokenizer = load.load_policy(world.model), load.load_tokenizer(world.model)
    trained = sampling_of(policy, tokenizer, opened, configure(stop_token_ids=extra)).stop_token_ids
    described = load.load_config(world.model)
    assert trained == load.stop_token_ids(policy, tokenizer, extra) == tuple(sorted({EOS, *extra}))
    assert trained == load.configured_stop_token_ids(world.model, described, tokenizer, extra)


@pytest.mark.parametrize("field", ["temperature", "max_new_tokens"])
def test_what_neither_flag_nor_pool_says_is_asked_for(world, tmp_path, configure, field):
    opened = ReferencePool.open(write_pool(world, tmp_path / "pool", **{field: None}))
    flag = "--" + field.replace("_", "-")
    with pytest.raises(VbonError, match=f"^{flag} is needed: the pool .* does not say"):
        sampling_of(load.load_policy(world.model), load.load_tokenizer(world.model), opened, configure())


def test_a_prompt_without_room_for_a_completion_is_named(world, pool):
    opened = ReferencePool.open(pool)
    parts = (opened, load.load_tokenizer(world.model), load_reward(world.reward()), Sampling(1.0, 6, (EOS,), PAD))
    with pytest.raises(
        VbonError, match=r"prompt [0-9a-f]{16}: prompt .* has 3 tokens; with 6 new ones it exceeds .* context of 8"
    ):
        make_task(*parts, "random", load.load_policy(world.model))


def test_order_breaks_ties_by_the_completion(world, tmp_path):
    task = task_of(world, write_pool(world, tmp_path / "pool", function="levels"), "levels", tie_rule="order")
    rewards, interval = task.score(np.zeros(40, np.int64), COMPLETIONS)
    assert len(set(rewards)) == 4
    seen = {tuple(row) for row in task.pool.completion_ids[: int(task.pool.num_samples[0])]}
    unseen = [i for i, row in enumerate(COMPLETIONS) if tuple(row) not in seen]
    mass = interval.cdf_le - interval.cdf_lt
    np.testing.assert_allclose(mass[unseen], 1 / 251)  # nobody else's: only its own draw
