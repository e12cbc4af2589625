"""Best-of-N under a judge against enumeration of all subsets, and where over-optimisation is said to begin."""

import itertools
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vbon.config import InspectConfig
from vbon.errors import VbonError
from vbon.pool import Fingerprint, PoolWriter, ReferencePool, make_prompt
from vbon.pool.inspect import inspect, inspect_command, print_inspection
from vbon.pool.judged import judge_best_of_n
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards.checked import checked


def make_pool(folder: Path, rewards: list[np.ndarray], values: list[np.ndarray]) -> ReferencePool:
    """Every completion is the text of the judge's value."""
    prompts = [make_prompt(f"prompt {index}") for index in range(len(rewards))]
    samples = [
        PromptSamples(prompt, [repr(float(x)) for x in v], [[1]] * len(v), r, [-1.0] * len(v), [True] * len(v))
        for prompt, r, v in zip(prompts, rewards, values, strict=True)
    ]
    with PoolWriter.create(folder, Manifest(Fingerprint(), "test", len(rewards), hash_prompt_ids(prompts))) as writer:
        writer.write_shard(0, samples)
        writer.finish()
    return ReferencePool.open(folder)


JUDGE = checked(lambda prompts, texts, columns: [float(t) for t in texts], name="judge", fingerprint="judge")


def test_each_n_is_the_mean_over_all_subsets(tmp_path: Path):
    rng = np.random.default_rng(0)
    rewards = [rng.integers(0, 4, 7).astype(float) for _ in range(3)]  # with ties
    values = [rng.normal(size=7) for _ in range(3)]
    result = judge_best_of_n(make_pool(tmp_path / "p", rewards, values), JUDGE, [2, 5], seed=0)

    def best_of(n: int, r: np.ndarray, v: np.ndarray) -> float:
        subsets = [list(s) for s in itertools.combinations(range(7), n)]
        return float(np.mean([v[s][r[s] == r[s].max()].mean() for s in subsets]))

    exact = [np.mean([best_of(n, r, v) for r, v in zip(rewards, values, strict=True)]) for n in (1, 2, 5)]
    assert [row["value"]["value"] for row in result["rows"]] == pytest.approx(exact, abs=1e-12)
    assert result["rows"][2]["change"]["value"] == pytest.approx(exact[2] - exact[1], abs=1e-12)


def test_it_says_where_the_judge_begins_to_fall(tmp_path: Path):
    """The judge agrees with the reward up to its median and disagrees above: it falls once N passes about 2."""
    rng = np.random.default_rng(1)
    rewards = [rng.normal(size=64) for _ in range(40)]
    proxy = make_pool(tmp_path / "proxy", rewards, [-np.abs(r - 0.5) for r in rewards])
    good = make_pool(tmp_path / "good", rewards, [r + rng.normal(size=64) for r in rewards])
    result = inspect(proxy, [2, 4, 16], judges=[JUDGE])
    assert result["judges"][0]["best_n"] == 2
    assert "judge judge falls beyond N = 2" in result["warnings"][-1]
    assert inspect(good, [2, 4, 16], judges=[JUDGE])["judges"][0]["best_n"] is None
    out = StringIO()
    print_inspection(result, Console(file=out, width=120))
    assert "best-of-N as judge scores it" in out.getvalue()
    assert f"{result['judges'][0]['rows'][3]['change']['low']:.3f}" in out.getvalue()


def test_the_interval_covers_the_truth_as_often_as_it_says(tmp_path: Path):
    """A judge of noise around the rank: E_bon[v] = N/(N+1), known; 95 % intervals over 40 prompts."""
    rng, hits = np.random.default_rng(2), 0
    for trial in range(60):
        ranks = [rng.random(32) for _ in range(40)]
        pool = make_pool(tmp_path / str(trial), ranks, ranks)
        [_, row] = judge_best_of_n(pool, JUDGE, [8], seed=trial)["rows"]
        hits += row["value"]["low"] <= 8 / 9 <= row["value"]["high"]
    assert hits >= 51  # binomial(60, .95): below 51 with probability 0.1 %


def test_the_command_loads_the_judges(tmp_path: Path, capsys):
    pool = make_pool(tmp_path / "p", [np.arange(8.0)] * 2, [np.arange(8.0)] * 2)
    result = inspect_command(InspectConfig(pool=str(pool.path), n=(2,), judges=("builtin:length",), device="cpu"))
    assert result["judges"][0]["rows"][1]["value"]["value"] == pytest.approx(3.0)  # "0.0" … "7.0"
    assert "builtin:length" in capsys.readouterr().out
    with pytest.raises(VbonError, match="--judge builtin:length is given twice"):
        inspect_command(InspectConfig(pool=str(pool.path), judges=("builtin:length",) * 2, device="cpu"))
