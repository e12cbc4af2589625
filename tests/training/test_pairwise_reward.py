"""A pool collected, trained on and evaluated under a pairwise judge, without a number for a completion anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.enumerable import STEPS
from tests.training.runs import refuse

from vbon.config.evaluate import EvaluateConfig
from vbon.config.pool import CollectConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.pool import ReferencePool
from vbon.pool.collect import collect
from vbon.training.train import train

JUDGE = """
from reward import score


def better(prompts, completions, others):
    return [(a > b) - (a < b) for a, b in zip(score(prompts, completions), score(prompts, others))]
"""


@pytest.fixture(scope="module")
def judged(world):
    """The judge's specification, and the config of a pool of 40 samples a prompt, each of which meets 12 others."""
    (world.folder / "judge.py").write_text(JUDGE)
    config = CollectConfig(
        model=world.model,
        reward=f"pairwise:{world.folder}/judge.py:better",
        prompts=str(world.folder / "prompts.jsonl"),
        out=str(world.folder / "judged"),
        num_samples=40,
        max_new_tokens=STEPS,
        opponents=12,
        device="cpu",
    )
    collect(config, progress=False)
    return config


def test_the_pools_rewards_follow_the_order_that_the_judge_has(judged, world):
    pool = ReferencePool.open(judged.out)
    for index, prompt in enumerate(pool.prompts):
        values = world.rewards()[world.world.prompts.index(prompt.prompt)]
        rows = [world.world.texts.index(text) for text in pool.completions[pool.rows_of(index)]]
        assert np.corrcoef(values[rows].argsort().argsort(), pool.rewards[pool.rows_of(index)])[0, 1] > 0.5


def test_a_run_under_a_judge_comes_nearer_to_best_of_n(judged, world, configure, tmp_path):
    changes = {"pool": judged.out, "reward": judged.reward, "opponents": 40, "num_iterations": 20}
    out = tmp_path / "run"
    train(configure(**changes, rollouts_per_iteration=64, out=str(out)))
    assert world.kl_policy_bon(out, 4.0) < 0.8 * world.kl_policy_bon(world.model, 4.0)
    assert (out / "vbon/comparisons.jsonl").exists()
    summary = evaluate_command(
        EvaluateConfig(
            runs=(str(out),),
            pool=judged.out,
            reward=judged.reward,
            out=str(tmp_path / "eval"),
            throughput=False,
            device="cpu",
        )
    )
    rates = [row["win_rate"] for row in per_policy(tmp_path / "eval")]
    assert summary["n"] == 4.0 and max(rates) > 0.6


def per_policy(folder: Path) -> list[dict]:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "per_prompt.parquet").to_pylist()
    names = {row["policy"] for row in rows}
    return [{"win_rate": np.mean([row["win_rate"] for row in rows if row["policy"] == name])} for name in names]


def test_a_cost_cap_stops_and_the_same_command_continues(judged, tmp_path):
    from dataclasses import replace

    capped = replace(judged, out=str(tmp_path / "pool"), max_comparisons=300)
    with pytest.raises(VbonError, match="--max-comparisons is reached"):
        collect(capped, progress=False)
    before = len((tmp_path / "pool/comparisons.jsonl").read_text().splitlines())
    collect(replace(capped, max_comparisons=None), progress=False)
    lines = [json.loads(line)["pair"] for line in (tmp_path / "pool/comparisons.jsonl").read_text().splitlines()]
    assert before == 300 < len(lines) == len(set(lines))
    again, whole = ReferencePool.open(tmp_path / "pool"), ReferencePool.open(judged.out)
    np.testing.assert_array_equal(again.rewards, whole.rewards)


def test_collect_reports_the_share_of_cycles(judged, world, tmp_path, capsys):
    """Whole numbers of letters modulo 3 beat each other in a circle; the order of the other judge has none."""
    from dataclasses import replace

    (world.folder / "circle.py").write_text(
        "def circle(completions, others):\n"
        "    return [(0, 1, -1)[(len(a) - len(b)) // 2 % 3] for a, b in zip(completions, others)]\n"
    )
    cyclic = f"pairwise:{world.folder}/circle.py:circle"
    for name, reward, some in (("order", judged.reward, False), ("circle", cyclic, True)):
        collect(replace(judged, out=str(tmp_path / name), reward=reward))
        line = next(line for line in capsys.readouterr().err.splitlines() if "are cycles" in line)
        counts = [int(word) for word in line.split() if word.isdigit()]
        assert counts[1] > 0 and (counts[0] > 0) == some


def test_what_reads_a_number_is_refused(judged, configure):
    refuse(configure(pool=judged.out, reward=judged.reward, refine_tail=True), "--reward pairwise:")
