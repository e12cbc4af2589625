"""Evaluation under several rewards: each sample's rank against the combination of what the rewards say of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.evaluation.test_evaluate import config_of

from vbon.core.best_of_n import log_weight
from vbon.core.rank_combination import RankCombination
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.pool import ReferencePool
from vbon.rewards import load_reward

SPECS = ("score", "levels")


def test_samples_are_ranked_by_both_rewards(world: Path, tmp_path: Path):
    config = config_of(
        world,
        out=str(tmp_path / "out"),
        combine_with=(str(world / "tied"),),
        combine_rewards=(f"{world}/reward.py:levels",),
        combine="worst",
        samples_per_prompt=20,
    )
    summary = evaluate_command(config)
    stored = [ReferencePool.open(world / name) for name in ("pool", "tied")]
    ranks = RankCombination(np.stack([pool.rewards for pool in stored], 1), stored[0].num_samples, "worst")
    rows = [row for row in pq.read_table(tmp_path / "out/samples.parquet").to_pylist() if row["policy"] == "policy"]
    index = [stored[0].index_of(row["prompt_id"]) for row in rows]
    prompts, texts = [stored[0].prompts[i].prompt for i in index], [row["completion"] for row in rows]
    values = np.stack([load_reward(f"{world}/reward.py:{name}")(prompts, texts) for name in SPECS], 1)
    interval = ranks.interval(index, values)
    middles = (interval.cdf_lt + interval.cdf_le) / 2
    np.testing.assert_allclose([row["reward"] for row in rows], middles, atol=1e-12)
    weights = log_weight(interval.cdf_lt, interval.cdf_le, 4.0)
    np.testing.assert_allclose([row["log_weight"] for row in rows], weights, atol=1e-9)
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == summary


def test_a_reward_for_each_pool_or_none(world: Path):
    with pytest.raises(VbonError, match="given 1 times for 0 of --combine-with"):
        config_of(world, out="out", combine_rewards=("builtin:length",)).validate()
