"""Logits in chunks against logits at once: the same results and gradients, and never so many at a time."""

import copy

import pytest
import torch
from tests.models.conftest import VOCAB, make

from vbon.models.activations import bytes_per_token, checkpoint_layers
from vbon.models.batch import sequences
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.copies import sharing_weights
from vbon.models.logprobs import policy_logprobs
from vbon.models.value_head import layers_of

BATCH = sequences([[3, 4], [5], [6, 7, 8]], [[1, 2, 3, 0], [4, 0], [9]], 0)
RELATIVE = {torch.float32: 1e-6, torch.float64: 1e-12}


def logprobs_and_gradient(model) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    logprobs = policy_logprobs(model, BATCH, 0.7)
    (logprobs**2).sum().backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return logprobs.detach(), torch.cat(grads).double()


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_chunks_of_logits_give_what_all_at_once_give(model, dtype, monkeypatch):
    model = copy.deepcopy(model).to(dtype)
    whole, gradient = logprobs_and_gradient(model)
    most, head = [], model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: most.append(logits.shape[-2]))
    monkeypatch.setitem(LIMITS["log-softmax"], "cpu", Limit(2 * VOCAB))
    chunked, of_chunks = logprobs_and_gradient(model)
    assert max(most) == 2 and len(most) > 4  # each chunk forwards and, again, backwards
    assert torch.allclose(chunked, whole, rtol=0, atol=2e-6)
    assert (of_chunks - gradient).norm() < RELATIVE[dtype] * gradient.norm()


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_checkpointed_layers_give_the_same_gradient_and_keep_less(name):
    model = make(name)
    held, expected = bytes_per_token(model), bytes_per_token(model, checkpointed=True)
    whole, gradient = logprobs_and_gradient(model)
    calls = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda *_: calls.append(1))
        inner = layer.forward
        layer.forward = lambda *a, inner=inner, **k: calls.append(0) or inner(*a, **k)
    checkpoint_layers(model)
    again, of_checkpoints = logprobs_and_gradient(model)
    assert torch.equal(again, whole) and torch.equal(of_checkpoints, gradient)
    assert calls.count(0) == 2 * calls.count(1)  # each layer's own forward pass once more
    assert expected < held


def test_the_bytes_of_a_token_are_those_that_longer_rows_keep():
    """Twice as many tokens keep twice as much: against a count over all saved tensors of a row of 40 tokens."""
    model = make("llama")
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy_logprobs(model, sequences([[1]], [[2] * 40], 0), 1.0)
    held = sum(t.untyped_storage().nbytes() for where, t in kept.items() if where not in weights)
    assert bytes_per_token(model) == pytest.approx(held / 40, rel=0.1)


def test_a_copy_shares_its_weights_and_not_its_modules():
    model = make("llama")
    copied = sharing_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert not set(map(id, model.modules())) & set(map(id, copied.modules()))
