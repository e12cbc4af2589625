"""The summarization recipe on generated papers: every stage for two steps, at two temperatures, by its command line."""

import importlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.pool import ReferencePool

RECIPE = Path(__file__).parents[2] / "recipes" / "summarization"
WORDS = "we study learning of deep models with data noise and show gains on large graphs".split()  # noqa: SIM905
LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz0123456789")  # summaries that untrained models hit now and then
PRESET = """
papers: {held_out: 0.5, train: 8, test: 4, abstract_words: 6}
reference: {vocabulary: 300, width: 16, layers: 1, heads: 2, window: 64, batch_size: 4, steps: 2}
reward: {samples: 4, batch_size: 4, steps: 2}
sampling: {temperatures: [0.7, 1.0]}
collect: {num_samples: 8, max_new_tokens: 6}
train:
  n: 2
  warm_start: none
  num_iterations: 2
  rollouts_per_iteration: 16
  samples_per_prompt: 4
  minibatch_size: 8
  validation_fraction: 0.25
  tracker: none
evaluate: {samples_per_prompt: 3, throughput: false}
"""

pytestmark = pytest.mark.recipes


def generated_papers(count: int) -> list[dict]:
    draw = random.Random(0)

    def sentence(size: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(size))

    return [
        {"paper_id": f"paper{i}", "source": [sentence(5), sentence(5)], "target": [LETTERS] * (1 + i % 2)}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with papers/train.jsonl, tiny.yaml, and out/ as the whole recipe leaves it."""
    folder = tmp_path_factory.mktemp("summarization")
    (folder / "papers").mkdir()
    rows = generated_papers(40)
    (folder / "papers/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (folder / "tiny.yaml").write_text(PRESET)
    done = subprocess.run([sys.executable, str(RECIPE / "run.py"), *arguments(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def arguments(folder: Path) -> list[str]:
    return [
        "--data",
        str(folder / "papers"),
        "--out",
        str(folder / "out"),
        "--preset",
        str(folder / "tiny.yaml"),
        "--seeds",
        "1",
    ]


@pytest.fixture(scope="module")
def main():
    """The recipe's own main, in this process: what is refused or already done need not wait for imports."""
    sys.path.insert(0, str(RECIPE))
    try:
        yield importlib.import_module("run").main
    finally:
        sys.path.remove(str(RECIPE))
        for name in [name for name, module in sys.modules.items() if _is_of_recipe(module)]:
            del sys.modules[name]


def _is_of_recipe(module) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(RECIPE))


def test_each_temperature_has_a_pool_of_its_own_and_no_paper_is_on_both_sides(folder):
    for temperature in (0.7, 1.0):
        pools = [
            ReferencePool.open(folder / f"out/temperature-{temperature:g}/pool-{name}") for name in ("train", "test")
        ]
        assert [pool.fingerprint.temperature for pool in pools] == [temperature] * 2
        assert [len(pool) for pool in pools] == [8, 4]
        assert not {p.prompt for p in pools[0].prompts} & {p.prompt for p in pools[1].prompts}
        prompts = {" ".join(" ".join(row["source"]).split()[:6]) + "\nTL;DR:" for row in generated_papers(40)}
        assert {p.prompt for pool in pools for p in pool.prompts} <= prompts


def test_the_reward_model_is_taught_by_the_share_of_shared_words(folder):
    """Unigram F1 with each prompt's own summary, counted again word by word; on papers that no prompt is of."""
    pool = ReferencePool.open(folder / "out/pool-reward")
    asked = ReferencePool.open(folder / "out/temperature-1/pool-test")
    assert not {p.prompt for p in pool.prompts} & {p.prompt for p in asked.prompts}
    assert 0 < (pool.rewards > 0).sum() < len(pool.rewards)
    for text, reward in zip(pool.completions, pool.rewards, strict=True):
        words = "".join(c if c in LETTERS else " " for c in str(text).lower()).split()
        shared = sum(1 for word in set(words) if len(word) == 1)  # each letter once in the summary
        assert reward == pytest.approx(2 * shared / (len(words) + 36))


def test_pools_are_scored_by_the_reward_model_and_overlap_only_judges(folder):
    for temperature in (0.7, 1.0):
        pool = ReferencePool.open(folder / f"out/temperature-{temperature:g}/pool-test")
        assert pool.manifest.reward == str(folder / "out/reward")
        assert len(set(pool.rewards)) > len(pool.rewards) / 2  # logits: ties are of equal texts
        evaluation = json.loads((folder / f"out/temperature-{temperature:g}/evaluation/evaluation.json").read_text())
        assert [name.rpartition("/")[2] for name in evaluation["judges"]] == ["overlap.py:score"]


def test_pairs_are_neighbours_of_unlike_overlap_and_the_better_is_first(folder, main):
    pool = ReferencePool.open(folder / "out/pool-reward")
    pairs = list(importlib.import_module("reward_model").pairs(pool))
    unlike = pool.rewards[0::2] != pool.rewards[1::2]
    assert len(pairs) == unlike.sum() > 0
    rewards = {(p.prompt, str(t)): r for p, rows in _rows_of(pool) for t, r in rows}
    for pair in pairs:
        assert rewards[pair.prompt, pair.better] > rewards[pair.prompt, pair.worse]


def _rows_of(pool):
    for index, prompt in enumerate(pool.prompts):
        rows = slice(pool.offsets[index], pool.offsets[index + 1])
        yield prompt, list(zip(pool.completions[rows], pool.rewards[rows], strict=True))


def test_the_table_has_every_temperature_with_best_of_n_and_no_text(folder):
    text = (folder / "out/results.md").read_text()
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [line.split("|")[1:3] for line in lines]
    assert header.endswith("| overlap (judge) |")
    assert all(line.endswith(") |") for line in lines)  # its interval
    assert [(a.strip(), b.strip()) for a, b in rows] == [
        (t, name) for t in ("0.7", "1") for name in ("reference", "seed-1", "best-of-2")
    ]
    assert not [word for word in WORDS if f" {word} " in text.rpartition("|")[0]]
    assert "% of pairs" in text.splitlines()[-1]


def test_the_same_command_makes_nothing_again(folder, main):
    def made() -> dict[Path, int]:
        names = ("*/pool-*/*.parquet", "*/seed-1/vbon/run.json", "*/evaluation/*.json", "re*/*", "*.json*")
        return {path: path.stat().st_mtime_ns for name in names for path in (folder / "out").glob(name)}

    before = made()
    assert main(arguments(folder)) == 0
    assert made() == before and len(before) > 12


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("  n: 2", "  n: 2\n  seed: 3", "train: seed is set by the recipe itself"),
        ("test: 4", "test: 40", "papers are held out, but the preset asks for 48"),
        ("num_samples: 8", "num_smaples: 8", "collect: unknown key 'num_smaples' (did you mean num_samples?)"),
    ],
)
def test_a_preset_that_will_not_do_is_one_line(folder, tmp_path, main, capsys, old, new, named):
    (tmp_path / "other.yaml").write_text(PRESET.replace(old, new))
    flags = ["--data", str(folder / "papers"), "--out", str(tmp_path / "out"), "--preset", str(tmp_path / "other.yaml")]
    shutil.copytree(folder / "out/reference", tmp_path / "out/reference")  # what the stages before make
    shutil.copy(folder / "out/reward-agreement.json", tmp_path / "out")
    assert main([*flags, "--until", "prompts"]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", ["small", "paper"])
def test_the_presets_are_configs_that_the_verbs_take(main, name):
    preset = sys.modules["preset"].load_preset(name)
    models = {"model": "m", "reward": "r", "out": "o"}
    CollectConfig(**models, prompts="p", **preset.collect).validate()
    TrainConfig(**models, pool="p", **preset.train).validate()
    EvaluateConfig(**models, pool="p", runs=("run",), n=preset.train["n"], **preset.evaluate).validate()
    assert preset.collect["num_samples"] >= 25 * preset.train["n"]  # what the evaluation asks of a pool
    assert 0.7 in preset.sampling.temperatures  # the paper's


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"paper_id": "x", "source": ["a"]}', "train.jsonl:1: needs `target`, a list of strings"),
        ('{"source": ["a"], "target": ["b"]}', "train.jsonl:1: needs a string `paper_id`"),
        ('{"paper_id": ', "train.jsonl:1: not JSON"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(tmp_path, main, capsys, line, named):
    (tmp_path / "train.jsonl").write_text(line + "\n")
    (tmp_path / "tiny.yaml").write_text(PRESET)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--preset", str(tmp_path / "tiny.yaml")]) == 2
    said = capsys.readouterr().err
    assert named in said and "Traceback" not in said
