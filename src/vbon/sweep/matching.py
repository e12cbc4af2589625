"""The scale β of the methods that have one, matched to N: the same KL to the reference as best-of-N, from the pool."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vbon.config.methods import METHODS, MethodName
from vbon.config.sweep import Sweep
from vbon.core.kl_rl import kl_coef_for_samples, kl_of_samples_tilt
from vbon.errors import VbonError
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool

Float = NDArray[np.float64]
REWARD_TILT, QUANTILE_TILT = "kl-rl-tilt", "quantile-tilt"
_DIGITS = 4
MOST_UNSEEN = 0.12  # share of the KL that may be a correction without a word


def scales_of(sweep: Sweep, pool: ReferencePool) -> dict[MethodName, tuple[float, ...]]:
    """Method → β for each N: as SWEEP.yaml gives them, or matched; all others are left to `vbon train`.

    Matched: the method's optimum π_ref·exp(score/β)/Z spends the KL of best-of-N, both estimated from the pool. A
    warning says where M samples are too few for that.
    Raises VbonError where the pool cannot say.
    """
    given = {name: fields["kl_coef"] for name, fields in sweep.methods.items() if "kl_coef" in fields}
    tilts = [name for name in sweep.methods if METHODS[name].optimum in (REWARD_TILT, QUANTILE_TILT)]
    return given | {name: _matched(name, sweep.n, pool) for name in tilts if name not in given}


def _matched(method: MethodName, ns: Sequence[float], pool: ReferencePool) -> tuple[float, ...]:
    rewards = pool.per_prompt(pool.rewards)
    scores = _scores(method, rewards, pool)
    kls = [float(np.mean([predict(one, n).kl_bon_ref for one in rewards])) for n in ns]
    try:
        scales = [float(f"{kl_coef_for_samples(scores, kl):.{_DIGITS}g}") for kl in kls]
    except ValueError as error:
        raise VbonError(f"{pool.path}: no kl_coef matches for {method} ({error}); give them in SWEEP.yaml") from None
    for n, kl, scale in zip(ns, kls, scales, strict=True):
        unseen = kl - float(np.mean([kl_of_samples_tilt(one, scale) for one in scores]))
        if unseen > MOST_UNSEEN * kl:
            warnings.warn(
                f"{method} at N = {n:g}: {pool.num_samples.min()} samples per prompt show {kl - unseen:.2f} of its "
                f"{kl:.2f} nats; the rest is an estimate, so that its KL may be another by as much: a larger M helps",
                stacklevel=2,
            )
    return tuple(scales)


def _scores(method: MethodName, rewards: list[Float], pool: ReferencePool) -> list[Float]:
    """What a method's optimum tilts by: the reward, or its rank in the pool."""
    if METHODS[method].optimum == REWARD_TILT:
        return rewards
    interval = pool.cdf().pool_interval()
    return pool.per_prompt((interval.cdf_lt + interval.cdf_le) / 2)
