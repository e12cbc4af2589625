"""The figures of a pool whose figures are known, and the warnings that must and must not be there."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vbon.errors import VbonError
from vbon.pool import Fingerprint, PoolWriter, ReferencePool, make_prompt
from vbon.pool.inspect import inspect, print_inspection
from vbon.pool.manifest import Manifest
from vbon.pool.predict import predict
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids

UNKNOWN = Fingerprint()


def make_pool(folder: Path, rewards: list[np.ndarray], fingerprint: Fingerprint = UNKNOWN) -> ReferencePool:
    prompts = [make_prompt(f"prompt {index}") for index in range(len(rewards))]
    with PoolWriter.create(folder, Manifest(fingerprint, "test", len(rewards), hash_prompt_ids(prompts))) as writer:
        writer.write_shard(0, [_samples(prompt, values) for prompt, values in zip(prompts, rewards, strict=True)])
        writer.finish()
    return ReferencePool.open(folder)


def _samples(prompt, rewards: np.ndarray) -> PromptSamples:
    count = len(rewards)
    ids = [[1] * (index % 3 + 1) for index in range(count)]
    return PromptSamples(
        prompt, ["x"] * count, ids, np.asarray(rewards, float), [-2.0] * count, [True, False] * (count // 2)
    )


def test_known_figures(tmp_path: Path):
    rewards = [np.array([0.0, 1.0] * 6), np.array([0.0, 0.0, 3.0] * 4)]
    result = inspect(make_pool(tmp_path / "p", rewards), [2, 4])
    assert result["num_samples"] == {"min": 12, "median": 12.0, "max": 12}
    assert result["reward"]["mean"]["value"] == pytest.approx(0.75)
    pairs = [2 * 15 / 66, (28 + 6) / 66]  # tied pairs of 6 + 6, of 8 + 4, out of C(12, 2)
    assert result["ties"].pop("all_tied") == {"count": 0, "prompt_ids": []}
    assert result["ties"] == pytest.approx({"tied_pairs": np.mean(pairs), "mean_levels": 2, "prompts_all_tied": 0})
    assert result["completions"] == pytest.approx({"finished_rate": 0.5, "mean_length": 2.0, "entropy": 2.0})
    row = result["best_of_n"][1]
    predictions = np.mean([predict(one, 4) for one in rewards], axis=0)
    assert [row[key]["value"] for key in ("reward", "win_rate", "kl_bon_ref")] == pytest.approx(predictions)
    p = np.array([1 / 2, 1 / 3])  # success probabilities, N = 4: π_bon(success) = 1 − (1−p)^4
    success = 1 - (1 - p) ** 4
    kl = success * np.log(success / p) + (1 - success) * np.log((1 - success) / (1 - p))
    win = success * (1 - p / 2) + (1 - success) * (1 - p) / 2
    assert row["kl_bon_ref"]["value"] == pytest.approx(kl.mean(), abs=0.05)  # of 12 samples, without their bias
    assert row["win_rate"]["value"] == pytest.approx(win.mean(), abs=0.03)
    json.dumps(result, allow_nan=False)


def test_warnings_say_what_is_wrong_and_only_that(tmp_path: Path):
    rng = np.random.default_rng(0)
    known = Fingerprint("m", "t", "none", 1.0, 4, (0,), "r")
    good = inspect(make_pool(tmp_path / "good", [rng.normal(size=100) for _ in range(20)], known), [4])
    assert good["warnings"] == [] and good["drift"]["p_value"] > 1e-3
    drifting = [np.concatenate([rng.normal(size=50), rng.normal(0.7, size=50)]) for _ in range(20)]
    bad = inspect(make_pool(tmp_path / "bad", drifting), [8])
    assert len(bad["warnings"]) == 3
    assert "M = 100 costs more than 0.01 nats of KL(·‖π_bon) for N = 8: wants M ≥ 187" in bad["warnings"][0]
    assert "drift" in bad["warnings"][1] and bad["drift"]["p_value"] < 1e-6
    assert "model, tokenizer" in bad["warnings"][2]
    tied = inspect(make_pool(tmp_path / "tied", [np.ones(100)] * 7, known), [2])
    ids = [make_prompt(f"prompt {index}").prompt_id for index in range(5)]
    assert tied["ties"]["all_tied"] == {"count": 7, "prompt_ids": ids}
    assert tied["warnings"] == ["most prompts have one reward level: best-of-N cannot improve them"]


def test_drift_p_values_are_uniform_when_nothing_drifts(tmp_path: Path):
    rng = np.random.default_rng(1)
    pools = (make_pool(tmp_path / str(index), [rng.normal(size=40) for _ in range(15)]) for index in range(60))
    p_values = [inspect(pool, [], seed=index)["drift"]["p_value"] for index, pool in enumerate(pools)]
    assert 0.35 < np.mean(p_values) < 0.65  # mean of 60 uniforms: 0.5 ± 4 · 0.037


def test_ragged_pools_use_the_prompts_with_enough_samples(tmp_path: Path):
    rewards = [np.arange(4.0), np.arange(10.0), np.arange(10.0)]
    pool = make_pool(tmp_path / "p", rewards)
    result = inspect(pool, [2, 8])
    assert [row["num_prompts"] for row in result["best_of_n"]] == [3, 2]
    assert [row["n"] for row in inspect(pool)["best_of_n"]] == [2, 4]
    with pytest.raises(VbonError, match="--n 16: the pool has at most 10 samples"):
        inspect(pool, [16])


def test_printing_shows_the_numbers(tmp_path: Path):
    """In 80 columns, with six-digit rewards: no number and no word of a heading is broken."""
    rewards = [np.arange(12.0) * scale - 123 for scale in (1.0, 3.0)]
    result = inspect(make_pool(tmp_path / "p", rewards), [2])
    out = StringIO()
    print_inspection(result, Console(file=out, width=80))
    reward = result["best_of_n"][0]["reward"]
    words = out.getvalue().split()
    assert f"{reward['value']:.3f}" in words
    assert f"{reward['low']:.3f}…{reward['high']:.3f}" in words
    assert {"N", "reward", "KL(bon‖ref)", "floor", "0.667", "25·N"} <= set(words)
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_prompts_with_fewer_than_n_samples_are_counted(tmp_path: Path):
    rng = np.random.default_rng(0)
    result = inspect(make_pool(tmp_path / "p", [rng.normal(size=size) for size in (4, 16, 4, 16, 16)]), [4, 8])
    assert [row["left_out"] for row in result["best_of_n"]] == [0, 2]
    assert [line for line in result["warnings"] if "left out" in line] == [
        "N = 8: 2 of 5 prompts have fewer samples and are left out of its row"
    ]
