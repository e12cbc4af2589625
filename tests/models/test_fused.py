"""The fused activations are the functions they replace."""

import copy

import pytest
import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

from vbon.models.fused import TANH_GELU, Gelu, fuse_activations


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
    assert any(isinstance(m, TANH_GELU) for m in gpt2.modules())
    assert not any(isinstance(m, TANH_GELU) for m in fused.modules())
    assert fused.state_dict().keys() == gpt2.state_dict().keys()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(fused(ids).logits, gpt2(ids).logits, rtol=0, atol=1e-5)


FLOAT32 = 3e-6  # a few units in the last place at values of about 6


@pytest.mark.parametrize("shape", [(7,), (3, 5, 50_000)])  # within a block, and over several with a rest
def test_float32_is_as_near_to_the_exact_function_as_rounding_allows(shape):
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    exact = x.detach().double().requires_grad_()
    ours, expected = Gelu()(x), NewGELUActivation()(exact)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert (ours - expected).abs().max() < FLOAT32
    assert (x.grad - exact.grad).abs().max() < FLOAT32


def test_a_forward_for_no_gradient_is_bit_for_bit_the_same_also_of_a_transposed_tensor():
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        alone = Gelu()(x)
    assert torch.equal(alone, Gelu()(x))
    assert torch.equal(Gelu()(x.t().contiguous()), Gelu()(x.t()))
