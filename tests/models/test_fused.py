"""The fused activations are the functions they replace."""

import copy

import pytest
import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

from vbon.models.fused import SPELLED_OUT, fuse_activations


@pytest.mark.parametrize("spelled_out", [NewGELUActivation, FastGELUActivation])
def test_same_function_same_derivative(spelled_out):
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    model = torch.nn.ModuleDict({"act": spelled_out()})
    fuse_activations(model)
    ours, expected = model["act"](x), spelled_out()(x)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-8)  # FastGELU rounds √(2/π) to ten digits
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, expected)]
    assert torch.allclose(*grads, rtol=0, atol=1e-8)


def test_every_layer_is_fused_and_the_logits_stay(gpt2):
    fused = copy.deepcopy(gpt2)
    fuse_activations(fused)
    assert any(isinstance(m, SPELLED_OUT) for m in gpt2.modules())
    assert not any(isinstance(m, SPELLED_OUT) for m in fused.modules())
    assert fused.state_dict().keys() == gpt2.state_dict().keys()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(fused(ids).logits, gpt2(ids).logits, rtol=0, atol=1e-5)
