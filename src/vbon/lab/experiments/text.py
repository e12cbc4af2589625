"""The paper's questions answered by training on text, held-out prompts, 95 % intervals over them.

Give two pools: the training prompts' and the held-out prompts'. One training each, all with the same settings:

- backward-kl: vbon at every N; n-beta: KL-RL at the β that spends best-of-N's KL on the pool.
- bound: the paper's estimator of its bound, on the rewards as they are and after tanh, which makes them tie.
- monotone: exp of the rewards keeps their order, tanh in steps of 0.01 does not; KL-RL's β is chosen anew.
- samples: M samples of each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vbon.core import pool_size
from vbon.errors import VbonError
from vbon.figures.shapes import Line, Panel
from vbon.lab import text_runs
from vbon.lab.experiment import Context
from vbon.lab.experiments.pool import kl_matched, laws_of, mapped
from vbon.lab.laws import MAPS, Law, spread_of
from vbon.lab.rows import RULE, Row, interval, line, where
from vbon.lab.text_runs import TextJob
from vbon.lab.training import in_processes
from vbon.pool.store import ReferencePool

TITLE = "text: policies trained on a pool, measured on held-out prompts (nats; means over prompts)"
TRAINED_BY = ""
COLUMNS = (
    "question method n num_samples map seed reward reward_bon win_rate win_rate_bon kl_policy_ref kl_bon_ref "
    "kl_policy_bon moved same_weights"
)
METHODS: dict[str, dict[str, Any]] = {
    "vbon": {},
    "one-sided": {"objective": "vbon-bound"},
    "KL-RL": {"objective": "reward"},
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Of vbon."""
    kl_rl_ns: tuple[int, ...] = (2, 8, 32)
    n: int = 8
    """Of every other question."""
    num_samples: tuple[int, ...] = (8, 16, 32, 64)
    num_iterations: int = 150
    rollouts_per_iteration: int = 256
    samples_per_prompt: int = 20
    seeds: tuple[int, ...] = (1,)


PRESETS = {
    "quick": Preset(ns=(8,), kl_rl_ns=(8,), num_samples=(16,), num_iterations=10, samples_per_prompt=10),
    "medium": Preset(ns=(2, 8, 32), kl_rl_ns=(8,), num_samples=(8, 64), num_iterations=80),
    "full": Preset(seeds=(1, 2, 3)),
}


@dataclass(frozen=True)
class Case:
    """One policy of one question. `num_samples`: None for all that the pool has."""

    question: str
    method: str
    n: int
    num_samples: int | None = None
    reward_map: str = "identity"


def run(preset: Preset, context: Context) -> dict[str, Any]:
    """Rows of each case and seed. Raises VbonError unless two pools were given."""
    if len(context.pools) != 2:
        raise VbonError(f"--pool: vbon lab text needs two, TRAIN and HELDOUT, not {len(context.pools)}")
    pools = [ReferencePool.open(path) for path in context.pools]
    jobs = jobs_of(preset, laws_of(pools[0]), context)
    different = list(dict.fromkeys(jobs.values()))
    for job in different:
        text_runs.derive_pool(job)  # before the runs that share it
    done = in_processes(text_runs.run, [(job.folder.name, job) for job in different], context.num_workers)
    measured = dict(zip(different, done, strict=True))
    targets = {n: text_runs.target(job) for n, job in {job.n: job for job in different}.items()}
    every = int(pools[0].num_samples.min())
    return {
        "rows": [
            {**_describe(case, job, every), **_beside(targets[job.n]), **measured[job], **_moved(case, job, jobs)}
            for (case, _), job in jobs.items()
        ],
        "targets": [{"n": n, **measures} for n, measures in sorted(targets.items())],
        "pools": [{"prompts": len(pool), "samples": int(pool.num_samples.min())} for pool in pools],
    }


def cases_of(preset: Preset) -> list[Case]:
    """Every policy that the questions ask for; some ask for the same."""
    n = preset.n
    maps = [Case("monotone", method, n, None, name) for method in ("vbon", "KL-RL") for name in MAPS]
    return [
        *(Case("backward-kl", "vbon", each) for each in preset.ns),
        *(Case("n-beta", "KL-RL", each) for each in preset.kl_rl_ns),
        *(Case("bound", "one-sided", n, None, name) for name in ("identity", "saturated")),
        *maps,
        *(Case("samples", "vbon", n, each) for each in (*preset.num_samples, None)),
    ]


def jobs_of(preset: Preset, laws: Sequence[Law], context: Context) -> dict[tuple[Case, int], TextJob]:
    """The job of each case and seed; equal jobs are one run."""
    jobs = {case: _job(case, laws, preset, context) for case in cases_of(preset)}
    return {(case, seed): replace(job, seed=seed) for case, job in jobs.items() for seed in context.seeds}


def _job(case: Case, laws: Sequence[Law], preset: Preset, context: Context) -> TextJob:
    """With the first seed."""
    flags = METHODS[case.method] | {
        "num_iterations": preset.num_iterations,
        "rollouts_per_iteration": preset.rollouts_per_iteration,
        "warm_start": "offline",
    }
    if case.method == "KL-RL":
        spread = spread_of(law.rewards for law in laws)
        flags["kl_coef"] = float(f"{kl_matched([mapped(law, case.reward_map, spread) for law in laws], case.n):.4g}")
    pool, heldout = map(str, context.pools)
    return TextJob(
        pool=pool,
        heldout=heldout,
        n=case.n,
        seed=context.seeds[0],
        work=context.work,
        num_samples=case.num_samples,
        samples_per_prompt=preset.samples_per_prompt,
        reward_map=case.reward_map,
        flags=tuple(sorted(flags.items())),
    )


def _describe(case: Case, job: TextJob, every: int) -> dict[str, Any]:
    return {
        "question": case.question,
        "method": case.method,
        "n": case.n,
        "num_samples": case.num_samples or every,
        "map": case.reward_map,
        "seed": job.seed,
        "kl_coef": dict(job.flags).get("kl_coef"),
    }


def _beside(target: dict[str, Any]) -> dict[str, float]:
    """Best-of-N's own figures, for the policy's row."""
    names = {"reward": "reward_bon", "win_rate": "win_rate_bon", "kl_policy_ref": "kl_bon_ref", "floor": "floor"}
    return {column: target[name] for name, column in names.items()}


def _moved(case: Case, job: TextJob, jobs: dict[tuple[Case, int], TextJob]) -> dict[str, Any]:
    """How far a map moved the policy from the one trained without it."""
    if case.question != "monotone" or case.reward_map == "identity":
        return {}
    return text_runs.moved(job, jobs[replace(case, reward_map="identity"), job.seed])


def panels(result: dict[str, Any]) -> list[Panel]:
    rows, every = result["rows"], result["pools"][0]["samples"]
    floors = [(target["n"], target["floor"]) for target in result["targets"]]
    floor = Line("best-of-N itself", [n for n, _ in floors], [value for _, value in floors], style="--")
    sizes = where(rows, question="samples")
    n = sizes[0]["n"]
    rule = sorted({row["num_samples"] for row in sizes})
    return [
        Panel("distance to best-of-N", "N", "KL(π_θ‖π_bon), nats", [*_both_methods(rows, "kl_policy_bon"), floor]),
        Panel("win rate", "N", "win rate", _both_methods(rows, "win_rate"), y_log=False),
        Panel(
            f"trained on M of {every} samples, N = {n}",
            "M",
            "KL(π_θ‖π_bon), nats",
            [
                _line(rows, "samples", "num_samples", "kl_policy_bon", "vbon"),
                Line(RULE, rule, [pool_size.kl_from_pool(m, n) for m in rule], style="--"),
            ],
        ),
    ]


def _both_methods(rows: list[Row], key: str) -> list[Line]:
    return [_line(rows, "backward-kl", "n", key, "vbon"), _line(rows, "n-beta", "n", key, "KL-RL, β matched")]


def _line(rows: list[Row], question: str, x: str, y: str, label: str) -> Line:
    """The first seed's figures, with their intervals over prompts."""
    chosen = where(rows, question=question, seed=rows[0]["seed"])
    return line(sorted(chosen, key=lambda row: float(row[x])), x, y, label, band=interval(y))
