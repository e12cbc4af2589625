"""The verifiable recipe on sums of one digit: every stage for two steps, through the command line."""

import importlib
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.pool.store import ReferencePool

RECIPE = Path(__file__).parents[2] / "recipes" / "verifiable"
METHODS = ("vbon", "vbon-bound", "kl-rl")
SEED, N, TEST = 3, 2, 6
PRESET = """
corpus: {digits: 1, sums: 30, held_out: 0.5, slip: 0.2}
reference: {width: 16, layers: 1, heads: 2, window: 8, batch_size: 32, steps: 200, learning_rate: 0.01}
problems: {train: 12, train_samples: 16, test: 6, test_samples: 16}
collect: {max_new_tokens: 3}
train:
  n: 2
  warm_start: offline
  offline_steps: 2
  num_iterations: 2
  rollouts_per_iteration: 16
  samples_per_prompt: 4
  minibatch_size: 8
  validation_fraction: 0.25
  tracker: none
evaluate: {samples_per_prompt: 4, throughput: false}
"""

pytestmark = pytest.mark.recipes


def arguments(folder: Path, preset: Path) -> list[str]:
    return ["--out", str(folder / "out"), "--preset", str(preset), "--seeds", str(SEED)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with tiny.yaml, and out/ as the whole recipe leaves it."""
    folder = tmp_path_factory.mktemp("verifiable")
    (folder / "tiny.yaml").write_text(PRESET)
    flags = arguments(folder, folder / "tiny.yaml")
    done = subprocess.run([sys.executable, str(RECIPE / "run.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def recipe():
    """Imports modules of the recipe into this process, and leaves none behind."""
    sys.path.insert(0, str(RECIPE))
    before = set(sys.modules)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(RECIPE))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(RECIPE)):
                del sys.modules[name]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_problems_are_disjoint_and_their_answers_are_the_sums(folder):
    train, test = (rows_of(folder / "out" / f"problems-{name}.jsonl") for name in ("train", "test"))
    assert (len(train), len(test), len({row["prompt"] for row in train + test})) == (12, TEST, 12 + TEST)
    for row in train + test:
        a, b = row["prompt"].rstrip("=").split("+")
        assert int(row["answer"][::-1]) == int(a) + int(b)
        assert row["carries"] == len(row["answer"]) - 1  # of one column there is a carry where there is a second digit


def test_the_reward_is_one_where_the_pool_has_the_answer(folder):
    pool = ReferencePool.open(folder / "out" / "pool-train")
    answers = [pool.prompts[index].columns["answer"] for index in pool.prompt_index]
    right = [float(text == answer) for text, answer in zip(pool.completions, answers, strict=True)]
    assert pool.rewards.tolist() == right
    assert 0 < sum(right) < len(right)  # both are there to be told apart


def test_results_are_the_per_prompt_values_and_the_pools_own_pass_at_n(folder):
    results = json.loads((folder / "out" / "results" / "results.json").read_text())
    rows = pq.read_table(folder / "out" / "evaluation" / "per_prompt.parquet").to_pylist()
    mean = {
        name: np.mean([row["reward"] for row in rows if row["policy"] == name]) for name in {r["policy"] for r in rows}
    }
    pool = ReferencePool.open(folder / "out" / "pool-test")
    passed = pool.rewards.reshape(TEST, 16).sum(1).astype(int)
    pass_at_n = np.mean([1 - comb(16 - count, N) / comb(16, N) for count in passed])
    assert results["best_of_n"]["pass_at_1"]["value"] == pytest.approx(pass_at_n)
    for method in METHODS:
        row = results["runs"][method][str(SEED)]
        assert row["pass_at_1"]["value"] == pytest.approx(mean[f"{method}-{SEED}"])
        assert row["difference"]["value"] == pytest.approx(mean[f"{method}-{SEED}"] - pass_at_n)
        assert row["share"]["value"] == pytest.approx(mean[f"{method}-{SEED}"] / pass_at_n)


def jackknife(estimate, passed, count):
    """The delete-one jackknife of an estimate from the pass rate of `count` samples."""
    rate = passed / count
    left_out = sum(
        share * estimate(rest / (count - 1)) for share, rest in ((rate, passed - 1), (1 - rate, passed)) if share > 0
    )
    return count * estimate(rate) - (count - 1) * left_out


def test_kl_rl_gets_the_beta_that_spends_the_kl_of_best_of_n(folder):
    config = json.loads((folder / "out" / "stages" / f"train-kl-rl-{SEED}.json").read_text())["settings"]
    odds = np.exp(1 / float(config["kl_coef"]))  # the tilt of a reward of 1 against 0
    passed = ReferencePool.open(folder / "out" / "pool-train").rewards.reshape(12, 16).sum(1)
    spent = [jackknife(lambda p: divergence(p * odds / (p * odds + 1 - p), p), count, 16) for count in passed]
    wanted = [jackknife(lambda p: divergence(1 - (1 - p) ** N, p), count, 16) for count in passed]
    assert np.mean(spent) == pytest.approx(np.mean(wanted), rel=1e-4)  # kl_coef has six digits


def divergence(q: float, p: float) -> float:
    """KL between two coins, nats."""
    return sum(a * np.log(a / b) for a, b in ((q, p), (1 - q, 1 - p)) if a > 0)


def test_the_same_command_does_nothing_again_and_another_preset_is_refused(folder, recipe, tmp_path, capsys):
    main = recipe("run").main
    assert main(arguments(folder, folder / "tiny.yaml")) == 0
    assert "==" not in capsys.readouterr().err
    other = tmp_path / "other.yaml"
    other.write_text(PRESET.replace("slip: 0.2", "slip: 0.3"))
    assert main(arguments(folder, other)) == 2
    error = capsys.readouterr().err
    assert (
        "reference.json: was started with other settings (slip was 0.2, now it is 0.3)" in error
        and error.count("\n") == 1
    )


def test_pupils_make_the_mistakes_they_are_said_to(recipe):
    """57+68: the carries are dropped independently; without slips each written answer has its exact chance."""
    homework = recipe("homework")
    corpus, one, draws = homework.CorpusConfig(slip=0.0, forgotten_carry=0.25), homework.Sum(57, 68), 20_000
    rng = random.Random(0)
    found = Counter(homework.write_answer(one, corpus, rng) for _ in range(draws))
    expected: Counter[str] = Counter()
    for first, second in product((0, 1), repeat=2):  # is the carry of the ones kept, that of the tens?
        chance = (0.75 if first else 0.25) * (0.75 if second else 0.25)
        expected["5" + str((5 + 6 + first) % 10) + "1" * second] += chance
    assert set(found) == set(expected)
    for written, chance in expected.items():
        assert abs(found[written] / draws - chance) < 4.5 * np.sqrt(chance * (1 - chance) / draws)
    assert one.carries == 2 and one.answer == "521"


def test_no_sum_is_both_learnt_and_held_out(recipe):
    homework = recipe("homework")
    corpus = homework.CorpusConfig(digits=2)
    learnt, held_out = (set(homework.draw_sums(corpus, 700, 0, held_out=side)) for side in (False, True))
    assert not learnt & held_out
    assert len(learnt) == len(held_out) == 700


def test_the_preset_is_a_config_that_the_verbs_take(recipe):
    preset = recipe("preset").load_preset("small")
    models = {"model": "m", "reward": "r", "out": "o"}
    CollectConfig(**models, prompts="p", num_samples=preset.problems.train_samples, **preset.collect).validate()
    for method in METHODS:
        TrainConfig(**models, pool="p", method=method, **preset.train).validate()
    EvaluateConfig(**models, pool="p", runs=("run",), n=preset.train["n"], **preset.evaluate).validate()
    assert preset.problems.test_samples >= 25 * preset.train["n"]  # what the evaluation asks of a pool
