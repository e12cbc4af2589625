"""Policy and critic with their optimizer, however the processes share them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from vbon.config.train import TrainConfig
from vbon.models.activations import bytes_per_token, checkpoint_layers
from vbon.models.copies import sharing_weights
from vbon.models.value_head import Critic, value_head
from vbon.training.parallel.accelerator import refuse_deepspeed
from vbon.training.parallel.adapters import with_adapters
from vbon.training.parallel.optimizer_step import FullState, OptimizerStep, ReplicatedState, adamw
from vbon.training.parallel.shards import ShardedState, sharded, sharding_of


@dataclass
class Learner:
    """The trained networks and their optimizer. `policy` and `critic` are as the processes share them."""

    policy: nn.Module
    critic: nn.Module | None
    """A network of its own, or a head on the policy's trunk (`TrainConfig.critic`); None without PPO."""
    optimizer: OptimizerStep
    full_state: FullState
    accelerator: Accelerator
    base_learning_rates: list[float]
    bytes_per_token: int
    """What a training pass of the policy, the larger of both networks, keeps of one token for its gradient."""

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Collect the rows of all processes, (B, …) → (ΣB, …)."""
        if self.accelerator.num_processes == 1:
            return rows
        gathered: torch.Tensor = self.accelerator.gather(rows.to(self.accelerator.device))
        return gathered

    def module(self, name: str) -> nn.Module:
        """Return the network `policy` or `critic` with all its weights, to sample from; all processes call together."""
        return self.full_state.gather(name)

    def modules(self) -> dict[str, nn.Module]:
        """Return name → network with all its weights, for checkpoints; all processes call together."""
        return {name: self.module(name) for name in ("policy", "critic") if getattr(self, name) is not None}

    def full_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer, with all moments in the process that writes checkpoints; all processes call it."""
        return self.full_state.gather_optimizer(keep=self.accelerator.is_main_process)


def make_learner(policy: PreTrainedModel, config: TrainConfig, accelerator: Accelerator) -> Learner:
    """Make policy and, for PPO, critic, and AdamW over them without weight decay, which would pull towards 0.

    Raises:
        VbonError: a way of sharing the weights that is not supported, or adapters that do not fit the model.
    """
    refuse_deepspeed(accelerator)
    networks: dict[str, nn.Module] = {"policy": policy.to(accelerator.device)}
    if config.algorithm == "ppo":  # copied before adapters go into the policy, in place
        networks["critic"] = make_critic(policy, config).to(accelerator.device)
    elif config.algorithm == "residual":
        networks["critic"] = value_head(policy).to(accelerator.device)
    networks["policy"] = with_adapters(policy, config)
    held = bytes_per_token(networks["policy"], checkpointed=config.gradient_checkpointing)
    if config.gradient_checkpointing:
        for network in networks.values():
            if not isinstance(network, nn.Linear):  # a head alone has no layers
                checkpoint_layers(getattr(network, "trunk", network))
    assert config.learning_rate is not None  # filled by `with_defaults`
    rates = [config.learning_rate, config.critic_learning_rate or config.learning_rate][: len(networks)]
    fsdp = sharding_of(accelerator)
    # Shards are made before the optimizer, since they are other parameters; DDP keeps the same ones.
    prepared = {
        name: _replicated(network, accelerator) if fsdp is None else sharded(network, accelerator, fsdp)
        for name, network in networks.items()
    }
    optimizer = accelerator.prepare_optimizer(adamw(prepared.values(), rates))
    return Learner(
        policy=prepared["policy"],
        critic=prepared.get("critic"),
        optimizer=OptimizerStep(prepared, optimizer, accelerator, config.max_grad_norm),
        full_state=ReplicatedState(prepared, optimizer, accelerator)
        if fsdp is None
        else ShardedState(networks, prepared, optimizer),
        accelerator=accelerator,
        base_learning_rates=rates,
        bytes_per_token=held,
    )


def _replicated(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    prepared: nn.Module = accelerator.prepare(network)
    return prepared


def make_critic(policy: PreTrainedModel, config: TrainConfig) -> nn.Module:
    """Make the critic of PPO: a head on the policy's trunk, or a trunk of its own with adapters if that has some."""
    if config.critic == "shared":
        return value_head(policy)
    critic = Critic(policy, config.critic_layers, sharing_weights if config.lora_rank else copy.deepcopy)
    critic.trunk = with_adapters(critic.trunk, config)
    return critic


def set_learning_rates(learner: Learner, rates: Sequence[float]) -> None:
    """Set the learning rate of each parameter group."""
    for group, rate in zip(learner.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
