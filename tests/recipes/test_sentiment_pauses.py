"""The sentiment recipe stopped by a budget: calls end in what one makes; several N; a preset for GPUs."""

import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from tests.recipes.test_sentiment import PRESET, generated_reviews, main
from transformers import GPT2LMHeadModel

from vbon.recipes.small_models import ModelConfig, gpt2_config, train_tokenizer

__all__ = ["main"]  # a fixture
pytestmark = pytest.mark.recipes
SEVERAL = (
    PRESET.replace("  n: 2\n", "")
    .replace("warm_start: offline", "algorithm: ppo\n  warm_start: critic")
    .replace("offline_steps: 2", "offline_steps: 1")
    .replace("num_samples: 8,", "num_samples: 8, batch_size: 32, samples_per_shard: 32,")
    + "machine: {device: cuda}\nbest_of: {n: [2, 3]}\n"
)
ONE_STEP = "0.0001"  # minutes: spent before the first step is done
MOST_CALLS = 40


def calling(main: Callable[[list[str]], int], folder: Path) -> Callable[..., tuple[int, str]]:
    """run(OUT, FLAGS…) → the recipe's exit status and what it said."""

    def run(out: str, *flags: str) -> tuple[int, str]:
        named = [
            "--reviews",
            str(folder / "reviews.jsonl"),
            "--out",
            str(folder / out),
            "--preset",
            str(folder / "several.yaml"),
            "--seeds",
            "1",
        ]
        said = io.StringIO()
        with redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tiny classifier reads 24 tokens
            status = main(["run", *named, *flags])
        return status, said.getvalue()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, main) -> Path:
    """reviews.jsonl and several.yaml; whole/ from one call, parts/ from as many as the shortest budget asks for."""
    folder = tmp_path_factory.mktemp("pauses")
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in generated_reviews(150)))
    (folder / "several.yaml").write_text(SEVERAL)
    run = calling(main, folder)
    assert run("whole", "--device", "cpu")[0] == 0
    said = []
    while len(said) < MOST_CALLS and not (folder / "parts/results/results.json").is_file():
        status, text = run("parts", "--device", "cpu", "--minutes", ONE_STEP)
        assert status == 0, text
        said.append(text)
    (folder / "parts.err").write_text("".join(said))
    return folder


@pytest.fixture
def run(main, folder) -> Callable[..., tuple[int, str]]:
    return calling(main, folder)


def test_each_call_does_a_step_says_what_is_left_and_leaves_no_more_than_one_call(folder):
    said = [line for line in (folder / "parts.err").read_text().splitlines() if line.startswith("sentiment: paused: ")]
    stopped = [
        "reference.unfinished: stopped after step 1 of 2",
        "classifier.unfinished: stopped after step 1 of 2",
        "pool-train: stopped with 4 of 12 prompts stored",
        "n2-seed-1: stopped at iteration 0",
        "n3-seed-1: stopped at iteration 1",
        "n2-evaluation not begun",
    ]
    for words in stopped:
        assert any(words in line for line in said), words
    assert said[-1].endswith("n3-evaluation not begun. Left: n3-evaluation, results; run the same command to continue")
    assert not list((folder / "parts").glob("*.unfinished")) and not list((folder / "parts/stages").glob("*.spent"))


@pytest.mark.parametrize(
    "name",
    [
        "reference/model.safetensors",
        "reference/tokenizer.json",
        "classifier/model.safetensors",
        "prompts-train.jsonl",
        "runs/n2-seed-1/model.safetensors",
        "runs/n3-seed-1/model.safetensors",
    ],
)
def test_many_calls_make_the_bytes_of_one(folder, name):
    assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_many_calls_measure_what_one_does_for_every_n(folder):
    whole, parts = (json.loads((folder / out / "results/results.json").read_text()) for out in ("whole", "parts"))
    assert sorted(whole["by_n"]) == ["2", "3"]
    for key in ("by_n", "best_of_n_curve"):
        assert parts[key] == whole[key]
    for n, one in whole["by_n"].items():
        evaluation = json.loads((folder / "whole" / f"n{n}-evaluation" / "evaluation.json").read_text())
        assert (one["n"], evaluation["n"]) == (float(n), float(n)) and sorted(one["seeds"]) == [f"n{n}-seed-1"]
        trained = json.loads((folder / "whole/runs" / f"n{n}-seed-1/vbon/run.json").read_text())
        assert trained["n"] == float(n)
    text = (folder / "whole/results/results.md").read_text()
    assert text.count("| best-of-") == 2 and "| best-of-3 |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_preset_that_wants_a_gpu_is_skipped_visibly_without_one(folder, run):
    status, said = run("elsewhere")
    assert status == 0 and not (folder / "elsewhere").exists() and said.count("\n") == 1
    assert said.startswith("sentiment: skipped: preset several needs a GPU") and "--device cpu" in said
    status, said = run("elsewhere", "--device", "cuda")
    assert status == 2 and "no CUDA device on this machine" in said


def test_a_model_begun_with_other_settings_is_refused(folder, run):
    flags = ("--device", "cpu", "--until", "reference", "--minutes", ONE_STEP)
    assert "stopped after step 1 of 2" in run("begun", *flags)[1]
    preset = folder / "several.yaml"
    preset.write_text(SEVERAL.replace("vocabulary: 300", "vocabulary: 310"))
    try:
        status, said = run("begun", *flags)
    finally:
        preset.write_text(SEVERAL)
    assert status == 2 and "reference.unfinished: was started with other settings" in said


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("train:\n", "train:\n  n: 2\n", "train: n and best_of: n say the same thing"),
        ("best_of: {n: [2, 3]}", "best_of: {n: []}", "train: n is missing"),
        ("device: cuda", "devise: cuda", "machine: unknown key 'devise'"),
    ],
)
def test_a_preset_of_several_n_that_will_not_do_is_one_line(folder, run, old, new, named):
    preset = folder / "several.yaml"
    preset.write_text(SEVERAL.replace(old, new))
    try:
        status, said = run("refused", "--device", "cpu")
    finally:
        preset.write_text(SEVERAL)
    assert status == 2 and named in said and said.count("\n") == 1


def test_the_gpu_presets_reference_has_the_size_of_gpt2_small():
    tokenizer = train_tokenizer(["a few words"], ModelConfig(vocabulary=300))
    config = gpt2_config(tokenizer, ModelConfig(width=768, layers=12, heads=12, window=64))
    config.vocab_size = 50257
    with torch.device("meta"):
        parameters = GPT2LMHeadModel(config).num_parameters()
    assert parameters == 124_439_808 - 768 * (1024 - 64)  # GPT-2 small, of a shorter window
