"""Jobs in several processes: one that fails, or dies, is recorded and the others continue."""

import multiprocessing
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from rich.console import Console

from vbon.artifacts.sweep import SweepFolder
from vbon.progress import ProgressBar
from vbon.sweep.plan import Job
from vbon.sweep.work import is_done, one_line, work

# A fork of a process that has imported torch, but started no thread of it, is ready at once.
_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_NAMES_SHOWN = 2


def run_jobs(jobs: Sequence[Job], folder: SweepFolder, num_workers: int, console: Console, title: str) -> None:
    """Do what is left of `jobs`. Jobs that failed before are tried again.

    Args:
        jobs: The runs, done or not.
        folder: The sweep's folder, where failures are recorded.
        num_workers: How many processes run at a time.
        console: For the progress and the failures.
        title: The name of the progress bar.
    """
    left = [job for job in jobs if not is_done(job)]
    for job in left:
        folder.forget_failure(job.name)
    with _Board(console, title, len(jobs), len(jobs) - len(left)) as board:
        _in_processes(left, folder, num_workers, board)


def _in_processes(jobs: Sequence[Job], folder: SweepFolder, num_workers: int, board: "_Board") -> None:
    context: Any = multiprocessing.get_context(_START)
    if _START == "forkserver":
        context.set_forkserver_preload(["vbon.sweep.work"])
    waiting = deque(jobs)
    running: dict[BaseProcess, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_workers:
                job = waiting.popleft()
                process = context.Process(target=work, args=(job, str(folder.path)), daemon=True)
                process.start()
                running[process] = job
            board.show(list(running.values()))
            wait([process.sentinel for process in running], timeout=1.0)
            for process in [one for one in running if not one.is_alive()]:
                _close(process, running.pop(process), folder, board)
    finally:
        for process in running:
            process.terminate()
            process.join()


def _close(process: BaseProcess, job: Job, folder: SweepFolder, board: "_Board") -> None:
    process.join()
    if not is_done(job) and folder.reason(job.name) is None:
        code = process.exitcode or 0
        died = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        folder.fail(job.name, one_line(f"its process {died}; see {job.log}"))
    board.close(job, folder.reason(job.name))


class _Board:
    """The live line: done, failed, running, time left. Where stderr is no terminal, a line for each run that ends."""

    def __init__(self, console: Console, title: str, total: int, done: int):
        self._console, self._failed = console, 0
        self._bar = ProgressBar(title, total, console=console)
        self._bar.advance(done)
        if done:
            console.print(f"{title}: {done} of {total} done before", highlight=False)

    def __enter__(self) -> "_Board":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.show("")
        self._bar.__exit__()

    def show(self, running: Sequence[Job]) -> None:
        names = ", ".join(job.name for job in running[:_NAMES_SHOWN]) + (" …" if len(running) > _NAMES_SHOWN else "")
        failed = f"[red]{self._failed} failed[/] " if self._failed else ""
        self._bar.show(failed + names)

    def close(self, job: Job, reason: str | None) -> None:
        self._bar.advance()
        if reason is not None:
            self._failed += 1
            self._console.print(f"[red]{job.name} failed:[/] {reason}", highlight=False, soft_wrap=True)
        elif not self._console.is_terminal:
            self._console.print(f"{job.name} done", highlight=False)
