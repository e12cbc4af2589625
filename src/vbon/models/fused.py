"""GELU in its tanh form, computed in fewer passes over memory than the eight of transformers' `gelu_new`.

With z = √(8/π)·(x + 0.044715·x³) it is x·σ(z), with the derivative σ(z) + x·z′·σ(z)·(1 − σ(z)). torch has the function
as one kernel, whose tanh on a CPU takes six times as long as the passes of a sigmoid over data in the cache. On a CPU
it is therefore computed block by block, together with its derivative, while the block is in the cache.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

TANH_GELU = (NewGELUActivation, FastGELUActivation, GELUTanh)
LINEAR = math.sqrt(8 / math.pi)
CUBIC = LINEAR * 0.044715
BLOCK = 2**16  # elements: four float32 buffers of so many lie in a megabyte of cache
DTYPES = (torch.float32, torch.float64)


def fuse_activations(model: nn.Module) -> None:
    """Replace every tanh-GELU of the model by `Gelu`, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) in TANH_GELU:
                setattr(parent, name, Gelu())


class Gelu(nn.Module):
    """The activation x·σ(z) for any shape, equal to torch's gelu(approximate="tanh") up to float32 rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise."""
        if x.device.type != "cpu" or x.dtype not in DTYPES:
            return functional.gelu(x, approximate="tanh")
        if torch.is_grad_enabled() and x.requires_grad:
            result: Tensor = _GeluWithDerivative.apply(x)
            return result
        return _gelu(x)


class _GeluWithDerivative(torch.autograd.Function):
    """GELU that stores its derivative for the backward pass, and not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result, derivative = _gelu_and_derivative(x)
        ctx.save_for_backward(derivative)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        [derivative] = ctx.saved_tensors
        product: Tensor = grad * derivative
        return product


def _gelu(x: Tensor) -> Tensor:
    result = _like(x)
    linear = x.new_tensor(LINEAR)
    for part, into in _blocks(x, result):
        torch.addcmul(linear, part, part, value=CUBIC, out=into)
        into.mul_(part).sigmoid_().mul_(part)
    return result


def _gelu_and_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    result, derivative = _like(x), _like(x)
    linear = x.new_tensor(LINEAR)
    for part, into, slope in _blocks(x, result, derivative):
        torch.addcmul(linear, part, part, value=CUBIC, out=slope)
        torch.sigmoid(slope.mul_(part), out=into)
        slope.add_(part, alpha=-2 / 3 * LINEAR)  # x·z′ = 3·(z − 2/3·√(8/π)·x)
        torch.ops.aten.sigmoid_backward.grad_input(slope, into, grad_input=slope)
        torch.add(into, slope, alpha=3, out=slope)
        into.mul_(part)
    return result, derivative


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _blocks(*tensors: Tensor) -> Any:
    """Split all tensors, flattened, into aligned blocks."""
    return zip(*(tensor.reshape(-1).split(BLOCK) for tensor in tensors), strict=True)
