"""Signs of a failing run in its metrics, each as a one-line warning that names what helps."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vbon.core.rank_tilts import Target, as_tilt, kl_floor, kl_from_reference
from vbon.training.output.state import RunState

WATCHED = ("kl_policy_ref", "entropy", "eos_rate")
WINDOW = 10
KL_OVERRUN = 1.5
MOST_ROUNDED_AWAY = 0.5
NOISY_FLOOR = 0.1  # nats: the reading of KL(π_θ‖π_bon) at π_θ = π_bon


class HealthCheck:
    """Prints the warnings of the functions below, each once in a run, whether it was interrupted or not."""

    def __init__(self, console: Console, state: RunState, n: Target, *, vbon_objective: bool):
        self._console, self._state = console, state
        self._n, self._vbon_objective = n, vbon_objective

    def before_start(self, num_samples: int) -> None:
        """Warn of a pool whose smallest M, `num_samples`, is too small for N."""
        self._warn("noisy_cdf", noisy_cdf(num_samples=num_samples, n=self._n, vbon_objective=self._vbon_objective))

    def before_steps(self, share: float, learning_rate: float) -> None:
        """Warn of weights that are too coarse for the learning rate."""
        self._warn("precision", precision(share, learning_rate))

    def after_iteration(self, metrics: dict[str, float]) -> None:
        """Warn of failure signs in this iteration's metrics and the earlier ones."""
        recent = self._state.recent
        recent.append({key: metrics[key] for key in WATCHED})
        del recent[WINDOW:-WINDOW]
        for name, line in failure_signs(recent, self._n, vbon_objective=self._vbon_objective).items():
            self._warn(name, line)

    def after_validation(self) -> None:
        """Warn where the validation objective no longer improves, or KL runs away."""
        self._warn("plateau", plateau(self._state.validations))
        kl = self._state.validations[-1]["validation/kl_policy_ref"]
        self._warn("kl_overrun", kl_overrun(kl, self._n, vbon_objective=self._vbon_objective))

    def _warn(self, name: str, line: str | None) -> None:
        if line is not None and name not in self._state.warnings_given:
            self._state.warnings_given.append(name)
            self._console.print(f"[yellow]warning:[/yellow] {line}")


def noisy_cdf(n: Target, num_samples: int, *, vbon_objective: bool) -> str | None:
    """Return a warning if F̂ is too noisy for N; `num_samples` is the smallest M of the pool."""
    if not vbon_objective or kl_floor(num_samples, n) <= NOISY_FLOOR:
        return None
    return (
        f"F̂ is noisy for this N: with M = {num_samples} samples per prompt, KL(π_θ‖π_bon) is estimated as "
        f"{kl_floor(num_samples, n):.2f} nats at best; M ≥ {round(25 * as_tilt(n).n)} or a smaller --n helps"
    )


@torch.no_grad()
def share_rounded_away(model: nn.Module, learning_rate: float, most: int = 1000) -> float:
    """Compute the share of the trained weights that a step of Adam, about the learning rate, leaves as they are.

    A weight w changes by less than half the distance to the next number of its type: ε·2^⌊log₂|w|⌋/2. Up to `most`
    weights of each tensor are looked at.
    """
    lost = count = 0
    for weight in (parameter.detach().flatten() for parameter in model.parameters() if parameter.requires_grad):
        few = weight[:: max(1, len(weight) // most)]
        spacing = torch.finfo(weight.dtype).eps * few.float().abs().log2().floor().exp2()
        lost += int((learning_rate < spacing / 2).sum())
        count += len(few)
    return lost / max(count, 1)


def precision(share: float, learning_rate: float) -> str | None:
    """Return a warning if most of the weights cannot follow their steps."""
    if share <= MOST_ROUNDED_AWAY:
        return None
    return (
        f"{100 * share:.0f} % of the weights are too coarse for steps of the learning rate {learning_rate:g} and will "
        "hardly change: train with --dtype float32 (and --mixed-precision bf16 for speed)"
    )


def failure_signs(history: Sequence[dict[str, Any]], n: Target, *, vbon_objective: bool) -> dict[str, str]:
    """Find failure signs in the training metrics so far: name → warning."""
    if len(history) < 2 * WINDOW:
        return {}
    first, last = _mean(history[:WINDOW]), _mean(history[-WINDOW:])
    found = {}
    overrun = kl_overrun(last["kl_policy_ref"], n, vbon_objective=vbon_objective)
    if overrun is not None:
        found["kl_overrun"] = overrun
    if last["entropy"] < 0.25 * first["entropy"]:
        found["entropy_collapse"] = (
            f"entropy fell from {first['entropy']:.1f} to {last['entropy']:.1f} nats; "
            "a smaller --learning-rate, a smaller --n or --warm-start offline helps"
        )
    if abs(last["eos_rate"] - first["eos_rate"]) > 0.5:
        found["eos_collapse"] = (
            f"the share of completions that end by themselves went from {first['eos_rate']:.0%} to "
            f"{last['eos_rate']:.0%}; check how the reward treats length and unfinished text"
        )
    return found


def kl_overrun(kl: float, n: Target, *, vbon_objective: bool) -> str | None:
    """A line when KL(π_θ‖π_ref), in nats, is well beyond that of best-of-N."""
    target = kl_from_reference(n)
    if not vbon_objective or kl <= KL_OVERRUN * target + 0.1:
        return None
    return (
        f"KL(π_θ‖π_ref) = {kl:.2f} runs past {as_tilt(n).name}'s {target:.2f} nats; "
        "a smaller --learning-rate or more --rollouts-per-iteration helps"
    )


def plateau(validations: Sequence[dict[str, Any]], patience: int = 4) -> str | None:
    """Return a warning if the validation objective has not improved for `patience` validations."""
    values = [row["validation/objective"] for row in validations]
    if len(values) <= patience or max(values[-patience:]) > max(values[:-patience]):
        return None
    best = validations[values.index(max(values))]["iteration"]
    return (
        f"the validation objective has not improved since iteration {best}; "
        "the best checkpoint is kept. A smaller --learning-rate or more --rollouts-per-iteration may go further"
    )


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in WATCHED}
