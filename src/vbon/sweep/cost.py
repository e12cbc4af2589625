"""The cost of a run, in all and until it was nearly there, from its metrics; only the seconds depend on the machine."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vbon.artifacts.run import RunFolder, read_rows, seconds_of
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool
from vbon.sweep.plan import Job

NEARLY = 0.95
"""Share of best-of-N's gain in reward, on validation prompts, whose cost is reported."""


class Cost(NamedTuple):
    """Completions rolled out to learn from, each scored once; optimiser steps on the pool; seconds of both."""

    rollouts: int
    offline_steps: int
    seconds: float


class Measured(NamedTuple):
    """A validation: what had been spent until then, and the share of best-of-N's gain in reward."""

    cost: Cost
    gain_share: float | None


@dataclass(frozen=True)
class GainScale:
    """Mean reward of the reference (share 0) and of best-of-N (share 1) on the prompts that a run validates on."""

    reference: float
    best_of_n: float

    def share(self, reward: float) -> float | None:
        """Return a mean reward's share of the gain, or None where best-of-N gains nothing."""
        gain = self.best_of_n - self.reference
        return (reward - self.reference) / gain if gain > 0 else None


class GainScales:
    """The scale of each finished run, by the pool that all share: seeds differ in their validation prompts."""

    def __init__(self, pool: ReferencePool):
        self._pool = pool
        self._known: dict[tuple[tuple[str, ...], float], GainScale] = {}

    def of(self, job: Job) -> GainScale | None:
        """None for a run of an older version, which did not record its validation prompts."""
        prompt_ids = RunFolder(job.train.out).read_record().validation_prompt_ids
        if prompt_ids is None:
            return None
        key = (prompt_ids, job.n)
        if key not in self._known:
            validation = self._pool.select(prompt_ids)
            rewards = [validation.rewards[validation.rows_of(prompt)] for prompt in range(len(prompt_ids))]
            best = [predict(one, job.n).reward for one in rewards]
            self._known[key] = GainScale(_mean([float(one.mean()) for one in rewards]), _mean(best))
        return self._known[key]


def measured(job: Job, scale: GainScale | None) -> list[Measured]:
    """The validations of a finished run, in order, each with the cost up to it."""
    return list(_measured(read_rows(RunFolder(job.train.out).metrics), job, scale))


def total(diary: Sequence[Measured]) -> Cost:
    """Return the cost of the whole run; its last validation is at its end."""
    return diary[-1].cost if diary else Cost(0, 0, 0.0)


def first_nearly_there(diary: Sequence[Measured]) -> Cost | None:
    """The cost of the first validation with NEARLY of the gain, or None: at the resolution of the validations."""
    return next((one.cost for one in diary if one.gain_share is not None and one.gain_share >= NEARLY), None)


def _measured(rows: Sequence[Mapping[str, Any]], job: Job, scale: GainScale | None) -> Iterator[Measured]:
    rollouts = offline_steps = 0
    seconds = 0.0
    for row in rows:
        if "validation/reward" in row:
            share = None if scale is None else scale.share(row["validation/reward"])
            yield Measured(Cost(rollouts, offline_steps, seconds), share)
            continue
        seconds += seconds_of(row)
        if "offline_step" in row:
            offline_steps += 1
        else:
            rollouts += job.train.rollouts_per_iteration


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
