"""The whole verb on an enumerable policy: every estimate against exact sums over all completions."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from vbon.config.evaluate import EvaluateConfig
from vbon.core.best_of_n import log_weight
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.pool import ReferencePool

N, SAMPLES = 4.0, 200
STANDARD_ERRORS = 4.0
FLOAT32 = 1e-5  # a sum of at most 3 float32 log-probabilities
PLUG_IN = 0.02  # N/M = 1/100: what estimating F from the pool may add, about (N−1)/(2M)

Exact = Callable[[str], dict[str, np.ndarray]]


def config_of(world: Path, **changes) -> EvaluateConfig:
    values = {
        "runs": (str(world / "policy"),),
        "pool": str(world / "pool"),
        "n": N,
        "samples_per_prompt": SAMPLES,
        "throughput": False,
        "device": "cpu",
        "batch_size": 400,
    }
    return EvaluateConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def evaluated(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict, Path]]:
    """evaluated("pool" | "tied") → (evaluation.json, its folder), each made once."""
    done: dict[str, tuple[dict, Path]] = {}

    def of(name: str) -> tuple[dict, Path]:
        if name not in done:
            out = tmp_path_factory.mktemp(f"eval-{name}")
            summary = evaluate_command(config_of(world, pool=str(world / name), out=str(out)))
            assert json.loads((out / "evaluation.json").read_text()) == summary
            done[name] = summary, out
        return done[name]

    return of


def per_prompt(folder: Path, policy: str, metric: str) -> np.ndarray:
    rows = pq.read_table(folder / "per_prompt.parquet").to_pylist()
    return np.array([row[metric] for row in rows if row["policy"] == policy], np.float64)


def estimated_log_weight(world: Path, name: str, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log Ŵ, win rate) of each completion (prompts, 40) in the pool, by counting."""
    pool = ReferencePool.open(world / name)
    stored = [pool.rewards[a:b] for a, b in zip(pool.offsets[:-1], pool.offsets[1:], strict=True)]
    k_lt = np.array([[np.sum(s < r) for r in row] for s, row in zip(stored, rewards, strict=True)])
    k_eq = np.array([[np.sum(s == r) for r in row] for s, row in zip(stored, rewards, strict=True)])
    return log_weight(k_lt / 401, (k_lt + k_eq + 1) / 401, N), (k_lt + k_eq / 2) / 400


def exact_win_rate_bon(world: Path, name: str, rewards: np.ndarray) -> np.ndarray:
    """P(each completion beats the best of 4 of the 400 pooled), by counting subsets, (prompts, 40)."""
    stored = ReferencePool.open(world / name).rewards.reshape(-1, 400)

    def below(count: int) -> float:
        return math.comb(count, int(N)) / math.comb(400, int(N))

    return np.array(
        [
            [(below(np.sum(s < r)) + below(np.sum(s <= r))) / 2 for r in row]
            for s, row in zip(stored, rewards, strict=True)
        ]
    )


def exact_bon(tables: dict[str, np.ndarray]) -> np.ndarray:
    """log π_bon (prompts, 40) from the enumerated reference."""
    result = []
    for logprobs, rewards in zip(tables["ref"], tables["rewards"], strict=True):
        mass = np.exp(logprobs) / np.exp(logprobs).sum()
        below = np.array([mass[rewards < r].sum() for r in rewards])
        not_above = np.minimum(np.array([mass[rewards <= r].sum() for r in rewards]), 1.0)
        result.append(logprobs + log_weight(np.minimum(below, not_above), not_above, N))
    return np.array(result)


@pytest.mark.parametrize("name", ["pool", "tied"])
def test_every_estimate_of_fresh_samples_against_exact_sums(world: Path, exact: Exact, evaluated, name: str):
    tables, (_, folder) = exact(name), evaluated(name)
    probability = np.exp(tables["policy"])
    weight, win = estimated_log_weight(world, name, tables["rewards"])
    log_ratio = tables["policy"] - tables["ref"]
    quantities = {
        "reward": tables["rewards"],
        "win_rate": win,
        "win_rate_bon": exact_win_rate_bon(world, name, tables["rewards"]),
        "kl_policy_ref": log_ratio,
        "kl_policy_ref_k1": log_ratio,
        "kl_policy_bon": log_ratio - weight,
        "kl_policy_bon_k1": log_ratio - weight,
        "entropy": -tables["policy"],
    }
    for metric, values in quantities.items():
        expected = (probability * values).sum(1)
        variance = (probability * (values - expected[:, None]) ** 2).sum(1)
        error = np.mean(per_prompt(folder, "policy", metric) - expected)
        assert abs(error) < STANDARD_ERRORS * np.sqrt(variance.mean() / SAMPLES / len(expected)), metric
        assert np.abs(expected).mean() > 0.05, metric  # a policy that differs


@pytest.mark.parametrize("name", ["pool", "tied"])
def test_both_directions_of_kl_to_best_of_n_against_enumeration(exact: Exact, evaluated, name: str):
    tables, (summary, folder) = exact(name), evaluated(name)
    bon = exact_bon(tables)
    backward = (np.exp(tables["policy"]) * (tables["policy"] - bon)).sum(1).mean()
    forward = (np.exp(bon) * (bon - tables["policy"])).sum(1).mean()
    for metric, value, draws in (("kl_policy_bon", backward, SAMPLES), ("kl_bon_policy", forward, 400)):
        estimate = per_prompt(folder, "policy", metric)
        noise = 1.0 / np.sqrt(draws * len(estimate))  # terms spread by about one nat
        assert estimate.mean() == pytest.approx(value, abs=PLUG_IN + STANDARD_ERRORS * noise)
    assert 0 < summary["floor"]["kl_policy_bon"] < PLUG_IN


@pytest.mark.parametrize("name", ["pool", "tied"])
def test_best_of_k_of_the_policy_against_enumeration(exact: Exact, evaluated, name: str):
    tables, (summary, _) = exact(name), evaluated(name)
    rows = summary["policies"]["policy"]["best_of_k"]
    assert [row["k"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        best, spread = [], []
        for logprobs, rewards in zip(tables["policy"], tables["rewards"], strict=True):
            levels, level = np.unique(rewards, return_inverse=True)
            mass = np.bincount(level, np.exp(logprobs)) / np.exp(logprobs).sum()
            probability = np.diff(np.cumsum(mass) ** row["k"], prepend=0.0)
            best.append(probability @ levels)
            spread.append(probability @ levels**2 - best[-1] ** 2)
        # the variance of a U-statistic of order k is at most k/K of one draw's
        error = np.sqrt(row["k"] * np.mean(spread) / SAMPLES / len(best))
        assert abs(row["reward"]["value"] - np.mean(best)) < STANDARD_ERRORS * error
    assert rows[0]["win_rate"] == pytest.approx(summary["policies"]["policy"]["metrics"]["win_rate"], rel=1e-9)
    assert summary["reference"]["best_of_k"][3]["win_rate"]["value"] == pytest.approx(
        summary["target"]["metrics"]["win_rate"]["value"], abs=0.03
    )


def standardised(values: np.ndarray, probs: np.ndarray) -> np.ndarray:
    centred = values - probs @ values
    return centred / np.sqrt(probs @ centred**2)


def test_length_correlation_and_share_worse_against_enumeration(exact: Exact, evaluated, completion_ids):
    tables, (summary, folder) = exact("pool"), evaluated("pool")
    lengths = np.array([len(row) for row in completion_ids], float)
    for index, (logprobs, rewards) in enumerate(zip(tables["policy"], tables["rewards"], strict=True)):
        x, y = (standardised(values, np.exp(logprobs)) for values in (lengths, rewards))
        expected = np.exp(logprobs) @ (x * y)
        influence = x * y - expected * (x**2 + y**2) / 2  # of one sample on a correlation
        error = np.sqrt(np.exp(logprobs) @ influence**2 / SAMPLES)
        measured = per_prompt(folder, "policy", "length_reward_correlation")[index]
        assert measured == pytest.approx(expected, abs=STANDARD_ERRORS * error)
    worse = np.mean(per_prompt(folder, "policy", "win_rate") < 0.5)
    assert summary["policies"]["policy"]["metrics"]["share_worse"]["value"] == worse
    assert summary["target"]["metrics"]["win_rate_bon"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert summary["target"]["metrics"]["share_worse"]["value"] == 0.0


def test_the_target_against_enumeration(exact: Exact, evaluated):
    tables, (summary, _) = exact("tied"), evaluated("tied")
    bon, target = np.exp(exact_bon(tables)), summary["target"]["metrics"]
    mass = np.exp(tables["ref"])
    win = np.array(
        [[m[r < v].sum() + m[r == v].sum() / 2 for v in r] for m, r in zip(mass, tables["rewards"], strict=True)]
    )
    expected = {
        "reward": (bon * tables["rewards"]).sum(1).mean(),
        "win_rate": (bon * win).sum(1).mean(),
        "kl_policy_ref": (bon * (exact_bon(tables) - tables["ref"])).sum(1).mean(),
    }
    for metric, value in expected.items():
        assert target[metric]["value"] == pytest.approx(value, abs=0.05), metric  # 2,400 samples


def test_the_reference_row_is_exactly_itself(evaluated):
    summary, folder = evaluated("pool")
    metrics = summary["reference"]["metrics"]
    assert metrics["kl_policy_ref"] == metrics["kl_policy_ref_k1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert metrics["win_rate"]["value"] == pytest.approx(0.5, abs=STANDARD_ERRORS * np.sqrt(1 / 12 / 1200 * 1.5))
    assert metrics["reward_gain_share"]["value"] == pytest.approx(0.0, abs=0.1)
    assert summary["rank_test"]["p_value"] > 0.01
    pool_weights = per_prompt(folder, "reference", "kl_bon_policy")
    assert (pool_weights > 0).all()


def test_a_copy_of_the_reference_gives_the_same_samples(world: Path, tmp_path: Path, evaluated):
    """Common random numbers: equal policies differ in nothing, so their paired difference is exactly 0."""
    shutil.copytree(world / "model", tmp_path / "twin")
    config = config_of(world, runs=(str(world / "model"), str(tmp_path / "twin")), out=str(tmp_path / "eval"))
    summary = evaluate_command(config)
    assert summary["policies"]["model"]["differences"] is None
    differences = summary["policies"]["twin"]["differences"]
    assert set(differences) >= {"reward", "win_rate", "kl_policy_ref", "kl_bon_policy"}
    assert all(value == {"value": 0.0, "low": 0.0, "high": 0.0} for value in differences.values())
    assert summary["policies"]["model"]["metrics"]["reward"] == evaluated("pool")[0]["reference"]["metrics"]["reward"]


def test_same_seed_same_bytes_another_seed_other_samples(world: Path, tmp_path: Path):
    small = config_of(world, samples_per_prompt=5, out=str(tmp_path / "first"))
    for name, changes in (("first", {}), ("again", {"batch_size": 7}), ("other", {"seed": 1})):
        evaluate_command(dataclasses.replace(small, out=str(tmp_path / name), **changes))
    samples = {name: pq.read_table(tmp_path / name / "samples.parquet") for name in ("first", "again", "other")}
    assert samples["first"]["completion"] == samples["again"]["completion"] != samples["other"]["completion"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    evaluate_command(small)
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()} == before
    assert set(before) == {
        "evaluation.json",
        "inputs.json",
        "per_prompt.parquet",
        "reference.parquet",
        "samples.parquet",
    }


def test_shares_of_gain_resample_both_sides_together(evaluated):
    summary, folder = evaluated("pool")
    pool = ReferencePool.open(summary["pool"])
    pool_reward = pool.rewards.reshape(-1, 400).mean(1)
    gain = per_prompt(folder, "policy", "reward").mean() - pool_reward.mean()
    target = per_prompt(folder, "best-of-n", "reward").mean() - pool_reward.mean()
    share = summary["policies"]["policy"]["metrics"]["reward_gain_share"]
    assert share["value"] == pytest.approx(gain / target, rel=1e-12) and share["low"] < share["value"] < share["high"]


def test_judges_are_reported_for_policies_and_target(world: Path, tmp_path: Path):
    judge = f"{world}/reward.py:length"
    summary = evaluate_command(config_of(world, judges=(judge,), samples_per_prompt=20, out=str(tmp_path / "eval")))
    key = f"judge_reward/{judge}"
    samples = pq.read_table(tmp_path / "eval" / "per_prompt.parquet").to_pylist()
    assert all(row[key] == pytest.approx(row["completion_length"] - row["eos_rate"], abs=1e-9) for row in samples)
    assert summary["judges"] == [judge] and key in summary["target"]["metrics"]


def test_the_target_of_a_judge_against_all_pairs(world: Path, tmp_path: Path):
    """Best of 2 of the pool, every pair of its samples: the judge's score of the better one, of both where they tie."""
    judge = f"{world}/reward.py:length"
    folder = tmp_path / "eval"
    evaluate_command(
        config_of(world, pool=str(world / "tied"), n=2.0, judges=(judge,), samples_per_prompt=2, out=str(folder))
    )
    pool = ReferencePool.open(world / "tied")
    rewards = pool.rewards.reshape(-1, 400)
    lengths = np.array([len(text.split()) for text in pool.completions], float).reshape(-1, 400)
    for index, (r, values) in enumerate(zip(rewards, lengths, strict=True)):
        above, level = r[:, None] > r[None], r[:, None] == r[None]
        winner = np.where(above, values[:, None], np.where(level, (values[:, None] + values[None]) / 2, values[None]))
        expected = winner[~np.eye(400, dtype=bool)].mean()
        assert per_prompt(folder, "best-of-n", f"judge_reward/{judge}")[index] == pytest.approx(expected)
        assert abs(expected - values.mean()) > 0.01  # best-of-N is longer or shorter than the pool


@pytest.mark.parametrize("name", ["pool", "tied"])
def test_reward_quantiles_of_the_reference_by_counting(world: Path, evaluated, name: str):
    """The smallest reward of the pool that at least a share p of the pool does not exceed; exact in hundredths."""
    pool = ReferencePool.open(world / name)
    rows = pq.read_table(evaluated(name)[1] / "reference.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [prompt.prompt for prompt in pool.prompts]
    for row, rewards in zip(rows, pool.rewards.reshape(-1, 400), strict=True):
        counts = {r: int(np.sum(rewards <= r)) for r in rewards}
        expected = [min(r for r, count in counts.items() if 100 * count >= 400 * p) for p in range(101)]
        assert row["reward_quantiles"] == expected


def test_few_samples_are_warned_of(world: Path, tmp_path: Path):
    summary = evaluate_command(config_of(world, n=32.0, samples_per_prompt=2, out=str(tmp_path / "eval")))
    assert any("M = 400 is below 25·N = 800" in line for line in summary["warnings"])


def test_throughput_stands_apart(world: Path, tmp_path: Path):
    config = config_of(world, throughput=True, batch_size=8, samples_per_prompt=2, limit=2, out=str(tmp_path / "eval"))
    evaluate_command(config)
    speeds = json.loads((tmp_path / "eval" / "throughput.json").read_text())
    rates, latencies = speeds["completions_per_second"], speeds["latency_seconds"]
    assert set(rates) == set(latencies) == {"reference", "policy", "best-of-n"}
    assert rates["policy"] > rates["best-of-n"] > 0 and min(latencies.values()) > 0
    (tmp_path / "eval" / "evaluation.json").unlink()  # as a kill leaves it
    evaluate_command(dataclasses.replace(config, throughput=False))
    assert not (tmp_path / "eval" / "throughput.json").exists()


def test_limit_and_prompts_choose_among_the_pools(world: Path, tmp_path: Path):
    (tmp_path / "two.jsonl").write_text('{"q": "three"}\n{"q": "one"}\n')
    config = config_of(world, prompts=str(tmp_path / "two.jsonl"), prompt_column="q", out=str(tmp_path / "eval"))
    config = dataclasses.replace(config, samples_per_prompt=2)
    assert evaluate_command(config)["num_prompts"] == 2
    assert evaluate_command(dataclasses.replace(config, limit=1, out=str(tmp_path / "one")))["num_prompts"] == 1
    (tmp_path / "two.jsonl").write_text('{"q": "three"}\n{"q": "four"}\n')
    with pytest.raises(VbonError, match=r"has no samples of prompt \w+; collect a pool for it"):
        evaluate_command(config)


def test_a_policy_of_another_vocabulary_is_refused(world: Path, tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(VbonError, match="other: has a vocabulary of 9, the reference one of 8"):
        evaluate_command(config_of(world, runs=(str(tmp_path / "other"),), out=str(tmp_path / "eval")))
