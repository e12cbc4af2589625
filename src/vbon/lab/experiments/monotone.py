"""Do maps of the reward move the result? Order-keeping maps must not move vBoN at all; KL-RL's change stands beside it.

Exact part: how far a map moves π_bon and KL-RL's optimum (at the β of N in KL for the unmapped reward, in units of the
reward's standard deviation, as one who rescales rewards would set it). Maps that saturate make rewards tie: what that
costs in the true reward, and what the tie-aware form saves over the one-sided one. Trained part: the same by training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vbon.figures.shapes import Line, Panel
from vbon.lab import laws
from vbon.lab.exact import Truth, expectation, kl, measure, normalised
from vbon.lab.experiment import Context
from vbon.lab.experiments.ties import blind_sum
from vbon.lab.laws import enumerated_law
from vbon.lab.rows import Row, distinct, line, seeds_line, where
from vbon.lab.training import LONG, Job, Scale, run_all, run_log_probs, truth_of
from vbon.lab.world import World

TITLE = "monotone: what a map of the reward changes, exact (nats; rewards are the unmapped ones)"
COLUMNS = "map n levels bon_moved kl_rl_moved reward_bon reward_kl_rl reward_one_sided one_sided_from_bon"
TRAINED_BY = "trained_on map"
KEPT = ("affine", "exponential", "cubic", "stretched_tail")
BROKEN = ("log_saturated", "tanh_saturated", "outliers")


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 8, 32, 128)
    trained_n: int = 8
    trained_maps: tuple[str, ...] = KEPT + BROKEN
    objectives: tuple[str, ...] = ("vbon", "reward")
    num_samples: int = 1000
    scale: Scale = LONG
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "quick": Preset(
        ns=(2, 8, 32),
        trained_maps=("affine", "exponential", "tanh_saturated"),
        scale=Scale(num_iterations=60),
        seeds=(0,),
    ),
    "medium": Preset(scale=Scale(num_iterations=100), seeds=(0,)),
    "full": Preset(),
    "untrained": Preset(trained_maps=()),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    base = truth_of(World())
    rows = [compare(base, truth_of(World(), name), name, n) for name in KEPT + BROKEN for n in preset.ns]
    return {"rows": rows, "trained": run_trained(preset, context) if preset.trained_maps else []}


def compare(base: Truth, mapped: Truth, name: str, n: int) -> dict[str, Any]:
    """Exact targets under one map against those of the unmapped reward. First prompt."""
    log_bon, log_mapped = base.log_bon(n), mapped.log_bon(n)
    one_sided = normalised(blind_sum(mapped, n))
    plain, changed = enumerated_law(base), enumerated_law(mapped)
    beta = laws.kl_matched(plain, n) / plain.std()
    before, after = plain.log_tilted(beta * plain.std()), changed.log_tilted(beta * changed.std())
    return {
        "map": name,
        "n": n,
        "levels": len(np.unique(mapped.rewards)),
        "bon_moved": float(np.abs(log_mapped - log_bon).max()) if name in KEPT else kl(log_mapped, log_bon),
        "kl_rl_moved": kl(after[None], before[None]),
        "reward_bon": expectation(np.exp(log_mapped), base.rewards),
        "reward_kl_rl": plain.mean(after),
        "reward_one_sided": expectation(np.exp(one_sided), base.rewards),
        "one_sided_from_bon": kl(one_sided, log_mapped),
    }


def run_trained(preset: Preset, context: Context) -> list[Row]:
    """The policy trained under each map against the one trained without, same seed: how far apart, and how good."""
    base, rows = truth_of(World()), []
    job_of = partial(
        Job, world=World(), n=preset.trained_n, scale=preset.scale, work=context.work, num_samples=preset.num_samples
    )
    names = ("continuous", *preset.trained_maps)
    for objective in preset.objectives:
        for seed in context.seeds:
            jobs = [job_of(reward=name, seed=seed, flags=_flags(name, objective, preset.trained_n)) for name in names]
            policies = dict(zip(names, run_all(run_log_probs, jobs, context.num_workers), strict=True))
            plain = policies["continuous"]
            rows += [
                {
                    "map": name,
                    "trained_on": objective,
                    "seed": seed,
                    "largest_change": float(np.abs(policy - plain).max()),
                    "moved": kl(policy, plain),
                    **measure(policy, base, preset.trained_n),
                }
                for name, policy in policies.items()
            ]
    return rows


def _flags(name: str, objective: str, n: int) -> dict[str, Any]:
    if objective != "reward":
        return {"objective": objective}
    plain, mapped = enumerated_law(truth_of(World())), enumerated_law(truth_of(World(), name))
    kl_coef = float(f"{laws.kl_matched(plain, n) / plain.std() * mapped.std():.6g}")
    return {"objective": objective, "kl_coef": kl_coef}


def panels(result: dict[str, Any]) -> list[Panel]:
    def lines(names: Sequence[str], key: str, label: str, style: str = "-") -> list[Line]:
        return [line(where(result["rows"], map=name), "n", key, f"{label}, {name}", style) for name in names]

    rewards = lines(BROKEN, "reward_bon", "best-of-N") + lines(BROKEN, "reward_kl_rl", "KL-RL", "--")
    return [
        Panel("how far the target moves", "N", "nats", lines(KEPT, "kl_rl_moved", "KL-RL")),
        Panel("true reward of the target", "N", "mean unmapped reward", rewards, y_log=False),
        *([_trained_panel(result["trained"])] if result["trained"] else []),
    ]


def _trained_panel(trained: list[Row]) -> Panel:
    """KL to the policy of the unmapped reward; 0 where a map changes nothing. The maps are numbered in order."""
    names = [name for name in distinct(trained, "map") if name != "continuous"]
    numbered = [{**run, "number": names.index(run["map"]) + 1} for run in trained if run["map"] in names]
    lines = [
        seeds_line(where(numbered, trained_on=objective), "number", "moved", objective)
        for objective in distinct(numbered, "trained_on")
    ]
    label = ", ".join(f"{number} {name.split('_')[0]}" for number, name in enumerate(names, 1))
    return Panel("trained: moved by the map, nats", label, "KL to the policy without a map", lines, False, False)
