"""Every benchmark runs at its smallest size and writes its rows; a fall in a ratio is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.recipes
@pytest.mark.parametrize(
    ("name", "contenders"),
    [
        ("cdf", {"vbon", "loop over samples", "loop over samples, lists", "count, vectorised"}),
        ("sampling", {"vbon", "transformers", "transformers, fused GELU"}),
        ("update", {"vbon", "one call, padded at the right", "padded at both ends", "and GELU as written"}),
        ("best_of_n", None),
        ("scaling", None),
        ("stages", None),
        ("roofline", None),
    ],
)
def test_a_benchmark_measures_every_contender(tmp_path, name, contenders):
    done = run(f"benchmarks.{name}", "--tiny", "--repeats", "1", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["setting"]["threads"] == 1
    rows = found["rows"]
    if contenders is not None:
        assert {row["contender"] for row in rows} == contenders
    for row in rows:
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        assert np.isfinite(list(numbers.values())).all(), row
        # A fitted exponent of tiny work on a busy machine may well be negative: only amounts cannot be.
        assert all(value >= 0 for key, value in numbers.items() if key != "exponent"), row
    if name == "roofline":  # 2·1024³ multiplications and additions, whatever the machine
        [square] = [row for row in rows if row["what"] == "matmul 1024³"]
        assert square["GFLOP/s"] * square["seconds"] == pytest.approx(2 * 1024**3 / 1e9, rel=0.02)
    if name == "stages":
        assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.01)


@pytest.mark.recipes
def test_the_gpu_benchmark_runs_small_on_a_cpu(tmp_path):
    flags = ("--tiny", "--repeats", "1", "--device", "cpu", "--json", str(tmp_path / "gpu.json"))
    done = run("benchmarks.gpu", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    pairs = {stage: ("vbon", "transformers") for stage in ("sampling", "update")}
    contenders = {**pairs, "iteration": ("vbon", "vbon PPO", "vbon PPO, shared trunk", "bare floor")}
    assert [(row["stage"], row["dtype"], row["contender"]) for row in rows if row["stage"] != "best-of-n"] == [
        (stage, dtype, name)
        for stage, names in contenders.items()
        for dtype in ("float32", "bfloat16")
        for name in names
    ]
    assert {(row["dtype"], row["mode"], row["reward"]) for row in rows if row["stage"] == "best-of-n"} == {
        (dtype, mode, reward)
        for dtype in ("float32", "bfloat16")
        for mode in ("full batch", "one prompt")
        for reward in ("free", "classifier")
    }
    assert all(row["size"] == "tiny" for row in rows)


@pytest.mark.recipes
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_benchmark_says_that_it_skips_without_one():
    done = run("benchmarks.gpu", "--tiny")
    assert done.returncode == 0 and "skipped: no CUDA device" in done.stderr and not done.stdout


@pytest.mark.parametrize(("now", "told"), [(1.7, None), (1.5, "was 2, is 1.5"), (None, "is missing")])
def test_the_check_names_a_ratio_that_fell(tmp_path, now, told):
    def write(folder: str, ratio: float | None) -> None:
        rows = [{"contender": "vbon", "seconds": 1.0, "time / vbon": 1.0}]
        rows += [] if ratio is None else [{"contender": "TRL", "seconds": 9.0, "time / vbon": ratio}]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "iteration.json").write_text(json.dumps({"rows": rows}))

    write("old", 2.0)
    write("new", now)
    done = run("benchmarks.check", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.returncode == (told is not None), done.stderr
    assert (told or "no ratio fell") in done.stdout


@pytest.mark.parametrize(
    ("row", "before", "now", "fell"),
    [
        ({"contender": "vbon PPO", "MiB": 1.0}, {"memory / TRL": 0.9}, {"memory / TRL": 1.2}, True),
        ({"contender": "vbon PPO", "MiB": 1.0}, {"memory / TRL": 0.9}, {"memory / TRL": 0.6}, False),
        (
            {"n": 8, "mode": "full batch"},
            {"cost of best-of-N / one sample": 7},
            {"cost of best-of-N / one sample": 5},
            True,
        ),
        (
            {"n": 8, "mode": "full batch"},
            {"cost of best-of-N / one sample": 7},
            {"cost of best-of-N / one sample": 9},
            False,
        ),
    ],
)
def test_the_check_knows_which_way_is_worse(tmp_path, row, before, now, fell):
    for folder, ratio in (("old", before), ("new", now)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "memory.json").write_text(json.dumps({"rows": [row | ratio]}))
    done = run("benchmarks.check", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.returncode == fell, done.stdout + done.stderr


def test_the_fitted_exponent_is_that_of_a_power_law(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.measure import exponent

    assert exponent([1, 3, 10], [0.2 * size**1.7 for size in (1, 3, 10)]) == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"iteration": 1, "reward": 2.0, "seconds_rollout": 9.0, "added": 1}, "same       run/metrics.jsonl"),
        ({"iteration": 1, "reward": 2.5}, "different  run/metrics.jsonl: 1, the first /0/reward: 2.0 is now 2.5"),
        ({"iteration": 1}, "different  run/metrics.jsonl: 1, the first /0/reward: 2.0 is now None"),
    ],
)
def test_two_commits_are_the_same_but_for_clocks_and_additions(tmp_path, monkeypatch, capsys, row, line):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.same_bytes import compare

    rows = {"base": {"iteration": 1, "reward": 2.0, "seconds_rollout": 1.0}, "present": row}
    for side, content in rows.items():
        (tmp_path / side / "run").mkdir(parents=True)
        (tmp_path / side / "run/metrics.jsonl").write_text(json.dumps(content) + "\n")
    assert compare(tmp_path / "base", tmp_path / "present") == line.startswith("different")
    assert capsys.readouterr().out.strip() == line


@pytest.mark.recipes
def test_the_tail_is_nearer_where_n_is_above_m_but_not_for_bounded_rewards(tmp_path):
    done = run("benchmarks.tail", "--pools", "25", "--json", str(tmp_path / "tail.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "tail.json").read_text())["rows"]
    kl = {(row["law"], row["num_samples"], row["n"], row["way"]): row["kl"] for row in rows}
    for law in ("normal", "student t, 4"):
        assert kl[law, 32, 128, "tail"] < 0.6 * kl[law, 32, 128, "counts"]
    assert kl["uniform", 32, 32, "tail"] > kl["uniform", 32, 32, "counts"]
