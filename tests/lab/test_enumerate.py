"""The prefix tree against one plain forward pass for each completion, and against the library's log-probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbon.lab.enumerate import exact_log_probs, log_probs
from vbon.lab.rewards import base
from vbon.lab.world import EOS, World, count_completions, make_world, reference, tokenizer
from vbon.models import load
from vbon.models.batch import sequences
from vbon.models.logprobs import completion_logprobs
from vbon.models.prompts import completion_texts, encode

FLOAT32 = 2e-5  # sums of a few float32 log-softmaxes


@torch.no_grad()
def row_by_row(model, world, prompt):
    """log π of each completion from its own unpadded forward pass."""
    first, totals = world.prompt_ids[prompt], []
    for ids in world.completions:
        rows = model(torch.tensor([[*first, *ids]])).logits.double().log_softmax(-1)[0, len(first) - 1 :]
        totals.append(sum(float(rows[step, token]) for step, token in enumerate(ids)))
    return np.array(totals)


@pytest.mark.parametrize("prompt", [0, 1])
def test_tree_equals_one_forward_a_completion(prompt, small):
    model = reference(small)
    np.testing.assert_allclose(exact_log_probs(model, small)[prompt], row_by_row(model, small, prompt), atol=FLOAT32)


def test_tree_equals_the_library(tmp_path, small):
    folder = make_world(small, tmp_path)
    policy = load.load_policy(str(folder / "model"))
    batch = sequences([small.prompt_ids[1]] * len(small.completions), small.completions, small.pad)
    with torch.no_grad():
        theirs = completion_logprobs(policy, batch, 1.0).double().sum(1).numpy()
    np.testing.assert_allclose(exact_log_probs(folder / "model", small)[1], theirs, atol=FLOAT32)


def test_probabilities_of_all_completions_sum_to_one(small):
    assert len(small.completions) == count_completions(small) == 40
    np.testing.assert_allclose(np.exp(exact_log_probs(reference(small), small)).sum(1), 1.0, atol=1e-9)


def test_prompts_differ(small):
    one, two = exact_log_probs(reference(small), small)
    assert np.abs(one - two).max() > 0.1


def test_texts_decode_the_ids(small):
    words = tokenizer(small)
    [prompt] = encode(words, small.prompts[:1])
    whole = [words.decode([*prompt, *(i for i in ids if i != EOS)]) for ids in small.completions]
    assert whole == [f" {small.prompts[0]}" + text for text in small.texts]
    assert completion_texts(words, prompt, small.completions) == small.texts


def test_gradient_is_the_score_function(small):
    """E[∇log π] = 0: the gradient of Σ p log p with p detached vanishes in every parameter."""
    model = reference(small)
    logprobs = log_probs(model, small)
    (logprobs.exp().detach() * logprobs).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    assert largest < 1e-4


def test_logit_of_good_letters_shifts_the_odds_exactly(small):
    """At the first token, odds of a good letter against EOS fall by e^2 and those of others stay."""
    weak = replace(small, good_letter_logit=-2.0)
    prefix = {}
    for name, world in (("plain", small), ("weak", weak)):
        probs = np.exp(exact_log_probs(reference(world), world)[0])
        starts = {
            letter: sum(p for p, t in zip(probs, world.texts, strict=True) if t[:2] == f" {letter}") for letter in "abc"
        }
        prefix[name] = {letter: mass / probs[0] for letter, mass in starts.items()}
    assert prefix["weak"]["a"] / prefix["plain"]["a"] == pytest.approx(np.exp(-2), rel=1e-4)
    assert prefix["weak"]["b"] / prefix["plain"]["b"] == pytest.approx(1, rel=1e-4)


def test_default_world_has_no_ties_and_the_announced_difficulty():
    world = World()
    logprobs = exact_log_probs(reference(world), world)[0]
    rewards = [base(world.prompts[0], text) for text in world.texts]
    assert len(set(rewards)) == len(world.completions) == 3906
    assert -np.exp(logprobs) @ logprobs == pytest.approx(6.78, abs=0.01)
