"""N close to the pool's M and past it, two ways: the tail of F̂ refined by the policy's samples, and iterated rounds.

Both simulated with perfect training, so that what remains is the cost of estimation alone: the policy of a step is the
exact optimum of the F̂ before it. plain: one pool of M. refined: then `steps` times K policy samples, weighted.
rounds: R pools of M, each of the last policy, each with n^(1/R); best-of-N of best-of-N' is best-of-N·N'.
Trained part: plain, `--refine-tail` and `--rounds 2` through the library itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vbon.core.best_of_n import log_weight
from vbon.core.refined_cdf import RefinedCDF
from vbon.core.reward_cdf import RewardCDF
from vbon.figures.shapes import Panel
from vbon.lab.exact import Float, Truth, kl, mean_and_error, measure, normalised
from vbon.lab.experiment import Context
from vbon.lab.pools import draw_counts, interval
from vbon.lab.rows import Row, distinct, line, plus_minus, seeds_line, where
from vbon.lab.training import LONG, Job, Scale, run_all, run_log_probs, truth_of
from vbon.lab.world import World

TITLE = "beyond-m: KL(π̂‖π_bon) for N around M and past it (nats; ± is the 95 % interval over pools)"
COLUMNS = "num_samples n way reference_samples policy_samples kl kl_error reward reward_bon"
TRAINED_BY = "num_samples n way"


TRAINED: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("plain", 1, {}),
    ("refined", 1, {"refine_tail": True}),
    ("2 rounds", 2, {"rounds": 2}),
)
"""Ways to train, how many rounds each has, and its flags."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    num_samples: tuple[int, ...] = (32, 128)
    ns: tuple[int, ...] = (8, 32, 128, 512, 2048)
    pools: int = 40
    steps: int = 5
    policy_samples: int = 512
    trained: tuple[tuple[int, int], ...] = ((64, 64), (64, 256))
    scale: Scale = LONG
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "quick": Preset(
        num_samples=(32,), ns=(8, 32, 128), pools=20, trained=((64, 64),), scale=Scale(num_iterations=60), seeds=(0,)
    ),
    "medium": Preset(pools=20, scale=Scale()),
    "full": Preset(),
    "untrained": Preset(trained=()),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    truth = truth_of(World())
    rows = [
        {"num_samples": num_samples, "n": n, **row}
        for num_samples in preset.num_samples
        for n in preset.ns
        for row in simulate(truth, num_samples, n, preset, context.seeds[0])
    ]
    return {"rows": rows, "trained": run_trained(preset, context)}


def simulate(truth: Truth, num_samples: int, n: int, preset: Preset, seed: int) -> list[Row]:
    """One row for each way, means over pools. First prompt."""
    extra = preset.steps * preset.policy_samples
    ways: dict[str, tuple[Callable[[np.random.Generator], Float], int, int]] = {
        "plain": (lambda rng: plain(truth, num_samples, n, rng), num_samples, 0),
        "plain, M + K·steps": (lambda rng: plain(truth, num_samples + extra, n, rng), num_samples + extra, 0),
        "refined": (lambda rng: refined(truth, num_samples, n, preset, rng), num_samples, extra),
        "2 rounds": (lambda rng: rounds(truth, num_samples, n, 2, rng), num_samples, num_samples),
        "3 rounds": (lambda rng: rounds(truth, num_samples, n, 3, rng), num_samples, 2 * num_samples),
    }
    log_bon, rows = truth.log_bon(n)[0], []
    for way, (draw, from_ref, from_policy) in ways.items():
        policies = [draw(np.random.default_rng([seed, num_samples, n, pool])) for pool in range(preset.pools)]
        mean, half = mean_and_error([kl(policy[None], log_bon[None]) for policy in policies])
        reward = float(np.mean([np.exp(policy) @ truth.rewards[0] for policy in policies]))
        rows.append(
            {
                "way": way,
                "reference_samples": from_ref,
                "policy_samples": from_policy,
                "kl": mean,
                "kl_error": half,
                "reward": reward,
                "reward_bon": float(np.exp(log_bon) @ truth.rewards[0]),
            }
        )
    return rows


def plain(truth: Truth, num_samples: int, n: float, rng: np.random.Generator) -> Float:
    """log of the optimum of one pool's F̂: π_ref·Ŵ."""
    return _bon_of(truth.ref_probs[0], truth, num_samples, n, rng)


def rounds(truth: Truth, num_samples: int, n: float, count: int, rng: np.random.Generator) -> Float:
    """log of the policy after `count` rounds of best-of-n^(1/count), each from a fresh pool of the last one."""
    log_policy = np.log(truth.ref_probs[0])
    for _ in range(count):
        log_policy = _bon_of(np.exp(log_policy), truth, num_samples, n ** (1 / count), rng)
    return log_policy


def refined(truth: Truth, num_samples: int, n: float, preset: Preset, rng: np.random.Generator) -> Float:
    """log of the policy after `steps` refinements of F̂ with K samples of the policy before."""
    log_ref, rewards = np.log(truth.ref_probs[0]), truth.rewards[0]
    pool = rng.choice(len(rewards), num_samples, p=truth.ref_probs[0])
    cdf = RefinedCDF(RewardCDF(rewards[pool], [num_samples]), preset.steps * preset.policy_samples)
    log_policy = _optimum(log_ref, cdf, rewards, n)
    for _ in range(preset.steps):
        drawn = rng.choice(len(rewards), preset.policy_samples, p=np.exp(log_policy))
        cdf.add(np.zeros(len(drawn)), rewards[drawn], (log_policy - log_ref)[drawn])
        cdf.refresh(0, (log_policy - log_ref)[pool])
        log_policy = _optimum(log_ref, cdf, rewards, n)
    return log_policy


def _optimum(log_ref: Float, cdf: RefinedCDF, rewards: Float, n: float) -> Float:
    found = cdf.interval(np.zeros(len(rewards), np.int64), rewards)
    return normalised(log_ref + log_weight(found.cdf_lt, found.cdf_le, n))


def _bon_of(probs: Float, truth: Truth, num_samples: int, n: float, rng: np.random.Generator) -> Float:
    counts = draw_counts(probs, truth.rewards[0], num_samples, rng)
    with np.errstate(divide="ignore"):
        return normalised(np.log(probs) + interval(counts, n))


def run_trained(preset: Preset, context: Context) -> list[Row]:
    """Each way through the library: collect and train; for rounds collect again from the trained policy."""
    truth, job_of = truth_of(World()), partial(Job, world=World(), scale=preset.scale, work=context.work)
    cases = [
        ((num_samples, n, way), job_of(num_samples=num_samples, n=n ** (1 / rounds), seed=seed, flags=flags))
        for num_samples, n in preset.trained
        for way, rounds, flags in TRAINED
        for seed in context.seeds
    ]
    policies = run_all(run_log_probs, [job for _, job in cases], context.num_workers)
    return [
        {"num_samples": num_samples, "n": n, "way": way, "seed": job.seed, **measure(policy, truth, n)}
        for ((num_samples, n, way), job), policy in zip(cases, policies, strict=True)
    ]


def panels(result: dict[str, Any]) -> list[Panel]:
    rows, trained = result["rows"], result["trained"]
    return [_panel(rows, m) for m in distinct(rows, "num_samples")] + [
        _trained_panel(trained, m) for m in distinct(trained, "num_samples")
    ]


def _panel(rows: list[Row], num_samples: int) -> Panel:
    chosen = where(rows, num_samples=num_samples)
    lines = [
        line(where(chosen, way=way), "n", "kl", way, band=plus_minus("kl"), least_of_band=1e-5)
        for way in distinct(rows, "way")
    ]
    return Panel(f"M = {num_samples}", "N", "KL(π̂‖π_bon), nats", lines)


def _trained_panel(trained: list[Row], num_samples: int) -> Panel:
    chosen = where(trained, num_samples=num_samples)
    lines = [seeds_line(where(chosen, way=way), "n", "kl_policy_bon", way) for way, _, _ in TRAINED]
    return Panel(f"trained, M = {num_samples}", "N", "KL(π_θ‖π_bon), nats", lines)
