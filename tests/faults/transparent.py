"""Borders that change nothing: whatever carries the enumerable world's texts and rewards, its numbers stay the same.

Each input is a way to hand over the same model, tokenizer, reward and prompts: another kind of tokenizer with the same
tokens, weights in several files or behind more rows, a reward with other containers, batches, noise or a monotone map,
a reward model instead of a table of its numbers, prompts in another format. The rank test, KL(π_ref‖π_bon) and every
rank that `vbon evaluate` reports of the reference must then be those of the plain world, which `tests/evaluation`
holds against enumeration.
"""

import json
import math
import shutil
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import torch
from tests.enumerable import write_enumerable
from tests.faults.pool_targets import csv_text
from tests.faults.reader import Target, json_lines, parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from vbon.config import CollectConfig, EvaluateConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.lab.world import NEVER, World
from vbon.pool.collect import collect
from vbon.rewards import load_reward

WORLD = World(letters=3, max_new_tokens=3, prompts=("one", "two one"), sharpness=10.0, hidden_size=16, num_layers=1)
N, NUM_SAMPLES, SAMPLES_PER_PROMPT = 4, 48, 16
RANKS = ("win_rate", "kl_policy_ref", "kl_policy_bon", "kl_bon_policy", "share_worse", "entropy")
TOLERANCE = 1e-5  # float32 sums in another order where the head has more rows
FUNCTIONS = ("score", "levels", "binary", "classifier")
TOKENIZERS = ("words", "metaspace", "bytes", "unigram")
CHOICES: dict[str, tuple[Any, ...]] = {
    "function": FUNCTIONS,
    "tokenizer": TOKENIZERS,
    "appends_eos": (False, True),
    "pads": (True, False),
    "rows": (0, 1, 7),
    "shard_size": ("1GB", "1KB"),
    "prompt_format": (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"),
    "answer": ("values", "tuple(values)", "np.array(values)", "(v for v in values)", "torch.tensor(values).double()"),
    "map": ("v", "1000 * v - 7", "math.exp(v)", "v**3 + v", "v * 1e-12", "v + 1e6"),
    "noise": (0.0, 0.0, 1e-7, 3e-7),
    "effect": ("pass", "completions.reverse()", "prompts.clear()", "np.random.seed(0)", "torch.manual_seed(0)"),
    "batch_size": (64, 1, 2, 7),
    "sampling_batch": (64, 17, 256),
    "shard": (4096, 1, 64),
}


def transparent(folder: Path) -> Target:
    world, place = write_enumerable(folder / "world", WORLD), folder / "made"
    _write_classifier(folder / "classifier")
    known: dict[str, dict[str, Any]] = {}

    def read(content: bytes, _: str) -> None:
        border = json.loads(content)
        function = border["function"]
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                if function not in known:
                    known[function] = numbers(plain(function), world, folder, place)
                    shutil.rmtree(place)
                _compare(known[function], numbers(border, world, folder, place))
        except VbonError as error:
            raise AssertionError(f"a border that changes nothing is refused: {error}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def make(random: Random) -> tuple[str, bytes]:
        border = {name: random.choice(values) for name, values in CHOICES.items()}
        if border["noise"]:
            border["map"] = "v"  # noise in the last digits of a map that squeezes rewards together is no small noise
        return "", json.dumps(border).encode()

    return Target("borders that change nothing", 0.5, (), read, make)


def plain(function: str) -> dict[str, Any]:
    """The border of the world as it is."""
    return {name: values[0] for name, values in CHOICES.items()} | {"function": function, "plain": True}


def numbers(border: dict[str, Any], world: Path, folder: Path, place: Path) -> dict[str, Any]:
    """What `vbon evaluate` says of the reference and of best-of-N behind this border."""
    place.mkdir()
    model = _write_model(border, world / "model", place / "model")
    reward, prompts = _write_reward(border, folder, world, place), _write_prompts(border, place)
    shared = {"device": "cpu", "reward_batch_size": border["batch_size"], "seed": 3}
    collect(
        CollectConfig(
            **{"model": model, "reward": reward, "prompts": prompts, "out": str(place / "pool"), **shared},
            **{"num_samples": NUM_SAMPLES, "max_new_tokens": WORLD.max_new_tokens},
            **{"batch_size": border["sampling_batch"], "samples_per_shard": border["shard"]},
        ),
        progress=False,
    )
    config = EvaluateConfig(
        **{"runs": (model,), "pool": str(place / "pool"), "out": str(place / "evaluation"), "n": N, **shared},
        **{"samples_per_prompt": SAMPLES_PER_PROMPT, "throughput": False, "batch_size": border["sampling_batch"]},
    )
    record = evaluate_command(config)
    metrics = {name: record["reference"]["metrics"][name]["value"] for name in RANKS}
    return {"rank test": record["rank_test"], "target": record["target"]["metrics"], "reference": metrics}


def _compare(known: dict[str, Any], found: dict[str, Any]) -> None:
    """The numbers of ranks, exact up to float32 sums; rewards themselves move with a map."""
    assert found["rank test"] == known["rank test"], (found["rank test"], known["rank test"])
    for name, value in known["reference"].items():
        assert math.isclose(found["reference"][name], value, abs_tol=TOLERANCE), (name, found["reference"][name], value)
    for name in ("kl_policy_ref", "win_rate"):
        one, other = known["target"][name]["value"], found["target"][name]["value"]
        assert math.isclose(one, other, abs_tol=TOLERANCE), (name, one, other)


def _write_model(border: dict[str, Any], source: Path, model: Path) -> str:
    made = AutoModelForCausalLM.from_pretrained(source)
    rows = made.config.vocab_size
    if border["rows"]:
        made.resize_token_embeddings(rows + border["rows"], mean_resizing=False)
        with torch.no_grad():
            made.lm_head.weight[rows:] = NEVER / WORLD.hidden_size
    made.save_pretrained(model, max_shard_size=border["shard_size"])
    tokenizer = world_tokenizer(border["tokenizer"], pads=border["pads"], appends_eos=border["appends_eos"])
    tokenizer.save_pretrained(model)
    return str(model)


def world_tokenizer(kind: str, *, pads: bool = True, appends_eos: bool = False) -> PreTrainedTokenizerFast:
    """The world's tokens, id by id, in a tokenizer of another kind that joins them to the same texts."""
    words = WORLD.vocabulary
    if kind == "words":
        made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "bytes":
        pieces = {word if word[0] == "<" else "Ġ" + word: i for i, word in enumerate(words)}
        made = Tokenizer(models.WordLevel(pieces, unk_token="<pad>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    else:
        pieces = {word if word[0] == "<" else "▁" + word: i for i, word in enumerate(words)}
        if kind == "unigram":
            made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=WORLD.pad))
        else:
            made = Tokenizer(models.WordLevel(pieces, unk_token="<pad>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<eos>", "<pad>"])
    if appends_eos:
        made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    pad = {"pad_token": "<pad>"} if pads else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", clean_up_tokenization_spaces=False, unk_token="<pad>", **pad
    )


def _write_prompts(border: dict[str, Any], place: Path) -> str:
    suffix = border["prompt_format"]
    rows = [{"prompt": prompt} for prompt in WORLD.prompts]
    content = {
        ".jsonl": partial(json_lines, rows),
        ".json": lambda: json.dumps(rows).encode(),
        ".csv": partial(csv_text, rows, ","),
        ".tsv": partial(csv_text, rows, "\t"),
        ".txt": lambda: "".join(f"{prompt}\n" for prompt in WORLD.prompts).encode(),
        ".parquet": partial(parquet, rows),
    }[suffix]()
    (place / f"prompts{suffix}").write_bytes(content)
    return str(place / f"prompts{suffix}")


REWARD = """
{base}
import math, random
import numpy as np
import torch
def reward(prompts, completions):
    values = [{map} for v in base(list(prompts), list(completions))]
    values = [v + {noise} * abs(v) * random.uniform(-1, 1) for v in values]
    {effect}
    return {answer}
{mark}
"""
TABLE = """
TABLE = {table!r}
def base(prompts, completions):
    return [TABLE[p + c] for p, c in zip(prompts, completions)]
"""


def _write_reward(border: dict[str, Any], folder: Path, world: Path, place: Path) -> str:
    """The world's function behind a border; for `classifier` the reward model, or in the plain world its table."""
    classifier = str(folder / "classifier")
    if border["function"] == "classifier":
        if "plain" not in border:
            return classifier
        texts = [(prompt, text) for prompt in WORLD.prompts for text in WORLD.texts]
        values = load_reward(classifier, batch_size=1)([one for one, _ in texts], [text for _, text in texts])
        base = TABLE.format(table={p + c: float(v) for (p, c), v in zip(texts, values, strict=True)})
    else:
        base = (world / "reward.py").read_text() + f"\nbase = {border['function']}\n"
    mark = "reward.batch_noise = True" if border["noise"] else ""
    fields = {name: border[name] for name in ("map", "noise", "effect", "answer")}
    (place / "made_reward.py").write_text(REWARD.format(base=base, mark=mark, **fields))
    return f"{place}/made_reward.py:reward"


def _write_classifier(folder: Path) -> None:
    """A reward model whose logits of one text differ in the last digits with the batch it is in."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(WORLD.vocabulary), num_labels=1, pad_token_id=WORLD.pad, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    world_tokenizer("words").save_pretrained(folder)
