"""Gradients and steps of all trained networks, and their full state for checkpoints where each process holds it."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vbon.training.parallel.shards import all_of, trained


class OptimizerStep:
    """One torch optimizer over all networks, stepping along the gradients that accelerate makes.

    Args:
        networks: name → network, as the processes share it.
        optimizer: a parameter group for each network, in the same order.
        accelerator: averages gradients over processes.
        max_grad_norm: each network's gradient is clipped to this norm on its own.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        max_grad_norm: float,
    ):
        self._networks, self._optimizer = networks, optimizer
        self._accelerator, self._max_grad_norm = accelerator, max_grad_norm

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter group of each network, with its learning rate `lr`."""
        return self._optimizer.param_groups

    def zero_grad(self) -> None:
        """Remove all gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, its mean over processes."""
        self._accelerator.backward(loss)

    def step(self) -> dict[str, Tensor]:
        """Clip each network's gradient, take one step; return name → gradient norm before clipping.

        Raises FloatingPointError, before any weight changes, where a gradient is not finite.
        """
        norms = {
            name: all_of(nn.utils.clip_grad_norm_(network.parameters(), self._max_grad_norm))
            for name, network in self._networks.items()
        }
        if not torch.isfinite(torch.stack(list(norms.values()))).all():
            raise FloatingPointError("the gradient is not finite")
        self._optimizer.step()
        return norms

    def reset(self) -> None:
        """Remove all moments, as if no step had been taken."""
        self._optimizer.state.clear()


class FullState(Protocol):
    """All weights and moments of the networks in this process. All processes call each method together."""

    def gather(self, name: str) -> nn.Module:
        """Return the network with its current weights."""

    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """Return the optimizer, with all moments in the processes that pass `keep`."""

    def scatter(self) -> None:
        """Apply what a checkpoint has loaded into the gathered networks and optimizer."""


class ReplicatedState:
    """The full state where every process holds all of it: nothing to gather or scatter."""

    def __init__(self, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        self._networks, self._optimizer, self._accelerator = networks, optimizer, accelerator

    def gather(self, name: str) -> nn.Module:
        """Return the network, unwrapped."""
        module: nn.Module = self._accelerator.unwrap_model(self._networks[name])
        return module

    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return self._optimizer

    def scatter(self) -> None:
        """Do nothing: what was loaded is in use."""


def adamw(networks: Iterable[nn.Module], rates: Sequence[float]) -> torch.optim.AdamW:
    """AdamW, a group for each network's trained parameters; no weight decay, which would pull towards 0."""
    groups = [{"params": trained(network), "lr": rate} for network, rate in zip(networks, rates, strict=True)]
    return torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-5, fused=True)
