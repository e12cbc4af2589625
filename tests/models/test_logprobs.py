"""Log-probabilities of given completions: plain forwards, transformers' own loss, and what must not matter."""

import pytest
import torch

from vbon.models.batch import sequences
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.logprobs import completion_logits, completion_logprobs, log_softmax, token_logprobs

PROMPTS = [[3], [4, 5, 6], [2, 7], [1, 2, 3, 4, 5, 6, 7], [8, 8]]
COMPLETIONS = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11], [12, 0], [4, 4, 4]]
FORWARD_TOLERANCE = 1e-5  # float32, other shapes, same maths


@pytest.fixture(params=[1, 10**9], ids=["row by row", "one call"])
def split(request, monkeypatch):
    monkeypatch.setitem(LIMITS["forward"], "cpu", Limit(request.param))


def test_completion_logits_are_those_of_plain_forwards(model, row_logits, split):
    with torch.no_grad():
        logits = completion_logits(model, sequences(PROMPTS, COMPLETIONS, pad_token_id=0))
    for index, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        expected = row_logits(model, prompt, completion)
        assert torch.allclose(logits[index, : len(completion)].double(), expected, rtol=0, atol=FORWARD_TOLERANCE)


def test_the_padding_id_does_not_matter(gpt2):
    mask = sequences(PROMPTS, COMPLETIONS, 0).completion_mask
    one, other = (completion_logprobs(gpt2, sequences(PROMPTS, COMPLETIONS, pad), 0.7) for pad in (0, 7))
    assert torch.equal(one[mask], other[mask])


def test_the_mean_is_the_loss_of_transformers(gpt2):
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        loss = gpt2(input_ids=ids, labels=labels).loss.item()
        ours = completion_logprobs(gpt2, sequences([prompt], [completion], 0), temperature=1.0)
        assert -ours.mean().item() == pytest.approx(loss, abs=FORWARD_TOLERANCE)


@pytest.mark.parametrize("rows_per_batch", [1, 2, 64])
def test_completion_logprobs_keep_their_rows(gpt2, row_logits, rows_per_batch):
    batch = sequences(PROMPTS, COMPLETIONS, 0)
    result = completion_logprobs(gpt2, batch, 0.7, rows_per_batch)
    for index, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        expected = torch.log_softmax(row_logits(gpt2, prompt, completion) / 0.7, -1)
        expected = expected[torch.arange(len(completion)), completion]
        assert torch.allclose(result[index, : len(completion)].double(), expected, rtol=0, atol=FORWARD_TOLERANCE)
    assert (result[~batch.completion_mask] == 0).all()


def test_gradients_are_those_of_row_by_row_losses(gpt2, split):
    batch = sequences(PROMPTS, COMPLETIONS, 0)
    logprobs = token_logprobs(completion_logits(gpt2, batch), batch.completion_ids, 1.0)
    ours = torch.autograd.grad((logprobs * batch.completion_mask).sum(), list(gpt2.parameters()))
    total = 0
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        logits = gpt2(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        total = total + torch.log_softmax(logits, -1)[torch.arange(len(completion)), completion].sum()
    expected = torch.autograd.grad(total, list(gpt2.parameters()))
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_output_head_sees_completion_tokens_only(model, split):
    seen = []
    handle = model.get_output_embeddings().register_forward_hook(lambda head, args, output: seen.append(output))
    completion_logits(model, sequences(PROMPTS, COMPLETIONS, 0))
    handle.remove()
    assert sum(output[..., 0].numel() for output in seen) == sum(map(len, COMPLETIONS))


@pytest.mark.parametrize("temperature", [0.4, 1.0])
@pytest.mark.parametrize("at_a_time", [1, 15, 10**9])
def test_the_gradient_of_token_logprobs_is_that_of_the_log_softmax(monkeypatch, temperature, at_a_time):
    monkeypatch.setitem(LIMITS["log-softmax"], "cpu", Limit(at_a_time))
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(7, 5, generator=random) * 4).requires_grad_()
    ids, weights = torch.randint(0, 5, (7,), generator=random), torch.randn(7, generator=random)
    full = torch.log_softmax(logits.double() / temperature, -1).gather(-1, ids[:, None])[:, 0]
    [expected] = torch.autograd.grad(full @ weights.double(), logits)
    ours = token_logprobs(logits, ids, temperature)
    [gradient] = torch.autograd.grad(ours @ weights, logits)
    assert torch.allclose(ours.double(), full, rtol=0, atol=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_the_logits_are_kept_once_for_the_gradient_and_in_their_own_type():
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    logits = torch.randn(64, 1000).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(logits, torch.arange(64), 0.5)
    assert sum(kept.values()) < 1.1 * logits.numel() * 2


def test_token_logprobs_gather_from_the_log_softmax():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 4
    ids = torch.tensor([[0, 4, 2], [1, 1, 3]])
    for temperature in (0.4, 1.0):
        full = torch.log_softmax(logits.double() / temperature, -1).gather(-1, ids[..., None])[..., 0]
        assert torch.allclose(token_logprobs(logits, ids, temperature).double(), full, rtol=0, atol=1e-5)
        assert torch.allclose(
            log_softmax(logits, temperature).gather(-1, ids[..., None])[..., 0].double(), full, rtol=0, atol=1e-5
        )
