"""`--tail exponential`: ranks above the pool's largest rewards in training, evaluation and inspection; old runs."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from tests.enumerable import write_pool
from tests.training.runs import rows, weights

from vbon.config.evaluate import EvaluateConfig
from vbon.config.pool import InspectConfig
from vbon.core.rank_tilts import RankTilt, log_weight
from vbon.core.reward_cdf import RewardCDF
from vbon.core.tail_cdf import TailCDF, tail_mean
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.pool.inspect import inspect_command
from vbon.pool.store import ReferencePool
from vbon.training import trainer
from vbon.training.train import train

TILTS = {"best": RankTilt("best", 16), "capped:0.9": RankTilt("capped", 16, 0.9), "kth:2": RankTilt("kth", 16, 2)}


@pytest.fixture
def small(world, tmp_path) -> Path:
    """16 samples of each prompt: less than N needs, and many completions that it does not hold."""
    return write_pool(world, tmp_path / "small", 16, "smooth")


@pytest.mark.parametrize("tilt", TILTS)
def test_the_rollouts_of_a_run_are_ranked_with_the_tail(world, configure, small, monkeypatch, tilt):
    seen = []

    def keeping(*arguments):
        metrics, rollouts = original(*arguments)
        seen.append(rollouts)
        return metrics, rollouts

    original = trainer.run_iteration
    monkeypatch.setattr(trainer, "run_iteration", keeping)
    config = configure(
        pool=str(small),
        reward=world.reward("smooth"),
        n=16.0,
        tail="exponential",
        tilt=tilt,
        validation_fraction=0.0,
        num_iterations=2,
    )
    train(config)
    pool = ReferencePool.open(small)
    tail = TailCDF(RewardCDF(pool.rewards, pool.num_samples))
    moved = 0
    for rollouts in seen:
        index = rollouts.prompt_index.numpy()
        expected = tail.interval(index, rollouts.rewards)
        np.testing.assert_array_equal(rollouts.interval, expected)
        log_w = log_weight(expected.cdf_lt, expected.cdf_le, TILTS[tilt])
        np.testing.assert_allclose(rollouts.sequence_reward.numpy() / rollouts.kl_coef, log_w, rtol=1e-12)
        moved += np.sum(expected.cdf_lt == expected.cdf_le)
    assert moved > 3  # completions that only the tail ranks


def test_evaluate_ranks_and_predicts_with_the_tail(world, configure, small, tmp_path):
    train(configure(pool=str(small), reward=world.reward("smooth"), n=16.0, tail="exponential"))
    run = Path(configure().out)
    assert json.loads((run / "vbon" / "run.json").read_text())["config"]["tail"] == "exponential"

    def evaluated(tail: str, name: str | None = None):
        out = tmp_path / (name or tail)
        config = EvaluateConfig(
            runs=(str(run),), pool=str(small), out=str(out), throughput=False, device="cpu", tail=tail, n=64.0
        )
        summary = evaluate_command(config)
        return summary, [row for row in pq.read_table(out / "samples.parquet").to_pylist() if row["policy"] == "run"]

    (plain, _), (summary, shown) = evaluated("counts"), evaluated("exponential")
    pool = ReferencePool.open(small)
    index = [pool.index_of(row["prompt_id"]) for row in shown]
    found = TailCDF(pool.cdf()).interval(index, [row["reward"] for row in shown])
    expected = log_weight(found.cdf_lt, found.cdf_le, 64.0)
    np.testing.assert_allclose([row["log_weight"] for row in shown], expected, rtol=1e-9)
    assert summary["floor"]["kl_policy_bon"] < plain["floor"]["kl_policy_bon"]
    assert summary["settings"]["tail"] == "exponential" and summary["rank_test"] == plain["rank_test"]
    inputs = tmp_path / "counts" / "inputs.json"  # as an earlier version wrote it
    before = json.loads(inputs.read_text())
    del before["settings"]["tail"]
    inputs.write_text(json.dumps(before))
    again, _ = evaluated("counts")
    assert again == plain
    with pytest.raises(VbonError, match="--tail was 'counts', now it is 'exponential'"):
        evaluated("exponential", "counts")


def test_inspect_extrapolates_the_reward_of_n_above_m(tmp_path, world):
    pool = write_pool(world, tmp_path / "pool", 24, "smooth")
    rewards = [np.unique(one) for one in ReferencePool.open(pool).per_prompt(ReferencePool.open(pool).rewards)]
    with pytest.raises(VbonError, match="at most 24 samples of a prompt; --tail exponential extrapolates"):
        inspect_command(InspectConfig(pool=str(pool), n=(48,)))
    result = inspect_command(InspectConfig(pool=str(pool), n=(8, 48), tail="exponential"))
    plain = inspect_command(InspectConfig(pool=str(pool), n=(8,)))
    assert result["best_of_n"][0]["reward"] == plain["best_of_n"][0]["reward"]  # unbiased without the tail
    row = result["best_of_n"][1]
    assert row["num_prompts"] == len(rewards) and row["reward"]["value"] > result["best_of_n"][0]["reward"]["value"]


def test_inspect_reads_the_mean_of_the_tail(tmp_path):
    from tests.pool.test_inspect import make_pool

    rewards = [np.random.default_rng(seed).normal(size=24) for seed in range(3)]
    path = make_pool(tmp_path / "pool", rewards).path
    row = inspect_command(InspectConfig(pool=str(path), n=(48,), tail="exponential"))["best_of_n"][0]
    assert row["reward"]["value"] == pytest.approx(np.mean([tail_mean(one, 48) for one in rewards]))


def test_a_run_of_before_the_setting_is_continued_with_counts_only(configure):
    config = configure()
    train(config)
    before, settings = weights(config.out), Path(config.out) / "vbon/config.yaml"
    recorded = yaml.safe_load(settings.read_text())
    settings.write_text(yaml.safe_dump({key: value for key, value in recorded.items() if key != "tail"}))
    with pytest.raises(VbonError, match="--tail was 'counts', now it is 'exponential'"):
        train(configure(tail="exponential"))
    train(configure(num_iterations=6))
    assert len([row for row in rows(config.out) if "sequence_reward" in row]) == 6 and weights(config.out) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refine_tail": True}, "no --refine-tail"),
        ({"tie_rule": "order"}, "needs --tie-rule random"),
        ({"tilt": "worst"}, "a --tilt that looks at the top"),
        ({"method": "dpo"}, "--method dpo does not read"),
        ({"method": "kl-rl"}, "--method kl-rl does not read"),
        ({"reward": "pairwise:judge.py:better"}, "leave --tail,"),
        ({"combine_with": ("pools/b",)}, "leave --tail,"),
    ],
)
def test_what_the_tail_has_no_meaning_for_is_refused(configure, changes, message):
    with pytest.raises(VbonError) as error:
        configure(**{"tail": "exponential", **changes}).validate()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tilt": "poisson"}, "leave it or --tilt poisson out"), ({"judges": ("builtin:length",)}, "--judge out")],
)
def test_inspect_refuses_the_tail_of_anything_but_the_reward(changes, message):
    with pytest.raises(VbonError, match=message):
        InspectConfig(pool="pool", n=(4,), tail="exponential", **changes).validate()


def test_evaluate_refuses_the_tail_of_several_rewards():
    config = EvaluateConfig(runs=("r",), pool="p", out="o", tail="exponential", combine_with=("q",))
    with pytest.raises(VbonError, match="leave it or --combine-with out"):
        config.validate()
