"""How gradients become steps, and where all of the weights are: what a learner asks of a way to share them."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vbon.training.shards import all_of, trained


class Descent(Protocol):
    """Gradients of losses, and steps along them."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """A group for each network, with its learning rate `lr`."""

    def zero_grad(self) -> None:
        """Let all gradients go."""

    def backward(self, loss: Tensor, network: str) -> None:
        """Add the gradient of a loss that `network` (`policy` or `critic`) gave, its mean over processes."""

    def step(self) -> dict[str, Tensor]:
        """Step along the gradients that are there, each network's clipped on its own; name → its norm before that.

        Raises FloatingPointError where a gradient is not finite; the network that has it does not change.
        """

    def forget(self) -> None:
        """Go on without moments, as if no step had been taken."""


class Gathering(Protocol):
    """Networks and optimizer with all their parts in this process. All processes ask together."""

    def gather(self, name: str) -> nn.Module:
        """The network as it is now."""

    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """The optimizer with all its moments, in the processes that `keep` them."""

    def scatter(self) -> None:
        """Take over what a checkpoint has filled into the networks and the optimizer."""


class OneOptimizer:
    """Descent by a torch optimizer over all networks, along the gradients that accelerate makes."""

    def __init__(
        self,
        networks: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        max_grad_norm: float,
    ):
        self._networks, self.optimizer = networks, optimizer
        self._accelerator, self._max_grad_norm = accelerator, max_grad_norm

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor, network: str) -> None:
        self._accelerator.backward(loss)

    def step(self) -> dict[str, Tensor]:
        norms = {
            name: all_of(nn.utils.clip_grad_norm_(network.parameters(), self._max_grad_norm))
            for name, network in self._networks.items()
        }
        require_finite(torch.stack(list(norms.values())))
        self.optimizer.step()
        return norms

    def forget(self) -> None:
        self.optimizer.state.clear()


class Replicas:
    """Networks and optimizer that every process has whole."""

    def __init__(self, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        self._networks, self._optimizer, self._accelerator = networks, optimizer, accelerator

    def gather(self, name: str) -> nn.Module:
        module: nn.Module = self._accelerator.unwrap_model(self._networks[name])
        return module

    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        return self._optimizer

    def scatter(self) -> None:
        pass


def adamw(networks: Iterable[nn.Module], rates: Sequence[float]) -> torch.optim.AdamW:
    """AdamW over what is trained of each network, a group each; no weight decay, which would pull towards 0."""
    groups = [{"params": trained(network), "lr": rate} for network, rate in zip(networks, rates, strict=True)]
    return torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-5, fused=True)


def require_finite(norms: Tensor) -> None:
    """FloatingPointError where a gradient's norm is not finite."""
    if not torch.isfinite(norms).all():
        raise FloatingPointError("the gradient is not finite")
