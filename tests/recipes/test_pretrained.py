"""The pretrained recipe on a tiny chat model: every stage for two steps, through the command line; its constraints."""

import importlib
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.pool.store import ReferencePool

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrained"
PRESET = """
prompts: {train: 8, train_samples: 16, test: 4, test_samples: 16}
collect: {max_new_tokens: 6}
train:
  n: 2
  warm_start: none
  num_iterations: 2
  rollouts_per_iteration: 16
  samples_per_prompt: 4
  minibatch_size: 8
  validation_fraction: 0.25
  tracker: none
  learning_rate: 1.0e-3
evaluate: {samples_per_prompt: 4, throughput: false}
"""

pytestmark = pytest.mark.recipes


def save_chat_model(folder: Path) -> None:
    """A model of bytes, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_positions": 512, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=258, bos_token_id=256, eos_token_id=256, **size)).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with model/, tiny.yaml, and out/ as the whole recipe leaves it."""
    folder = tmp_path_factory.mktemp("pretrained")
    save_chat_model(folder / "model")
    (folder / "tiny.yaml").write_text(PRESET)
    flags = ["--model", folder / "model", "--out", folder / "out", "--preset", folder / "tiny.yaml", "--seeds", "3"]
    command = [sys.executable, RECIPE / "run.py", *flags]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def constraints():
    """The module of the recipe, imported as its own command does."""
    sys.path.insert(0, str(RECIPE))
    try:
        yield importlib.import_module("constraints")
    finally:
        sys.path.remove(str(RECIPE))
        sys.modules.pop("constraints", None)


@pytest.mark.parametrize(
    ("kind", "value", "right", "wrong"),
    [
        ("at_most_words", 3, "one two, three!", "it's one two three"),
        ("at_most_words", 3, "one", " "),
        ("at_least_words", 3, "one two-three", "one don't"),
        ("items", 2, "Here:\n1. tea\n2. milk", "1. tea"),
        ("items", 2, "- tea\n\n* milk\n", "-tea\n- milk\n- more"),
        ("sentences", 2, "One is here. Two? ", "One, two."),
        ("use", "life", "Life is short.", "lifelong"),
        ("avoid", "the", "then there", "On THE road"),
        ("avoid", "the", "a", ""),
        ("no_comma", None, "a b", "a, b"),
        ("question", None, "Why? ", "Why?!"),
        ("period", None, "So.\n", "So"),
        ("one_capital", None, " The end", "The End"),
        ("one_capital", None, "The end", "the end"),
        ("begin", "In", "“in time", "Within"),
    ],
)
def test_a_constraint_holds_or_not(constraints, kind, value, right, wrong):
    asked = {"kind": kind, "value": value}
    assert constraints.holds(right, asked) and not constraints.holds(wrong, asked)


def test_the_reward_is_the_share_that_holds(constraints):
    asked = [{"kind": "no_comma", "value": None}, {"kind": "use", "value": "day"}, {"kind": "period", "value": None}]
    texts = ["A day.", "A night.", "A day, a night"]
    assert constraints.score(texts, [asked] * 3) == [1, 2 / 3, 1 / 3]


def test_test_prompts_combine_constraints_as_no_training_prompt_does(constraints):
    pairs = {}
    for held_out in (False, True):
        rows = list(constraints.draw_prompts(200, 1, held_out=held_out))
        assert len({row["prompt"][0]["content"] for row in rows}) == 200
        kinds = [[one["kind"] for one in row["constraints"]] for row in rows]
        pairs[held_out] = [{frozenset(pair) for pair in combinations(one, 2)} for one in kinds]
    trained = set().union(*pairs[False])
    assert all(one - trained for one in pairs[True])  # each test prompt has a pair that training never shows
    every_kind = {kind for pair in trained for kind in pair}
    assert every_kind == set(constraints.KINDS)


def test_the_table_is_what_pool_and_samples_say(folder, constraints):
    results = json.loads((folder / "out" / "results" / "results.json").read_text())
    pool = ReferencePool.open(folder / "out" / "pool-test")
    means = [rewards.mean() for rewards in pool.per_prompt(pool.rewards)]
    best = [np.mean([max(pair) for pair in combinations(rewards, 2)]) for rewards in pool.per_prompt(pool.rewards)]
    assert results["rows"]["reference"]["reward"]["value"] == pytest.approx(np.mean(means))
    assert results["rows"]["best-of-n"]["reward"]["value"] == pytest.approx(np.mean(best))
    assert set(results["rows"]) == {"reference", "seed-3", "best-of-n"}
    rates = [np.mean([rewards == 1]) for rewards in pool.per_prompt(pool.rewards)]
    assert results["rows"]["reference"]["passed"]["value"] == pytest.approx(np.mean(rates))
    asked = {one["kind"] for prompt in pool.prompts for one in prompt.columns["constraints"]}
    assert set(results["constraints"]["best-of-n"]) == asked


def test_the_same_command_does_nothing_again(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "stages").iterdir()}
    flags = ["--model", folder / "model", "--out", folder / "out", "--preset", folder / "tiny.yaml", "--seeds", "3"]
    done = subprocess.run([sys.executable, str(RECIPE / "run.py"), *map(str, flags)], capture_output=True, text=True)
    assert done.returncode == 0 and "==" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
