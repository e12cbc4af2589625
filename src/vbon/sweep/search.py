"""Each method's learning rate: the same few rates, one grid point, validation prompts, its own objective."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vbon.artifacts.files import replace_folder
from vbon.artifacts.run import RunFolder
from vbon.config.methods import MethodName
from vbon.config.sweep import Sweep
from vbon.errors import VbonError
from vbon.sweep.plan import Job, rates_of
from vbon.sweep.work import is_done, is_trained


@dataclass(frozen=True)
class Search:
    """Method → the rate chosen, and → rate → its objective on validation prompts (None: that run failed).

    A method whose every run failed has none chosen: its grid runs at the library's default, and fails or not.
    """

    chosen: Mapping[MethodName, float]
    tried: Mapping[MethodName, Mapping[float, float | None]]


def choose(sweep: Sweep, jobs: Mapping[MethodName, Mapping[float, Job]]) -> Search:
    """The rate with the highest objective for each method; a single rate is taken without a search."""
    tried = {method: {rate: _objective(job) for rate, job in by_rate.items()} for method, by_rate in jobs.items()}
    chosen = {method: rates_of(sweep, method)[0] for method in sweep.methods if len(rates_of(sweep, method)) == 1}
    for method, objectives in tried.items():
        known = {rate: value for rate, value in objectives.items() if value is not None}
        if known:
            chosen[method] = max(known, key=lambda rate: known[rate])
    return Search(chosen, tried)


def reuse_search_runs(jobs: Sequence[Job], searching: Mapping[MethodName, Mapping[float, Job]]) -> None:
    """Link each run of the grid that the search has trained already with exactly the same settings."""
    trained = [job for by_rate in searching.values() for job in by_rate.values() if is_trained(job)]
    for job in jobs:
        same = [one for one in trained if dataclasses.replace(one.train, out=job.train.out) == job.train]
        target = Path(job.train.out)
        if same and not target.exists():
            with replace_folder(target) as folder:
                shutil.copytree(same[0].train.out, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """The same file under a second name, or a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _objective(job: Job) -> float | None:
    """What the run itself chose its checkpoint by."""
    if not is_done(job):
        return None
    run = RunFolder(job.train.out)
    value = run.read_record().result.get("validation/objective")
    if not isinstance(value, int | float):
        raise VbonError(f"{run.record}: result has no validation/objective")
    return float(value)
