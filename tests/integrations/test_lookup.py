"""ρ from pools and from reference rewards that ride along, against the definition in exact rationals."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.enumerable import write_pool

from vbon.errors import VbonError
from vbon.integrations.lookup import (
    Reference,
    encode_reference,
    load_sequence_reward,
    read_reference,
    reference_columns,
    sequence_rewards,
)
from vbon.integrations.trl import VbonReward
from vbon.pool import ReferencePool, make_prompt
from vbon.rewards import callable_reward


def exact_rho(reward: float, pool: list[float], n: int) -> float:
    """log((b^N − a^N)/(b − a))/(N−1) with a = k_</(M+1), b = (k_< + k_= + 1)/(M+1), as fractions."""
    a = Fraction(sum(other < reward for other in pool), len(pool) + 1)
    b = a + Fraction(sum(other == reward for other in pool) + 1, len(pool) + 1)
    weight = (b**n - a**n) / (b - a)
    return (math.log(weight.numerator) - math.log(weight.denominator)) / (n - 1)


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=4),
    st.integers(-1, 6),
    st.integers(2, 40),
)
def test_rho_is_the_definition_and_stays_in_its_range(pools: list[list[int]], reward: int, n: int):
    values = sequence_rewards([float(reward)] * len(pools), pools, n)
    for value, pool in zip(values, pools, strict=True):
        assert value == pytest.approx(exact_rho(reward, pool, n), rel=1e-9, abs=1e-12)
        assert -math.log(len(pool) + 1) - 1e-12 <= value <= math.log(n) / (n - 1) + 1e-12


def lengths(completions):
    return [len(completion) for completion in completions]


LENGTH = callable_reward(lengths, name="length", fingerprint="length")


def test_three_ways_to_a_reference_give_one_rho(lab, draw_pool):
    pool = draw_pool(40, ["start", "start start"])
    asked = load_sequence_reward(lab.reward("positions"), 8, str(pool.path))
    alone = load_sequence_reward(lab.reward("positions"), 8)
    index, text = 1, " e e"
    prompt = pool.prompts[index]
    ways = [
        asked([Reference(asked.find(prompt.prompt_id, None), None)], [text]),
        asked([Reference(asked.find(None, prompt.prompt), None)], [text]),
        alone([read_reference(encode_reference(pool, index), alone.find, "row")], [text]),
    ]
    reward = lab.rewards("positions")[0, lab.world.texts.index(text)]
    rewards = pool.rewards[40:].tolist()
    for scores in ways:
        assert scores.rewards.tolist() == [reward]
        assert scores.sequence_rewards[0] == pytest.approx(exact_rho(reward, rewards, 8), rel=1e-12)
        assert scores.win_rates[0] == pytest.approx(np.mean([(reward > r) + (reward == r) / 2 for r in rewards]))


def test_copies_of_the_pools_completions_tie_in_every_host_under_noise(lab, draw_pool):
    """A reward that is a network differs by 1e-7 from call to call; a copy must stand among its copies all the same."""
    pool, random = draw_pool(40), np.random.default_rng(0)
    exact = dict(zip(lab.world.texts, lab.rewards("positions")[0].tolist(), strict=True))

    def noisy(completions):
        return [exact[text] + 1e-7 * random.uniform(-1, 1) for text in completions]

    noisy.batch_noise = True
    reward = callable_reward(noisy, name="noisy", fingerprint=pool.fingerprint.reward)
    texts, prompt = list(pool.completions), pool.prompts[0]
    rounded = [round(reward, 5) for reward in pool.rewards.tolist()]  # some of this pool are nearer than the resolution
    expected = [exact_rho(round(exact[text], 5), rounded, 8) for text in texts]
    asked, ridden = load_sequence_reward(reward, 8, pool), load_sequence_reward(reward, 8)
    reference = read_reference(encode_reference(pool, 0), ridden.find, "row")
    rows = {name: [values] * len(texts) for name, values in reference_columns(pool, 0).items()}
    for found in (
        asked([Reference(prompt, None)] * len(texts), texts).sequence_rewards,
        ridden([reference] * len(texts), texts).sequence_rewards,
        VbonReward(reward, 8)(prompts=[prompt.prompt] * len(texts), completions=texts, **rows),
        [VbonReward(reward, 8, pool)(prompts=[prompt.prompt], completions=[text])[0] for text in texts],
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_reference_rides_exactly_with_its_columns(draw_pool):
    pool = draw_pool(9, [[{"role": "user", "content": 'ü ⇒ "x"'}]], columns={"answer": [1, None, "二"]})
    read = read_reference(encode_reference(pool, 0), None, "row")
    assert read.prompt == pool.prompts[0]
    assert (read.rewards == pool.rewards).all()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("{", "label: malformed JSON"),
        ("[1]", "label: must hold a JSON object with prompt_id and ref_rewards"),
        (json.dumps({"ref_rewards": []}), "label: ref_rewards must be a list of at least one finite number"),
        (json.dumps({"ref_rewards": "abc"}), "label: ref_rewards must be a list of numbers"),
        ({"ref_rewards": [1.0, math.nan]}, "label: ref_rewards must be a list of at least one finite number"),
        ({"prompt_id": "ab"}, "a prompt came without ref_rewards, and no pool is given"),
    ],
)
def test_what_cannot_be_read_is_named(payload, message: str):
    with pytest.raises(VbonError, match=message):
        read_reference(payload, load_sequence_reward(LENGTH, 8).find, "label")


def test_prompts_that_the_pool_lacks_are_named(lab, draw_pool):
    pool = draw_pool(5, columns={"answer": 1})
    found = load_sequence_reward(lab.reward("positions"), 8, pool)
    assert found.find(None, "start") is pool.prompts[0]
    with pytest.raises(VbonError, match='pool: has no samples of prompt "stop"; pass its prompt_id'):
        found.find(None, "stop")
    with pytest.raises(VbonError, match="pool: has no samples of prompt 00ff"):
        found.find("00ff", "start")


def test_a_prompt_that_a_pool_holds_twice_needs_its_columns(lab, tmp_path):
    twice = [make_prompt("start", {"answer": answer}) for answer in (1, 2)]
    write_pool(lab, tmp_path / "pool", 5, "positions", prompts=twice)
    found = load_sequence_reward(lab.reward("positions"), 8, ReferencePool.open(tmp_path / "pool"))
    with pytest.raises(VbonError, match="2 entries, distinguished by their columns, for prompt"):
        found.find(None, "start")


def test_another_reward_than_the_pools_is_refused(draw_pool):
    with pytest.raises(VbonError, match="reward length does not match the pool: reward is"):
        load_sequence_reward(LENGTH, 8, draw_pool(5))


@pytest.mark.parametrize("n", [1, 0.5, math.nan])
def test_n_must_exceed_one(n: float):
    with pytest.raises(VbonError, match="must be a finite number greater than 1"):
        load_sequence_reward(LENGTH, n)


def test_half_the_prompts_with_references_is_refused(lab, draw_pool):
    pool = draw_pool(5)
    found = load_sequence_reward(lab.reward("positions"), 8, pool)
    with pytest.raises(VbonError, match="give them to all or to none"):
        found([Reference(pool.prompts[0], None), Reference(pool.prompts[0], np.ones(3))], ["a", "b"])
