"""A completion that the pool holds has the pool's reward; new ones are equal to it at the reward's resolution."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.pool.conftest import pool_manifest, pool_prompts

import vbon
from vbon.errors import VbonError
from vbon.pool import PoolWriter, ReferencePool
from vbon.pool.known_rewards import KnownRewards, score_again
from vbon.pool.shards import PromptSamples
from vbon.rewards import callable_reward

NOISE = 1e-7
TEXTS = ["a", "b", "a", "c", "b", "dd"]
VALUES = {"a": 1.0, "b": 2.0, "c": 1.0, "dd": 3.0, "e": 2.0, "f": 2.5}
"""a and c tie by value; e, which no pool holds, ties with b."""


def noisy(seed: int):
    random = np.random.default_rng(seed)

    def reward(completions):
        return [VALUES[text] + NOISE * random.uniform(-1, 1) for text in completions]

    reward.batch_noise = True
    return callable_reward(reward, name="noisy", fingerprint="noisy")


EXACT = callable_reward(lambda completions: [VALUES[t] for t in completions], name="exact", fingerprint="exact")


def write(folder: Path, reward, *, ids: bool = True, texts: bool = True) -> ReferencePool:
    prompts = pool_prompts(3)
    samples = [
        PromptSamples(
            prompt,
            list(TEXTS) if texts else [None] * len(TEXTS),
            [[ord(c) for c in text] if ids else None for text in TEXTS],
            np.array([float(reward(["p"], [text])[0]) for text in TEXTS]),
            [None] * len(TEXTS),
            [True] * len(TEXTS),
        )
        for prompt in prompts
    ]
    with PoolWriter.create(folder, pool_manifest(prompts, len(TEXTS))) as writer:
        writer.write_shard(0, samples)
        writer.finish()
    return ReferencePool.open(folder)


def texts_in(pool: ReferencePool):
    return lambda rows: [pool.completions[row] for row in rows]


@pytest.mark.parametrize("ids", [True, False])
def test_under_noise_every_count_is_that_of_the_exact_reward(tmp_path, ids):
    """Copies in the pool and in the rollouts, and other completions of equal worth, whatever the noise."""
    exact = write(tmp_path / "exact", EXACT, ids=ids)
    fresh = ["a", "b", "c", "dd", "e", "f"] * 3
    index = np.repeat(np.arange(3), 6)
    token_ids = [[ord(c) for c in text] for text in fresh] if ids else None
    expected = exact.cdf().counts(index, EXACT(["p"] * 18, fresh))
    for seed in range(20):
        pool = write(tmp_path / f"noisy{seed}", noisy(seed), ids=ids)
        reward = noisy(100 + seed)
        known = KnownRewards(pool, reward, score_again(pool, reward, texts_in(pool)))
        counts = known.pool.cdf().counts(index, known.score(index, fresh, token_ids))
        np.testing.assert_array_equal(counts, expected)
        own, truth = known.pool.cdf().pool_interval(), exact.cdf().pool_interval()
        np.testing.assert_array_equal(own.cdf_lt, truth.cdf_lt)
        np.testing.assert_array_equal(own.cdf_le, truth.cdf_le)


def test_without_a_resolution_copies_still_tie(tmp_path):
    """Also under a function that calls a network and does not say so."""
    pool, reward = write(tmp_path / "pool", noisy(0)), noisy(1)
    known = KnownRewards(pool, reward)
    index, texts = np.zeros(4, np.int64), ["a", "b", "c", "dd"]
    k_lt, k_eq = known.pool.cdf().counts(index, known.score(index, texts, [[ord(c) for c in t] for t in texts]))
    assert k_eq.tolist() == [2, 2, 1, 1] and k_lt[3] == 5


def test_an_exact_reward_is_not_touched(tmp_path):
    pool = write(tmp_path / "pool", EXACT)
    known = KnownRewards(pool, EXACT)
    assert known.pool.rewards.tobytes() == pool.rewards.tobytes()
    assert known.score(np.zeros(2, np.int64), ["e", "a"], [[101], [97]]).tolist() == [2.0, 1.0]


def test_the_settled_rewards_follow_a_selection(tmp_path):
    pool = write(tmp_path / "pool", noisy(0))
    known = KnownRewards(pool, noisy(1), 1e-5)
    last = known.pool.select([pool.prompts[2].prompt_id])
    np.testing.assert_array_equal(last.rewards, known.pool.rewards[12:])


def test_only_what_is_new_is_scored(tmp_path):
    asked = []

    def counting(completions):
        asked.extend(completions)
        return [VALUES[text] for text in completions]

    known = KnownRewards(write(tmp_path / "pool", EXACT), callable_reward(counting, name="c", fingerprint="c"))
    known.score(np.array([0, 1, 2]), ["a", "f", "b"], [[97], [102], [98]])
    known.score(np.array([0, 0]), ["a", "b"])
    assert asked == ["f"]


def test_a_pool_of_bare_rewards_knows_nobody(tmp_path):
    pool = write(tmp_path / "pool", EXACT, ids=False, texts=False)
    known = KnownRewards(pool, EXACT)
    assert known.score(np.array([1]), ["f"], [[102]]).tolist() == [2.5]
    assert score_again(pool, EXACT, texts_in(pool)) == 0


def test_another_reward_is_a_mismatch_and_may_be_allowed(tmp_path):
    """Copies take the pool's reward, so that no rank can show it any more."""
    pool = write(tmp_path / "pool", EXACT)
    texts = texts_in(pool)
    negated = callable_reward(lambda completions: [-VALUES[t] for t in completions], name="other", fingerprint="other")
    with pytest.raises(VbonError, match=r"reward mismatch: other gives .* -?\d.* --allow-mismatch reward"):
        score_again(pool, negated, texts)
    assert score_again(pool, negated, texts, allowed=True) == 0
    assert 0 < score_again(pool, noisy(0), texts) < 1e-5


def test_rewards_are_ranked_where_they_were_settled():
    """On the source: outside core and the lab, few files rank completions, and each of them has settled rewards."""
    root = Path(vbon.__file__).parent
    ranking = {
        str(path.relative_to(root)): path.read_text()
        for stage in ("training", "evaluation", "integrations")
        for path in (root / stage).rglob("*.py")
        if re.search(r"\.(interval|counts)\(", path.read_text())
    }
    ranks = {"training/task.py", "evaluation/samples.py", "evaluation/verify.py", "integrations/lookup.py"}
    assert set(ranking) == ranks
    assert all(re.search(r"known\.score\(|settled\.score\(", text) for text in ranking.values())
