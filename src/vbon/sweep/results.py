"""The results of a sweep: sweep.json and table.md, a function of the runs alone, and timings.json beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from vbon.artifacts.evaluation import read_record as read_evaluation
from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import write_json
from vbon.artifacts.run import RunFolder
from vbon.artifacts.sweep import FORMAT_VERSION, SweepFolder, settings_of
from vbon.config.methods import METHODS, MethodName
from vbon.config.sweep import Sweep
from vbon.pool.store import ReferencePool
from vbon.sweep.cost import Cost, GainScales, first_nearly_there, measured, total
from vbon.sweep.plan import Job, Scales
from vbon.sweep.search import Search
from vbon.sweep.table import table
from vbon.sweep.work import is_done

# What every evaluation repeats: taken once, from the first run of each N.
_SHARED = ("num_prompts", "num_samples", "samples_per_prompt", "judges", "rank_test")


def write_results(
    sweep: Sweep,
    folder: SweepFolder,
    jobs: Sequence[Job],
    search: Search,
    scales: Scales,
    pool: ReferencePool,
    speeds: Mapping[str, Any],
) -> dict[str, Any]:
    """Gather the runs and write sweep.json, table.md and timings.json.

    Args:
        sweep: The settings of SWEEP.yaml.
        folder: The sweep's folder.
        jobs: The runs of the grid, those that failed included.
        search: The learning rates that were tried and chosen.
        scales: β for each N of the methods that have one.
        pool: The pool that all runs learn from.
        speeds: Completions per second and latencies in seconds, for timings.json.

    Returns:
        The content of sweep.json.
    """
    gains = GainScales(pool)
    done = [job for job in jobs if is_done(job)]
    diaries = {job.name: measured(job, gains.of(job)) for job in done}
    evaluations = {job.name: read_evaluation(folder.evaluation(job.name)) for job in done}
    costs = {name: (total(diary), first_nearly_there(diary)) for name, diary in diaries.items()}
    record = {
        "format_version": FORMAT_VERSION,
        "settings": settings_of(sweep),
        "methods": {name: _method(name, sweep, scales, search) for name in sweep.methods},
        "pool": {"num_prompts": len(pool), "num_samples": int(pool.num_samples.min()), "rollouts": len(pool.rewards)},
        "grid": _grid(sweep, done, evaluations),
        "runs": [_run(job, folder, evaluations.get(job.name), costs.get(job.name)) for job in jobs],
    }
    seconds = {name: {"total": whole.seconds, "nearly": near and near.seconds} for name, (whole, near) in costs.items()}
    timings = {"format_version": FORMAT_VERSION, "seconds": seconds, **speeds}
    write_json(folder.timings, timings, indent=1)
    replace_file(folder.table, table(record).encode())
    write_json(folder.record, record, indent=1)
    return record


def _method(name: MethodName, sweep: Sweep, scales: Scales, search: Search) -> dict[str, Any]:
    method = METHODS[name]
    return {
        "summary": method.summary,
        "family": method.family,
        "kl_coef": list(scales[name]) if name in scales else None,
        "matched": name in scales and "kl_coef" not in sweep.methods[name],
        "learning_rate": search.chosen.get(name),
        "search": [{"learning_rate": rate, "objective": value} for rate, value in search.tried.get(name, {}).items()],
    }


def _grid(sweep: Sweep, done: Sequence[Job], evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each N: best-of-N itself, the reference, and the floor of KL(π_θ‖π_bon), as the first run there saw them."""
    rows = []
    for n in sweep.n:
        names = [job.name for job in done if job.n == n]
        if names:
            one = evaluations[names[0]]
            rows.append(
                {"n": n, "target": one["target"]["metrics"], "reference": one["reference"]["metrics"]}
                | {"floor": one["floor"], "evaluation": names[0]}
                | {key: one[key] for key in _SHARED}
            )
    return rows


def _run(
    job: Job, folder: SweepFolder, evaluation: Mapping[str, Any] | None, costs: tuple[Cost, Cost | None] | None
) -> dict[str, Any]:
    row = {
        "name": job.name,
        "method": job.method,
        "n": job.n,
        "kl_coef": job.kl_coef,
        "seed": job.seed,
        "status": "failed" if evaluation is None else "done",
        "reason": folder.reason(job.name),
    }
    if evaluation is None or costs is None:
        return row
    whole, nearly = costs
    policy = evaluation["policies"][job.name]
    return row | {
        "metrics": policy["metrics"],
        "cost": _counts(whole),
        "cost_nearly": None if nearly is None else _counts(nearly),
        "out_of_time": bool(RunFolder(job.train.out).read_record().result.get("out_of_time")),
        "warnings": evaluation["warnings"],
    }


def _counts(cost: Cost) -> dict[str, int]:
    return {"rollouts": cost.rollouts, "reward_calls": cost.rollouts, "offline_steps": cost.offline_steps}
