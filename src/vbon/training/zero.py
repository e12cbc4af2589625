"""DeepSpeed: a process keeps a share of the moments (ZeRO-1), of the gradients too (2), of the weights too (3).

Each network has an engine of its own, whose steps are asked for here: accelerate knows one engine, whose `backward`
takes the step too. A head on the policy's trunk, whose gradient comes with the policy's backward pass, stays in every
process, as with DDP. With ZeRO-3 each process holds the networks whole beside its share, to sample from.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from vbon.config.train import TrainConfig
from vbon.training.descent import OneOptimizer, adamw, require_finite
from vbon.training.shards import copy_settings, trained

MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero:
    """Networks in DeepSpeed's engines: their descent, and all parts of them.

    Args:
        networks: name → network, whole in every process.
        rates: the learning rate of each.
        told: DeepSpeed's configuration.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        rates: list[float],
        told: dict[str, Any],
        config: TrainConfig,
        accelerator: Accelerator,
    ):
        share = max(1, config.minibatch_size // accelerator.num_processes)
        told = {**told, "train_micro_batch_size_per_gpu": share}
        self._networks, self._moved, self._device = networks, list[str](), accelerator.device
        self._optimizer = adamw(networks.values(), rates)
        rate_of = dict(zip(networks, rates, strict=True))
        shared_head = config.critic == "shared" and "critic" in networks
        self._engines = {
            name: _engine(network, rate_of[name], told)
            for name, network in networks.items()
            if name == "policy" or not shared_head
        }
        self.prepared: dict[str, nn.Module] = dict(self._engines)
        self._beside: list[OneOptimizer] = []
        if shared_head:
            head = {"critic": accelerator.prepare(networks["critic"])}
            self.prepared |= head
            optimizer = adamw(head.values(), [rate_of["critic"]])
            self._beside = [OneOptimizer(head, optimizer, accelerator, config.max_grad_norm)]

    # Descent -----------------------------------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups = [engine.optimizer.param_groups[0] for engine in self._engines.values()]
        return groups + [group for one in self._beside for group in one.param_groups]

    def zero_grad(self) -> None:
        for one in self._beside:  # an engine lets its own go in its step
            one.zero_grad()

    def backward(self, loss: Tensor, network: str) -> None:
        self._engines[network].backward(loss)
        self._moved.append(network)

    def step(self) -> dict[str, Tensor]:
        """As `Descent.step`; the engines of networks without a gradient stay as they are."""
        norms: dict[str, Tensor] = {}
        for one in self._beside:
            norms |= one.step()
        moved, self._moved = self._moved, []
        for name in moved:
            self._engines[name].step()  # which leaves the weights alone where the norm is not finite
            norm = self._engines[name].get_global_grad_norm()
            norms[name] = torch.as_tensor(norm, dtype=torch.float32, device=self._device)
            require_finite(norms[name])
        return norms

    def forget(self) -> None:
        for engine in self._engines.values():
            for state in engine.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        for one in self._beside:
            one.forget()

    # All parts of them -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def gather(self, name: str) -> nn.Module:
        """The network as its engine has it now. All processes ask together."""
        from deepspeed.utils import safe_get_full_fp32_param

        for whole, part in self._pairs(name):
            if whole is not part:
                whole.copy_(safe_get_full_fp32_param(part))
        return self._networks[name]

    @torch.no_grad()
    def gather_optimizer(self, *, keep: bool) -> torch.optim.Optimizer:
        """One optimizer with all moments, in the processes that `keep` them. All processes ask together."""
        self._optimizer.state.clear()
        for name, engine in self._engines.items():
            for whole, part in self._pairs(name):
                moments = _moments(engine, part)
                if keep and moments:
                    self._optimizer.state[whole] = moments
        for one in self._beside:
            self._optimizer.state.update(one.optimizer.state)
        copy_settings(self.param_groups, self._optimizer.param_groups)
        return self._optimizer

    @torch.no_grad()
    def scatter(self) -> None:
        """Take over networks and optimizer as a checkpoint has filled them; the whole moments are let go."""
        for name, engine in self._engines.items():
            taken = 0.0
            for whole, part in self._pairs(name):
                moments = self._optimizer.state.pop(whole, {})
                taken = max(taken, float(moments.get("step", 0)))
                _fill(part, whole, {key: moments.get(key, torch.zeros_like(whole)) for key in MOMENTS})
            engine.optimizer.refresh_fp32_params()
            for state in engine.optimizer.state.values():
                state["step"].fill_(taken)
        for one in self._beside:
            one.optimizer.state.update(self._optimizer.state)
        self._optimizer.state.clear()
        copy_settings(self._optimizer.param_groups, self.param_groups)

    def _pairs(self, name: str) -> Iterator[tuple[nn.Parameter, Any]]:
        """Each trained parameter whole and in the engine: one and the same but with ZeRO-3. None for one beside it."""
        if name in self._engines:
            yield from zip(trained(self._networks[name]), trained(self._engines[name].module), strict=True)


def _engine(network: nn.Module, rate: float, told: dict[str, Any]) -> Any:
    """An engine around the network; around a copy of it where the weights are shared out, which changes them."""
    import deepspeed

    if told["zero_optimization"]["stage"] == 3:
        network = copy.deepcopy(network)
    optimizer = adamw([network], [rate])
    engine = deepspeed.initialize(
        model=network, optimizer=optimizer, config=copy.deepcopy(told), dist_init_required=False
    )[0]
    _begin(engine.optimizer)
    return engine


def _begin(optimizer: Any) -> None:
    """The moments before a first step, all 0, which DeepSpeed otherwise makes in it: a checkpoint may fill them."""
    in_parts = hasattr(optimizer, "fp32_partitioned_groups_flat")  # ZeRO-3
    for part in optimizer.fp32_partitioned_groups_flat if in_parts else optimizer.single_partition_of_fp32_groups:
        step = torch.zeros((), dtype=torch.float32, device=part.device)
        optimizer.state[part] = {"step": step, **{key: torch.zeros_like(part) for key in MOMENTS}}
    if not in_parts:
        optimizer._lazy_init_hp_params_optimizer_state()


def _moments(engine: Any, part: Any) -> dict[str, Tensor]:
    """AdamW's state of the parameter, all of it in every process; nothing before a first step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    taken: Tensor = next(iter(engine.optimizer.state.values()))["step"]
    if not taken:
        return {}
    return {"step": taken.clone(), **{key: safe_get_full_optimizer_state(part, key) for key in MOMENTS}}


def _fill(part: Any, whole: Tensor, moments: dict[str, Tensor]) -> None:
    """Give this process's share of a parameter and of its moments their values."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import (
        safe_get_local_optimizer_state,
        safe_set_full_optimizer_state,
        safe_set_local_optimizer_state,
    )

    if part is whole:
        for key, moment in moments.items():
            safe_set_full_optimizer_state(part, moment, key)
        return
    with GatheredParameters([part], modifier_rank=0):
        part.copy_(whole)
    for key, moment in moments.items():  # by the share: DeepSpeed sets all of it only where it divides evenly
        share = safe_get_local_optimizer_state(part, key).numel()
        start = torch.distributed.get_rank() * share
        mine = moment.flatten()[start : start + share]
        safe_set_local_optimizer_state(part, functional.pad(mine, (0, share - mine.numel())), key)
