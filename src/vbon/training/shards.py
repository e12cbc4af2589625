"""FSDP2: a process keeps a shard of each trained weight, of its gradient and of its moments.

Sampling takes every weight at every token, at moments that differ between processes, so shards are not sampled from:
beside them each process holds the same networks whole, and gathers the shards into these when it is asked to.
Checkpoints and the run's model are those of the whole networks: they know nothing of shards.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_apply_ac, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharding(accelerator: Accelerator) -> bool:
    """Whether accelerate was configured to shard, and there are processes to share the weights."""
    return torch.distributed.is_initialized() and getattr(accelerator.state, "fsdp_plugin", None) is not None


def sharded(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A copy of the network in shards, this process holding its own, as accelerate's configuration says."""
    copied: nn.Module = copy.deepcopy(network)
    if not hasattr(copied, "_no_split_modules"):  # a head without layers, where accelerate would look for them
        fully_shard(copied)
        return copied
    if accelerator.state.fsdp_plugin.activation_checkpointing:
        fsdp2_apply_ac(accelerator, copied)
    prepared: nn.Module = fsdp2_prepare_model(accelerator, copied)
    return prepared


def all_of(tensor: Tensor) -> Tensor:
    """The tensor with all its shards, which all processes ask for together; one without shards as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Whole:
    """Networks and their optimizer with all weights in this process, gathered from shards and scattered to them.

    Args:
        networks: name → network.
        shards: name → the same network in shards.
        optimizer: what changes the shards, a group of parameters for each network.
    """

    def __init__(self, networks: dict[str, nn.Module], shards: dict[str, nn.Module], optimizer: torch.optim.Optimizer):
        self.networks, self._shards, self._sharded = networks, shards, optimizer
        self.optimizer = torch.optim.AdamW([{"params": trained(network)} for network in networks.values()])

    @torch.no_grad()
    def gather(self, name: str) -> nn.Module:
        """The network as its shards are now. All processes ask together."""
        for whole, shard in zip(trained(self.networks[name]), trained(self._shards[name]), strict=True):
            whole.copy_(all_of(shard))
        return self.networks[name]

    @torch.no_grad()
    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """The optimizer with all its moments, in the processes that `keep` them. All processes ask together."""
        self.optimizer.state.clear()
        for whole, shard in self._pairs():
            moments = {name: all_of(tensor) for name, tensor in self._sharded.state.get(shard, {}).items()}
            if keep and moments:
                self.optimizer.state[whole] = moments
        copy_settings(self._sharded.param_groups, self.optimizer.param_groups)
        return self.optimizer

    @torch.no_grad()
    def scatter(self) -> None:
        """Spread networks and optimizer, the main process's, over the shards; the whole moments are let go."""
        for name, network in self.networks.items():
            for whole, shard in zip(trained(network), trained(self._shards[name]), strict=True):
                shard.copy_(_like(shard, whole))
        for parameter, its_shard in self._pairs():
            moments = self.optimizer.state.pop(parameter, {})
            self._sharded.state[its_shard] = {
                name: tensor if name == "step" else _like(its_shard, tensor) for name, tensor in moments.items()
            }
        copy_settings(self.optimizer.param_groups, self._sharded.param_groups)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for whole, shards in zip(self.optimizer.param_groups, self._sharded.param_groups, strict=True):
            yield from zip(whole["params"], shards["params"], strict=True)


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _like(shard: Tensor, tensor: Tensor) -> Tensor:
    """The tensor as `shard` is: in shards of the same form, or as it is."""
    if not isinstance(shard, DTensor):
        return tensor
    return distribute_tensor(tensor.detach(), shard.device_mesh, shard.placements)


def copy_settings(source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
    """Give optimizer groups the settings of others, which hold the same parameters in another form."""
    for one, other in zip(source, target, strict=True):
        other.update({name: value for name, value in one.items() if name != "params"})
