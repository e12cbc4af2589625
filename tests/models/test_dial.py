"""The dial against log-probabilities that are mixed by hand, and against the two policies at its ends."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vbon.core import seeds
from vbon.errors import VbonError
from vbon.models.batch import sequences
from vbon.models.dial import Dial, dial_share
from vbon.models.generate import generate
from vbon.models.logprobs import completion_logprobs

FLOAT32 = 2e-5  # nats a token: sampling, training and plain forward passes differ in shapes only
PROMPTS = [[3, 4], [5, 6, 7, 8], [9]]
TEMPERATURE = 0.8


def model(seed: int, vocabulary: int = 16) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes)).eval()


def drawn(policy, num_samples: int = 6):
    uniforms = seeds.uniforms((len(PROMPTS), num_samples, 5), 0)
    return generate(policy, PROMPTS, uniforms, temperature=TEMPERATURE, stop_token_ids=[0], pad_token_id=1)


@torch.no_grad()
def by_hand(ref, policy, share: float, prompt: list[int], completion: list[int]) -> np.ndarray:
    """log of the mixture at every token: one plain forward of each model."""
    ids = torch.tensor([prompt + completion])
    at = slice(len(prompt) - 1, -1)
    logits = (1 - share) * ref(ids).logits[0, at].double() + share * policy(ids).logits[0, at].double()
    return (logits / TEMPERATURE).log_softmax(-1)[range(len(completion)), completion].numpy()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.5])
def test_draws_and_logprobs_are_those_of_the_mixture(share: float):
    ref, policy = model(1), model(2)
    dial = Dial(ref, policy, share)
    completions = drawn(dial)
    rows = completions.rows()
    prompts = [PROMPTS[i // 6] for i in range(18)]
    scored = completion_logprobs(dial, sequences(prompts, rows, 1), TEMPERATURE)
    for row, (prompt, completion) in enumerate(zip(prompts, rows, strict=True)):
        expected = by_hand(ref, policy, share, prompt, completion)
        np.testing.assert_allclose(completions.logprobs[row, : len(completion)], expected, atol=FLOAT32)
        np.testing.assert_allclose(scored[row, : len(completion)], expected, atol=FLOAT32)
    assert len({tuple(row) for row in rows}) > 6


def test_at_its_ends_it_is_one_of_the_two():
    ref, policy = model(1), model(2)
    assert drawn(Dial(ref, policy, 1.0)).rows() == drawn(policy).rows()
    assert drawn(Dial(ref, policy, 0.0)).rows() == drawn(ref).rows() != drawn(policy).rows()


def test_an_excluded_token_stays_excluded():
    dial = Dial(model(1), model(2), 1.5)
    mixed = dial.mix(torch.tensor([[-torch.inf, 1.0, 2.0]]), torch.tensor([[0.0, -torch.inf, 4.0]]))
    assert mixed.tolist() == [[-torch.inf, -torch.inf, 5.0]]


def test_the_share_and_what_is_refused():
    assert dial_share(8, 4) == pytest.approx(3 / 7) and dial_share(8, 8) == 1 and dial_share(8, 1) == 0
    with pytest.raises(ValueError, match="n > 1"):
        dial_share(1, 2)
    with pytest.raises(VbonError, match="vocabulary of 12 tokens, its reference one of 16"):
        Dial(model(1), model(2, vocabulary=12), 0.5)
