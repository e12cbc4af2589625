"""Sampling, held to one plain forward per row, to enumeration, and to itself in other company."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from vbon.models import generate as generate_module
from vbon.models.generate import NonFiniteLogits, draw, generate

PROMPTS = [[3], [4, 5, 6], [2, 7], [1, 2, 3, 4, 5, 6, 7]]
STOP = (0, 5)
TEMPERATURE = 0.8
FORWARD_TOLERANCE = 1e-5  # float32, other shapes, same maths


def _uniforms(prompts, samples, steps, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((prompts, samples, steps)))


def _generate(model, prompts, uniforms, stop=STOP, temperature=TEMPERATURE, pad=9):
    return generate(model, prompts, uniforms, temperature=temperature, stop_token_ids=stop, pad_token_id=pad)


def _inverse_cdf(logits, uniforms):
    """The token whose cumulative probability first exceeds u, position by position, in numpy."""
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    cdf = np.cumsum(probabilities / probabilities.sum(-1, keepdims=True), -1)
    return (cdf <= uniforms[:, None]).sum(-1)


def test_tokens_and_logprobs_are_those_of_a_plain_forward(model, row_logits):
    uniforms = _uniforms(len(PROMPTS), 3, 6)
    out = _generate(model, PROMPTS, uniforms)
    lengths = set()
    for index, row in enumerate(out.rows()):
        logits = row_logits(model, PROMPTS[index // 3], row) / TEMPERATURE
        draws = uniforms[index // 3, index % 3, : len(row)].numpy()
        assert row == _inverse_cdf(logits.numpy(), draws).tolist()
        expected = torch.log_softmax(logits, -1)[torch.arange(len(row)), row]
        assert torch.allclose(out.logprobs[index, : len(row)].double(), expected, rtol=0, atol=FORWARD_TOLERANCE)
        assert len(row) == 6 or row[-1] in STOP
        assert not set(row[:-1]) & set(STOP)
        assert bool(out.finished[index]) == (row[-1] in STOP)
        lengths.add(len(row))
    assert len(lengths) > 1, "some rows must stop early for this test to mean anything"


def test_a_value_head_looks_at_what_the_output_head_sees(model):
    torch.manual_seed(5)
    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
    uniforms = _uniforms(len(PROMPTS), 3, 6)
    out = generate(model, PROMPTS, uniforms, temperature=1.0, stop_token_ids=STOP, pad_token_id=9, value_head=head)
    for index, row in enumerate(out.rows()):
        prompt = PROMPTS[index // 3]
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([prompt + row])).last_hidden_state[0]
            expected = head(hidden)[len(prompt) - 1 : -1, 0]
        assert torch.allclose(out.values[index, : len(row)], expected, rtol=0, atol=FORWARD_TOLERANCE)
    assert (out.values[~out.mask] == 0).all()
    plain = _generate(model, PROMPTS, uniforms, temperature=1.0)
    assert plain.values is None and plain.rows() == out.rows()


def test_after_the_stop_token_there_is_padding_and_no_logprob(gpt2):
    out = _generate(gpt2, PROMPTS, _uniforms(4, 16, 8))
    assert (~out.mask).any()
    assert (out.ids[~out.mask] == 9).all()
    assert (out.logprobs[~out.mask] == 0).all()
    assert (out.mask[:, 1:] <= out.mask[:, :-1]).all()


def test_a_row_is_a_function_of_its_own_uniforms(model):
    uniforms = _uniforms(len(PROMPTS), 3, 6, seed=1)
    together = _generate(model, PROMPTS, uniforms).rows()
    for index, prompt in enumerate(PROMPTS):
        for sample in range(3):
            alone = _generate(model, [prompt], uniforms[index : index + 1, sample : sample + 1]).rows()[0]
            assert alone == together[3 * index + sample]


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_when_finished_rows_leave_changes_nothing(gpt2, monkeypatch, share):
    uniforms = _uniforms(4, 16, 8, seed=2)
    expected = _generate(gpt2, PROMPTS, uniforms)
    monkeypatch.setattr(generate_module, "MIN_FINISHED_SHARE", share)
    out = _generate(gpt2, PROMPTS, uniforms)
    assert out.rows() == expected.rows()
    assert torch.allclose(out.logprobs, expected.logprobs, rtol=0, atol=FORWARD_TOLERANCE)


def _completion_probabilities(model, row_logits, prompt, steps, stop, vocabulary):
    """Every completion of at most `steps` tokens and its probability, token by token."""
    result = {}
    for length in range(1, steps + 1):
        for ids in itertools.product(range(vocabulary), repeat=length):
            ended = ids[-1] in stop or length == steps
            if ended and not set(ids[:-1]) & set(stop):
                logprobs = torch.log_softmax(row_logits(model, prompt, ids) / TEMPERATURE, -1)
                result[ids] = logprobs[torch.arange(length), ids].sum().exp().item()
    return result


def test_draws_follow_the_enumerated_distribution(gpt2, row_logits):
    exact = _completion_probabilities(gpt2, row_logits, [3, 4], 2, STOP, vocabulary=13)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-6)  # float32 logits
    draws = 20_000
    rows = _generate(gpt2, [[3, 4]], _uniforms(1, draws, 2, seed=3)).rows()
    counts = {ids: 0 for ids in exact}
    for row in rows:
        counts[tuple(row)] += 1
    common = [ids for ids in exact if exact[ids] * draws >= 5]
    observed = [counts[ids] for ids in common]
    expected = [exact[ids] * draws for ids in common]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_draw_takes_the_first_token_whose_cdf_exceeds_u():
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25, 0.0]])
    for u, token in [(0.0, 1), (0.4999, 1), (0.5001, 3), (0.7499, 3), (0.7501, 4), (1 - 2**-53, 4)]:
        tokens, logprobs = draw(probabilities.log(), torch.tensor([u], dtype=torch.float64), 1.0)
        assert tokens.item() == token
        assert logprobs.item() == pytest.approx(probabilities[0, token].log().item(), abs=1e-6)


def test_temperature_divides_the_logits():
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    for temperature in (0.3, 1.7):
        expected = np.asarray(logits[0], dtype=np.float64) / temperature
        expected -= np.logaddexp.reduce(expected)
        for u in (0.01, 0.5, 0.99):
            tokens, logprobs = draw(logits, torch.tensor([u], dtype=torch.float64), temperature)
            assert logprobs.item() == pytest.approx(expected[tokens.item()], abs=1e-6)
            assert tokens.item() == _inverse_cdf(expected[None], np.array([u]))[0]


def test_one_step_needs_no_second_forward(gpt2, row_logits):
    uniforms = _uniforms(4, 2, 1)
    out = _generate(gpt2, PROMPTS, uniforms)
    for index, row in enumerate(out.rows()):
        logits = row_logits(gpt2, PROMPTS[index // 2], row).numpy() / TEMPERATURE
        assert row == _inverse_cdf(logits, uniforms[index // 2, index % 2].numpy()).tolist()


def test_the_padding_id_may_be_a_stop_token(gpt2):
    uniforms = _uniforms(4, 8, 6, seed=4)
    assert _generate(gpt2, PROMPTS, uniforms, pad=0).rows() == _generate(gpt2, PROMPTS, uniforms, pad=9).rows()


class _Fixed(torch.nn.Module):
    """A causal LM with a bad logit for token 5 behind the token `at`."""

    def __init__(self, model, bad: float, at: int):
        super().__init__()
        self.model, self.bad, self.at, self.config = model, bad, at, model.config

    def get_output_embeddings(self):
        return self.model.get_output_embeddings()

    def forward(self, input_ids, position_ids=None, **options):
        output = self.model(input_ids=input_ids, position_ids=position_ids, **options)
        output.logits[input_ids[:, -1] == self.at, :, 5] = self.bad
        return output


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_of_nan_or_infinity_stop_the_sampler_at_their_prompt(gpt2, bad):
    with pytest.raises(NonFiniteLogits, match="NaN or infinity in float32 for prompt 2") as error:
        _generate(_Fixed(gpt2, bad, at=PROMPTS[2][-1]), PROMPTS, _uniforms(len(PROMPTS), 3, 4))
    assert error.value.prompt == 2


def test_logits_of_minus_infinity_are_a_probability_of_0(gpt2):
    uniforms = _uniforms(len(PROMPTS), 50, 1, seed=5)
    plain = _generate(gpt2, PROMPTS, uniforms)
    assert any(row == [5] for row in plain.rows())
    masked = _generate(_Fixed(gpt2, -math.inf, at=PROMPTS[2][-1]), PROMPTS, uniforms)
    assert torch.isfinite(masked.logprobs).all()
    assert not any(row == [5] for row in masked.rows()[100:150])
    assert masked.rows()[:100] == plain.rows()[:100]
