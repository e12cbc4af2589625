"""FSDP2: each process keeps a shard of every trained weight, of its gradient and of its moments.

Sampling reads every weight at every token, at moments that differ between processes, so shards are not sampled from:
each process also holds the full networks, and gathers the shards into these on request. Checkpoints and the run's model
are those of the full networks and do not depend on how the weights were sharded.
"""

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    disable_fsdp_ram_efficient_loading,
    fsdp2_apply_ac,
    fsdp2_prepare_model,
)
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vbon.errors import VbonError


def requested_fsdp() -> FullyShardedDataParallelPlugin | None:
    """The FSDP2 settings that the launcher passed, or None. Raises VbonError for settings that are not supported."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    disable_fsdp_ram_efficient_loading()  # every process loads the full reference and reward, not only the first
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise VbonError("FSDP of version 1 is not supported: set fsdp_version: 2 in accelerate's configuration")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise VbonError("FSDP with weights offloaded to the CPU is not supported: set fsdp_offload_params: false")
    return plugin


def sharding_of(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """The FSDP2 settings to shard with: the accelerator's own or the launcher's; None for a single process."""
    if not torch.distributed.is_initialized():
        return None
    return getattr(accelerator.state, "fsdp_plugin", None) or requested_fsdp()


def sharded(network: nn.Module, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> nn.Module:
    """Return a sharded copy of the network, of which this process holds its own shard."""
    copied: nn.Module = copy.deepcopy(network)
    if not hasattr(copied, "_no_split_modules"):  # a head without layers, where accelerate would look for them
        fully_shard(copied)
        return copied
    with _plugin_in_state(accelerator, plugin):
        if plugin.activation_checkpointing:
            fsdp2_apply_ac(accelerator, copied)
        prepared: nn.Module = fsdp2_prepare_model(accelerator, copied)
    return prepared


@contextlib.contextmanager
def _plugin_in_state(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> Iterator[None]:
    """Show accelerate's functions the plugin where they read it, its process-wide state, which has none on CPUs."""
    state = accelerator.state
    before = getattr(state, "fsdp_plugin", None)
    state.fsdp_plugin = plugin
    try:
        yield
    finally:
        state.fsdp_plugin = before


def all_of(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from its shards by all processes together; one without shards as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class ShardedState:
    """The full networks and their optimizer, gathered from the shards and scattered to them.

    Args:
        networks: name → full network.
        shards: name → the same network in shards.
        optimizer: the optimizer of the shards, a parameter group for each network.
    """

    def __init__(self, networks: dict[str, nn.Module], shards: dict[str, nn.Module], optimizer: torch.optim.Optimizer):
        self.networks, self._shards, self._sharded = networks, shards, optimizer
        self.optimizer = torch.optim.AdamW([{"params": trained(network)} for network in networks.values()])

    @torch.no_grad()
    def gather(self, name: str) -> nn.Module:
        """Return the full network with the current weights of its shards."""
        for full, shard in zip(trained(self.networks[name]), trained(self._shards[name]), strict=True):
            full.copy_(all_of(shard))
        return self.networks[name]

    @torch.no_grad()
    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """Return the optimizer of the full networks, with all moments in the processes that pass `keep`."""
        self.optimizer.state.clear()
        for full, shard in self._pairs():
            moments = {name: all_of(tensor) for name, tensor in self._sharded.state.get(shard, {}).items()}
            if keep and moments:
                self.optimizer.state[full] = moments
        _copy_settings(self._sharded.param_groups, self.optimizer.param_groups)
        return self.optimizer

    @torch.no_grad()
    def scatter(self) -> None:
        """Spread the main process's networks and optimizer over the shards, and free the full moments."""
        for name, network in self.networks.items():
            for full, shard in zip(trained(network), trained(self._shards[name]), strict=True):
                shard.copy_(_like(shard, full))
        for parameter, its_shard in self._pairs():
            moments = self.optimizer.state.pop(parameter, {})
            self._sharded.state[its_shard] = {
                name: tensor if name == "step" else _like(its_shard, tensor) for name, tensor in moments.items()
            }
        _copy_settings(self.optimizer.param_groups, self._sharded.param_groups)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for full, shards in zip(self.optimizer.param_groups, self._sharded.param_groups, strict=True):
            yield from zip(full["params"], shards["params"], strict=True)


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _like(shard: Tensor, tensor: Tensor) -> Tensor:
    """The tensor sharded as `shard` is, or unchanged where that is not sharded."""
    if not isinstance(shard, DTensor):
        return tensor
    return distribute_tensor(tensor.detach(), shard.device_mesh, shard.placements)


def _copy_settings(source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
    """Copy the settings of parameter groups, but not their parameters."""
    for one, other in zip(source, target, strict=True):
        other.update({name: value for name, value in one.items() if name != "params"})
