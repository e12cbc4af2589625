"""Collect, train and evaluate with each model family; the oracle is the family's own plain forward pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.integrations.tiny import END, EOS, FAMILIES, JUDGE_TEMPLATE, save_judge, save_policy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from vbon import cli
from vbon.pool import ReferencePool

TEMPERATURE, LOGPROB_TOLERANCE = 0.8, 2e-4  # nats; cached and padded against plain, at most 8 tokens in float32
CHAT = [[{"role": "user", "content": text}] for text in ("hi", "how are you?", "2+2", "tell me a tale")]
PLAIN = ["hi", "how are you?", "2+2", "tell me a tale"]


def run(*words: object) -> None:
    assert cli.main([str(word) for word in words]) == 0


def story(folder: Path, prompts: list, reward: str) -> ReferencePool:
    """The verbs in their order, as one would type them; returns the training pool."""
    (folder / "train.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    shared = ["--reward", reward, "--model", folder / "policy", "--device", "cpu"]
    for pool, seed in (("train", 1), ("heldout", 2)):
        run(
            "collect",
            *shared,
            "--prompts",
            folder / "train.jsonl",
            "--out",
            folder / pool,
            "--seed",
            seed,
            "--num-samples",
            16,
            "--temperature",
            TEMPERATURE,
            "--max-new-tokens",
            8,
        )
    run(
        "train",
        *shared,
        "--pool",
        folder / "train",
        "--out",
        folder / "run",
        "--n",
        4,
        "--num-iterations",
        2,
        "--rollouts-per-iteration",
        16,
        "--samples-per-prompt",
        4,
        "--tracker",
        "none",
        "--warm-start",
        "offline",
        "--offline-steps",
        2,
        "--offline-batch-size",
        16,
        "--validation-fraction",
        0,
    )
    run(
        "evaluate",
        folder / "run",
        "--pool",
        folder / "heldout",
        "--out",
        folder / "eval",
        "--device",
        "cpu",
        "--samples-per-prompt",
        4,
        "--no-throughput",
    )
    return ReferencePool.open(folder / "train")


@torch.no_grad()
def plain_logprob(model, prompt_ids: list[int], ids: list[int]) -> float:
    logits = model(torch.tensor([prompt_ids + ids])).logits[0, len(prompt_ids) - 1 : -1].double() / TEMPERATURE
    return float(logits.log_softmax(-1)[range(len(ids)), ids].sum())


def check_logprobs(pool: ReferencePool, folder: Path, prompt_ids: list[list[int]]) -> None:
    """What the pool stores is the reference's own log-probability of each completion, whatever it was batched with."""
    model = AutoModelForCausalLM.from_pretrained(folder / "policy").eval()
    expected = [
        plain_logprob(model, prompt_ids[index], ids)
        for index, ids in zip(pool.prompt_index, pool.completion_ids, strict=True)
    ]
    np.testing.assert_allclose(pool.ref_logprobs, expected, atol=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*held-out:UserWarning")
def test_each_family_from_collect_to_evaluate(family: str, tmp_path: Path):
    save_policy(tmp_path / "policy", family)
    pool = story(tmp_path, PLAIN, "builtin:length")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    check_logprobs(pool, tmp_path, [tokenizer(prompt.prompt)["input_ids"] for prompt in pool.prompts])
    before, after = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("policy", "run"))
    assert before.keys() == after.keys()
    assert max(float((after[name] - before[name]).abs().max()) for name in before) > 1e-4
    assert json.loads((tmp_path / "eval/evaluation.json").read_text())


@pytest.mark.filterwarnings("ignore:.*held-out:UserWarning")
def test_a_chat_model_with_two_stop_tokens_and_a_judge_with_its_own_template(tmp_path: Path):
    save_policy(tmp_path / "policy", "qwen", chat=True)
    save_judge(tmp_path / "judge")
    pool = story(tmp_path, CHAT, str(tmp_path / "judge"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    ends = [ids[-1] for ids in pool.completion_ids]
    assert pool.fingerprint.stop == (EOS, END)
    assert list(pool.finished) == [end in (EOS, END) for end in ends]
    texts = [f"[user]{prompt.prompt[0]['content']}<end>[assistant]" for prompt in pool.prompts]
    check_logprobs(pool, tmp_path, [tokenizer(text)["input_ids"] for text in texts])
    # The judge reads prompt and answer through its own template, not the policy's.
    judge = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    judge_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    assert judge_tokenizer.chat_template == JUDGE_TEMPLATE
    for row in (0, 20, 63):
        question = pool.prompts[pool.prompt_index[row]].prompt[0]["content"]
        text = f"USER: {question}\nASSISTANT: {pool.completions[row]}\n"
        with torch.no_grad():
            logit = judge(torch.tensor([judge_tokenizer(text)["input_ids"]])).logits[0, 0]
        assert pool.rewards[row] == pytest.approx(float(logit), abs=1e-4)
    settings = json.loads((tmp_path / "run/generation_config.json").read_text())
    assert settings["eos_token_id"] == [EOS, END]
    assert AutoTokenizer.from_pretrained(tmp_path / "run").chat_template == tokenizer.chat_template
