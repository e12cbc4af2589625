"""The sentiment recipe on generated reviews: every stage for two steps, through the command line."""

import gzip
import importlib.util
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from vbon import cli
from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.core.best_of_n import kl_from_reference

RECIPE = Path(__file__).parents[2] / "recipes" / "sentiment"
GOOD, BAD = "splendid charming superb".split(), "dreadful tedious clumsy".split()  # noqa: SIM905
NOUNS = "acting plot music script photography".split()  # noqa: SIM905
SEEDS = (1, 2)
N = 2
PRESET = """
reviews: {held_out: 0.3}
reference: {vocabulary: 300, width: 16, layers: 1, heads: 2, window: 24, batch_size: 8, steps: 2}
classifier: {width: 16, layers: 1, heads: 2, window: 24, batch_size: 8, steps: 2}
prompts: {train: 12, test: 4}
collect: {num_samples: 8, max_new_tokens: 6}
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
  num_threads: 1
evaluate: {samples_per_prompt: 3, throughput: false, num_threads: 1}
"""

pytestmark = pytest.mark.recipes


def generated_reviews(count: int) -> list[dict]:
    """Rows as in the public file, with the HTML that it has."""
    draw = random.Random(0)

    def one(label: int) -> str:
        words = GOOD if label else BAD
        sentences = [f"The {draw.choice(NOUNS)} was {draw.choice(words)}, {draw.random():.6f}." for _ in range(4)]
        return "<br /><br />".join(sentences)

    return [{"label": index % 2, "text": one(index % 2), "id": index} for index in range(count)]


def arguments(reviews: Path, out: Path, preset: Path, command: str = "run") -> list[str]:
    named = {"--reviews": reviews, "--out": out, "--preset": preset}
    return [command, *(str(one) for pair in named.items() for one in pair), "--seeds", *map(str, SEEDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with reviews.jsonl.gz, tiny.yaml, and out/ as the whole recipe leaves it."""
    folder = tmp_path_factory.mktemp("sentiment")
    rows = generated_reviews(150)
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *rows[:10]])  # ten reviews stand there twice
    (folder / "reviews.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "tiny.yaml").write_text(PRESET)
    flags = arguments(folder / "reviews.jsonl.gz", folder / "out", folder / "tiny.yaml")
    done = subprocess.run([sys.executable, str(RECIPE), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def prepared(folder) -> list[str]:
    """The lines that `prepare` prints, of a folder of its own: by-hand/."""
    reviews = folder / "reviews.pos"
    for label, suffix in ((1, ".pos"), (0, ".neg")):
        lines = [row["text"] + "\n" for row in generated_reviews(150) if row["label"] == label]
        reviews.with_suffix(suffix).write_text("".join(lines), "latin-1")
    flags = arguments(reviews, folder / "by-hand", folder / "tiny.yaml", "prepare")
    done = subprocess.run([sys.executable, str(RECIPE), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def main():
    """The recipe's own main, in this process: what is refused or already done need not wait for imports."""
    sys.path.insert(0, str(RECIPE))
    try:
        spec = importlib.util.spec_from_file_location("sentiment", RECIPE / "__main__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.main
    finally:
        sys.path.remove(str(RECIPE))
        for name in [name for name, module in sys.modules.items() if _is_of_recipe(module)]:
            del sys.modules[name]


def _is_of_recipe(module) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(RECIPE))


def prompts_of(folder: Path, name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (folder / "out" / f"prompts-{name}.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_reviews_line_by_line_in_two_files_prepare_the_same(folder, prepared):
    for name in ("reference", "classifier"):
        assert contents(folder / "by-hand" / name) == contents(folder / "out" / name)
    for name in ("prompts-train.jsonl", "prompts-test.jsonl"):
        assert (folder / "by-hand" / name).read_bytes() == (folder / "out" / name).read_bytes()
    assert not (folder / "by-hand" / "pool-train").exists()


@pytest.mark.filterwarnings("ignore:reward .* texts beyond")  # a tiny classifier reads 24 tokens
def test_the_commands_that_prepare_prints_measure_what_run_does(folder, prepared, main, monkeypatch):
    monkeypatch.chdir(folder)
    *commands, last = prepared
    for line in commands:
        assert line.startswith("vbon ") and cli.main(line.split()[1:]) == 0, line
    words = last.split()
    assert words[:2] == ["python", str(RECIPE)]
    assert main([*words[2:], "--preset", str(folder / "tiny.yaml")]) == 0
    by_hand, whole = (json.loads((folder / name / "results/results.json").read_text()) for name in ("by-hand", "out"))
    for key in ("seeds", "verdict", "best_of_n", "best_of_n_curve", "reference"):
        assert by_hand[key] == whole[key], key


def test_prompts_are_disjoint_beginnings_of_2_to_8_tokens(folder):
    train, test = prompts_of(folder, "train"), prompts_of(folder, "test")
    assert (len(train), len(test), len({*train, *test})) == (12, 4, 16)
    texts = {row["text"].replace("<br /><br />", " ") for row in generated_reviews(150)}
    tokenizer = AutoTokenizer.from_pretrained(folder / "out" / "reference")
    starts = {tokenizer.decode(tokenizer(text).input_ids[:count]) for text in texts for count in range(2, 9)}
    assert {*train, *test} <= starts


def test_results_are_the_per_prompt_values_counted_again(folder):
    results = json.loads((folder / "out" / "results" / "results.json").read_text())
    rows = pq.read_table(folder / "out" / "evaluation" / "per_prompt.parquet").to_pylist()

    def mean(policy: str, key: str) -> float:
        return statistics.fmean(row[key] for row in rows if row["policy"] == policy)

    assert sorted(results["seeds"]) == [f"seed-{seed}" for seed in SEEDS]
    for name, row in results["seeds"].items():
        for key in ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon"):
            assert row[key]["value"] == pytest.approx(mean(name, key))
        assert row["kl_ratio"] == pytest.approx(mean(name, "kl_policy_ref") / mean("best-of-n", "kl_policy_ref"))
    ratios = [row["kl_ratio"] for row in results["seeds"].values()]
    assert results["verdict"]["median_kl_ratio"] == pytest.approx(statistics.median(ratios))


def test_the_best_of_n_curve_begins_at_the_reference_and_passes_through_the_target(folder):
    results = json.loads((folder / "out" / "results" / "results.json").read_text())
    curve = results["best_of_n_curve"]
    at_n = curve["n"].index(N)
    assert (curve["n"][0], curve["kl_policy_ref"][0], curve["win_rate"][0]) == (1, pytest.approx(0), pytest.approx(0.5))
    assert curve["kl_policy_ref"][at_n] == pytest.approx(kl_from_reference(N))  # no ties in a logit
    assert curve["reward"][at_n] == pytest.approx(results["best_of_n"]["reward"]["value"])
    assert np.all(np.diff(curve["reward"]) > 0)


def test_what_may_be_published_holds_no_review_text_and_no_path(folder):
    written = sorted((folder / "out" / "results").iterdir())
    assert [path.name for path in written] == ["figure.png", "figure.svg", "results.json", "results.md"]
    for path in written[1:]:
        text = path.read_text()
        assert not [word for word in (*GOOD, *BAD, str(folder)) if word in text]


def test_the_same_command_does_nothing_again(folder, main, capsys):
    stages = {path: path.stat().st_mtime_ns for path in (folder / "out" / "stages").iterdir()}
    assert main(arguments(folder / "reviews.jsonl.gz", folder / "out", folder / "tiny.yaml")) == 0
    assert "==" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "stages").iterdir()} == stages


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "num_samples: 8",
            "num_samples: 9",
            "pool-test.json: was started with other settings (num_samples was 8, now it is 9)",
        ),
        ("num_samples: 8", "num_smaples: 9", "collect: unknown key 'num_smaples' (did you mean num_samples?)"),
        ("  n: 2", "  n: 2\n  seed: 3", "train: seed is set by the recipe itself"),
    ],
)
def test_a_preset_that_will_not_do_is_one_line(folder, tmp_path, main, capsys, old, new, named):
    preset = tmp_path / "other.yaml"
    preset.write_text(PRESET.replace(old, new))
    assert main(arguments(folder / "reviews.jsonl.gz", folder / "out", preset)) == 2
    is_one_line(capsys.readouterr().err, named)


@pytest.mark.parametrize("name", ["small", "paper", "gpu", "gpu-short"])
def test_the_presets_are_configs_that_the_verbs_take(main, name):
    preset = sys.modules["preset"].load_preset(name)
    models = {"model": "m", "reward": "r", "out": "o"}
    for split in ("train", "test"):
        CollectConfig(**models, prompts="p", **preset.pool(split)).validate()
    for n in preset.several:
        TrainConfig(**models, pool="p", **preset.training(n)).validate()
        EvaluateConfig(**models, pool="p", runs=("run",), n=n, **preset.evaluate).validate()
        assert preset.pool("test")["num_samples"] >= 25 * n  # what the evaluation asks of a pool
    if preset.reference.model is None:
        assert preset.reference.window >= preset.prompts.most_tokens + preset.collect["max_new_tokens"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"text": "fine"}', "reviews.jsonl:2: needs a string `text` and a `label` of 0 or 1"),
        ('{"text": ', "reviews.jsonl:2: malformed JSON"),
        ('{"text": "fine", "label": 1, "label": 0}', "reviews.jsonl:2: malformed JSON (key 'label' appears twice)"),
    ],
)
def test_a_review_file_that_will_not_do_is_one_line(tmp_path, main, capsys, line, named):
    data, preset = tmp_path / "reviews.jsonl", tmp_path / "tiny.yaml"
    data.write_text('{"text": "fine", "label": 1}\n' + line + "\n")
    preset.write_text(PRESET)
    assert main(arguments(data, tmp_path / "out", preset)) == 2
    is_one_line(capsys.readouterr().err, named)


def test_a_pos_file_without_its_neg_is_named(tmp_path, main, capsys):
    (tmp_path / "reviews.pos").write_text("fine\n")
    (tmp_path / "tiny.yaml").write_text(PRESET)
    assert main(arguments(tmp_path / "reviews.pos", tmp_path / "out", tmp_path / "tiny.yaml", "prepare")) == 2
    is_one_line(capsys.readouterr().err, f"--reviews {tmp_path / 'reviews.neg'}: cannot be read")


def test_only_line_feeds_end_a_review(tmp_path, main):
    (tmp_path / "reviews.pos").write_bytes(b"one\x85still one\r\ntwo\n")
    (tmp_path / "reviews.neg").write_bytes(b"three\x1cand more\n\n")
    split = sys.modules["reviews"].read_split(tmp_path / "reviews.pos", 0.0)
    assert {(one.text, one.label) for one in split.train} == {("one still one", 1), ("two", 1), ("three and more", 0)}


def is_one_line(text: str, named: str) -> None:
    assert named in text and text.count("\n") == 1
