"""`--refine-tail`: policy samples refine the upper tail of every prompt's F̂ while training (core.refined_cdf)."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vbon.config.train import TrainConfig
from vbon.core.refined_cdf import RefinedCDF
from vbon.core.reward_cdf import RewardCDF
from vbon.models.logprobs import completion_logprobs
from vbon.training.parallel.learner import Learner
from vbon.training.pool_data import PoolData
from vbon.training.rollout import Rollouts
from vbon.training.task import prompt_slots

ITERATIONS_KEPT = 16
"""Policy samples of older iterations are forgotten: their policy is no longer near the present one."""


class Refinement(nn.Module):
    """A task with refined ranks, and their updates before and after each iteration.

    It is a module so that checkpoints save and fill it as they do the networks: its buffers share their memory with the
    arrays of `RefinedCDF.state`.

    Args:
        data: the pool that is refined, with log π_ref of all its completions.
        config: the configured training.
    """

    def __init__(self, data: PoolData, config: TrainConfig):
        super().__init__()
        assert isinstance(data.task.cdf, RewardCDF)
        self._data, self._config = data, config
        self._cdf = RefinedCDF(
            data.task.cdf,
            ITERATIONS_KEPT * config.rollouts_per_iteration,
            0.0 if data.task.known is None else data.task.known.resolution,
        )
        self.task = replace(data.task, cdf=self._cdf)
        for name, array in self._cdf.state.items():
            self.register_buffer(name, torch.from_numpy(array))

    @torch.no_grad()
    def before(self, learner: Learner, iteration: int) -> None:
        """Compute the policy's log-ratios of the pools that the iteration's rollouts are ranked in."""
        policy, config, offsets = learner.module("policy"), self._config, self._cdf.pools.offsets
        slots = config.rollouts_per_iteration // config.samples_per_prompt
        prompts = prompt_slots(len(self.task), iteration * slots, slots, config.seed)
        for prompt in prompts.unique().tolist():
            rows = np.arange(offsets[prompt], offsets[prompt + 1])
            logprobs = completion_logprobs(policy, self._data.batch(rows), self.task.sampling.temperature)
            self._cdf.refresh(prompt, logprobs.double().sum(1).numpy() - self._data.ref_logprobs[rows])

    def after(self, learner: Learner, rollouts: Rollouts) -> None:
        """Add the rollouts of all processes to the policy samples."""
        columns = (rollouts.prompt_index, torch.from_numpy(rollouts.rewards), rollouts.log_ratio())
        self._cdf.add(*(learner.gather_rows(column).cpu().numpy() for column in columns))
