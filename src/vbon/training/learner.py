"""The networks that training changes, and what changes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from vbon.config.train import TrainConfig
from vbon.models.value_head import Critic, value_head
from vbon.training.adapters import with_adapters
from vbon.training.descent import Descent, Gathering, OneOptimizer, Replicas, adamw
from vbon.training.shards import Whole, is_sharding, sharded
from vbon.training.zero import Zero
from vbon.training.zero_config import told_of_deepspeed


@dataclass
class Learner:
    """The networks that change, and what changes them. `policy` and `critic` are as their processes share them."""

    policy: nn.Module
    critic: nn.Module | None
    """A network of its own, or a head on the policy's trunk (`TrainConfig.critic`); None without PPO."""
    descent: Descent
    whole: Gathering
    accelerator: Accelerator
    base_learning_rates: list[float]

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, (B, …) → (ΣB, …)."""
        if self.accelerator.num_processes == 1:
            return rows
        gathered: torch.Tensor = self.accelerator.gather(rows.to(self.accelerator.device))
        return gathered

    def module(self, name: str) -> nn.Module:
        """The network `policy` or `critic` with all its weights, to sample from; all processes ask together."""
        return self.whole.gather(name)

    def modules(self) -> dict[str, nn.Module]:
        """Name → network, for checkpoints; all processes ask together."""
        return {name: self.module(name) for name in ("policy", "critic") if getattr(self, name) is not None}

    def whole_optimizer(self) -> torch.optim.Optimizer:
        """What a checkpoint keeps of the optimizer, in the process that writes it; all processes ask together."""
        return self.whole.gather_optimizer(keep=self.accelerator.is_main_process)


def make_learner(policy: PreTrainedModel, config: TrainConfig, accelerator: Accelerator) -> Learner:
    """AdamW over policy and, for PPO, critic; no weight decay, which would pull towards 0 and not towards π_ref."""
    networks: dict[str, nn.Module] = {"policy": policy.to(accelerator.device)}
    if config.algorithm == "ppo":  # copied before adapters go into the policy, in place
        networks["critic"] = _make_critic(policy, config).to(accelerator.device)
    networks["policy"] = with_adapters(policy, config)
    assert config.learning_rate is not None  # filled by `with_defaults`
    rates = [config.learning_rate, config.critic_learning_rate or config.learning_rate][: len(networks)]
    prepared, descent, whole = _shared_out(networks, rates, config, accelerator)
    return Learner(prepared["policy"], prepared.get("critic"), descent, whole, accelerator, rates)


def _shared_out(
    networks: dict[str, nn.Module], rates: list[float], config: TrainConfig, accelerator: Accelerator
) -> tuple[dict[str, nn.Module], Descent, Gathering]:
    """The networks as accelerate's configuration shares them out, what steps them and what gathers them."""
    told = told_of_deepspeed(accelerator)
    if told is not None:
        zero = Zero(networks, rates, told, config, accelerator)
        return zero.prepared, zero, zero
    in_shards = is_sharding(accelerator)
    # Shards are made before the optimizer, since they are other parameters; DDP keeps the same ones.
    share = sharded if in_shards else _replicated
    prepared = {name: share(network, accelerator) for name, network in networks.items()}
    optimizer = accelerator.prepare_optimizer(adamw(prepared.values(), rates))
    descent = OneOptimizer(prepared, optimizer, accelerator, config.max_grad_norm)
    whole = Whole(networks, prepared, optimizer) if in_shards else Replicas(prepared, optimizer, accelerator)
    return prepared, descent, whole


def _replicated(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    prepared: nn.Module = accelerator.prepare(network)
    return prepared


def _make_critic(policy: PreTrainedModel, config: TrainConfig) -> nn.Module:
    if config.critic == "shared":
        return value_head(policy)
    critic = Critic(policy, config.critic_layers)
    critic.trunk = with_adapters(critic.trunk, config)
    return critic


def set_learning_rates(learner: Learner, rates: Sequence[float]) -> None:
    """One rate for each parameter group."""
    for group, rate in zip(learner.descent.param_groups, rates, strict=True):
        group["lr"] = rate


def descend(learner: Learner, loss: torch.Tensor, network: str) -> torch.Tensor:
    """One step down the loss that `network` gave; returns the norm of its gradient.

    Raises FloatingPointError, before its weights change, where that gradient is not finite.
    """
    learner.descent.zero_grad()
    learner.descent.backward(loss, network)
    return learner.descent.step()[network]
