"""`vbon sweep`: search the learning rates, train and evaluate every run, time the policies, write table and report."""

import dataclasses
from typing import Any

from rich.console import Console

from vbon.artifacts.sweep import SweepFolder
from vbon.config.evaluate import ReportConfig
from vbon.config.sweep import SweepConfig, read_sweep
from vbon.errors import VbonError
from vbon.pool.store import ReferencePool
from vbon.report.report import report_command
from vbon.sweep.matching import scales_of
from vbon.sweep.plan import Grid
from vbon.sweep.results import write_results
from vbon.sweep.search import choose, reuse_search_runs
from vbon.sweep.table import print_table
from vbon.sweep.timing import timings
from vbon.sweep.work import is_done
from vbon.sweep.workers import run_jobs


def sweep_command(config: SweepConfig) -> dict[str, Any]:
    """Do what is left of the sweep, print its table, return its runs and its report.

    Stopped at any moment, the same command continues: a finished run is not repeated, a failed one is tried again.
    Raises VbonError for a mistake in SWEEP.yaml, other settings than it was started with, and, at the end, runs that
    failed: the others are in the table and the report by then.
    """
    sweep = read_sweep(config.file)
    if config.out is not None:
        sweep = dataclasses.replace(sweep, out=config.out)
    folder = SweepFolder(sweep.out)
    pool = ReferencePool.open(sweep.pool)
    ReferencePool.open(sweep.heldout)
    grid = Grid(sweep, folder, scales_of(sweep, pool), config.num_threads)
    grid.jobs({})  # every config is checked before the first run
    lock = folder.open(sweep)
    try:
        return _run(grid, pool, config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder.path}: stopped; the same command continues") from None
    finally:
        lock.release()


def _run(grid: Grid, pool: ReferencePool, config: SweepConfig) -> dict[str, Any]:
    sweep, folder = grid.sweep, grid.folder
    console = Console(stderr=True)
    searching = grid.search_jobs()
    tried = [job for by_rate in searching.values() for job in by_rate.values()]
    if tried:
        run_jobs(tried, folder, config.num_workers, console, "learning rates")
    search = choose(sweep, searching)
    jobs = grid.jobs(search.chosen)
    reuse_search_runs(jobs, searching)
    run_jobs(jobs, folder, config.num_workers, console, "runs")
    done = [job for job in jobs if is_done(job)]
    speeds = timings(done, sweep, folder, console)
    print_table(write_results(sweep, folder, jobs, search, grid.scales, pool, speeds), Console())
    if done:
        report_command(ReportConfig(dirs=(str(folder.path),), out=str(folder.report)))
    failed = len(jobs) - len(done)
    if failed:
        raise VbonError(f"{failed} of {len(jobs)} runs failed, {folder.table} says why; the same command tries again")
    return {"out": str(folder.path), "runs": [job.name for job in done], "report": str(folder.report)}
