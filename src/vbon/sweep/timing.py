"""One sample of a trained policy against best-of-N for each N: the policies of a sweep have one architecture."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console

from vbon.artifacts.json_files import read_object, write_json
from vbon.artifacts.sweep import SweepFolder
from vbon.config.sweep import Sweep
from vbon.evaluation import throughput
from vbon.evaluation.plan import make_plan
from vbon.models import load
from vbon.sweep.plan import Job


def timings(done: Sequence[Job], sweep: Sweep, folder: SweepFolder, console: Console) -> Mapping[str, Any]:
    """Time one sample of a policy against best-of-N, once, when nothing else of the sweep runs.

    Args:
        done: Finished runs; the first one's policy is timed.
        sweep: The settings of SWEEP.yaml.
        folder: The sweep's folder, where the result is kept.
        console: For the line that says what is being done.

    Returns:
        Completions per second and latencies in seconds by name, empty without a finished run.
    """
    kept = folder.speeds
    if kept.is_file():
        return read_object(kept)
    if not done:
        return {}
    console.print("timing one sample against best-of-n", highlight=False)
    speeds = _measure(done[0], sweep)
    record = {
        "completions_per_second": {name: speed.rate for name, speed in speeds.items()},
        "latency_seconds": {name: speed.latency for name, speed in speeds.items()},
    }
    write_json(kept, record, indent=1)
    return record


def _measure(job: Job, sweep: Sweep) -> dict[str, throughput.Speed]:
    config = job.evaluate
    assert config is not None
    torch.set_num_threads(config.num_threads or 1)
    plan = make_plan(config)
    policy = load.load_configured_policy(job.train.out, config, plan.device)
    speeds = {f"best-of-{n:g}": throughput.best_of_n_speed(dataclasses.replace(plan.task, n=n)) for n in sweep.n}
    return {"policy": throughput.one_sample_speed(policy, plan.task), **speeds}
