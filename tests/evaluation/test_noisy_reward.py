"""A reward with noise of 1e-7 evaluates as the same reward without: copies and equals tie, whatever the last digits."""

import json
from pathlib import Path

import pytest

from vbon import cli

NOISY = """
import random

from reward import levels, score


def noisy(function):
    def reward(prompts, completions):
        return [r + 1e-7 * random.uniform(-1, 1) for r in function(prompts, completions)]

    reward.batch_noise = True
    return reward


score, levels = noisy(score), noisy(levels)
"""
RANKS = ("win_rate", "win_rate_bon", "kl_policy_ref", "kl_policy_bon", "kl_bon_policy", "share_worse")


def evaluated(world: Path, reward: str, out: Path) -> dict:
    """Evaluation of the reference and of a policy on a pool that this reward scored."""
    model, prompts = str(world / "model"), str(world / "prompts.jsonl")
    sampling = ["--num-samples", "200", "--max-new-tokens", "3", "--seed", "1", "--device", "cpu"]
    collect = ["collect", "--model", model, "--reward", reward, "--prompts", prompts, "--out", str(out / "pool")]
    assert cli.main([*collect, *sampling]) == 0
    runs = ["evaluate", model, str(world / "policy"), "--pool", str(out / "pool"), "--out", str(out / "evaluation")]
    assert cli.main([*runs, "--n", "4", "--samples-per-prompt", "40", "--device", "cpu", "--no-throughput"]) == 0
    return json.loads((out / "evaluation" / "evaluation.json").read_text())


@pytest.mark.parametrize("function", ["score", "levels"])
def test_every_rank_is_that_of_the_exact_reward(world: Path, tmp_path: Path, function: str):
    (world / "noisy.py").write_text(NOISY)
    exact = evaluated(world, f"{world}/reward.py:{function}", tmp_path / "exact")
    noisy = evaluated(world, f"{world}/noisy.py:{function}", tmp_path / "noisy")
    assert noisy["rank_test"] == exact["rank_test"]
    assert noisy["target"]["metrics"]["kl_policy_ref"] == exact["target"]["metrics"]["kl_policy_ref"]  # KL(bon, ref)
    for name in exact["policies"]:
        for metric in RANKS:
            assert noisy["policies"][name]["metrics"][metric] == exact["policies"][name]["metrics"][metric], metric
        reward = exact["policies"][name]["metrics"]["reward"]["value"]
        assert noisy["policies"][name]["metrics"]["reward"]["value"] == pytest.approx(reward, abs=1e-6)
