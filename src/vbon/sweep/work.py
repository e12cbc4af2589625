"""One job in a process of its own: train (or continue), evaluate, leave one line behind where it fails."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from vbon.artifacts.evaluation import is_evaluation
from vbon.artifacts.run import RunFolder
from vbon.artifacts.sweep import SweepFolder
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.sweep.plan import Job
from vbon.training.train import train


def work(job: Job, out: str) -> None:
    """Do what is left of a job, with its output in its log and its failure in the sweep's folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, so that it alone says what was interrupted
    signal.signal(signal.SIGTERM, _stop)
    _end_with_parent()
    _redirect_output_to(Path(job.log))
    try:
        do(job)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exc()
        expected = isinstance(error, VbonError | OSError)
        SweepFolder(out).fail(job.name, one_line(str(error) if expected else f"{type(error).__name__}: {error}"))


def do(job: Job) -> None:
    """Start, continue or keep the run; evaluate it unless that is done."""
    train(job.train)
    if job.evaluate is not None and not is_done(job):
        evaluate_command(job.evaluate)


def is_trained(job: Job) -> bool:
    """Return True if the run is finished."""
    return RunFolder(job.train.out).is_finished


def is_done(job: Job) -> bool:
    """Return True if nothing is left to do: evaluation.json is written last."""
    return is_trained(job) and (job.evaluate is None or is_evaluation(Path(job.evaluate.out)))


def one_line(text: str) -> str:
    """A reason as it stands in a table."""
    return " ".join(text.split())[:300] or "no reason given"


def _stop(*_: object) -> None:
    sys.exit(1)  # a process that is killed outright leaves its semaphores, and a warning about them


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)  # a run may be written by one process: a sweep that is started again must not meet us

    threading.Thread(target=wait, daemon=True).start()


def _redirect_output_to(log: Path) -> None:
    """Write everything that this process prints from now on to the log."""
    with open(log, "a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
