"""SIGKILL at any moment, then resume: `python tests/faults/kills.py --kills 200` prints a table of counts.

A parent imports the package once and forks a process that runs `vbon collect` or `vbon train` through `vbon.cli.main`.
It is killed at a random moment: after a random time, or at a random file operation (open, rename, remove, …) of its
own, which is where a half-written file would show. The same command runs again until a run gets through. What is
compared with an uninterrupted run: the bytes of every shard, of the trained model and of the last checkpoint (weights,
critic, moments, state), and each row of the diary but for its times. After every kill: what the manifest listed before
is still there, bit for bit.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401  (what every child would otherwise import for itself)
from victims import TRAINED, Subject, collect_arguments, diary, subjects, world

import vbon.flags
import vbon.pool.collect
import vbon.training.train  # noqa: F401
from vbon import cli
from vbon.pool.store import ReferencePool

MEMORY_DISK = "/dev/shm"  # what survives a killed process does not depend on the disk, only the waiting does
ATTEMPTS = 60  # after so many kills of one run, it may finish
# What Python reports of a process's own file operations (sys.addaudithook); a kill at the k-th of them.
FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate"})


@dataclass
class Count:
    """What a subject came to. `lost`, `repeated` and `different` must be 0."""

    runs: int = 0
    kills: int = 0
    at_files: int = 0
    lost: int = 0
    repeated: int = 0
    different: int = 0
    notes: list[str] = field(default_factory=list)


def make_world(folder: Path) -> Path:
    """A model, a reward, prompts and a pool."""
    assert in_child(lambda: world.save_model(folder / "ref")) == 0
    (folder / "reward.py").write_text(world.REWARD)
    prompts = [{"prompt": prompt} for prompt in world.PROMPTS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    status = spawn([*collect_arguments(folder)(folder / "pool"), "--num-samples", "200"], folder / "log")
    assert os.waitstatus_to_exitcode(os.waitpid(status, 0)[1]) == 0, (folder / "log").read_text()
    return folder


def spawn(arguments: Sequence[str], log: Path, die_at: int | None = None) -> int:
    """Fork a process that runs `vbon ARGUMENTS`; it kills itself at its `die_at`-th file operation. Returns its id."""
    child = os.fork()
    if child:
        return child
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        torch.set_num_threads(1)
        if die_at is not None:
            _die_at(die_at, arguments[arguments.index("--out") + 1])
        status = cli.main(arguments)
    finally:
        os._exit(status)
    return 0


def _die_at(count: int, folder: str) -> None:
    left = [count]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and any(str(one).startswith(folder) for one in arguments[:2]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def attempt(subject: Subject, out: Path, random: Random, duration: float, count: Count) -> bool:
    """Run the command once and kill it at a random moment; whether it got through instead."""
    before, log = subject.kept(out), out.with_suffix(".log")
    at_file = random.random() < 0.5
    child = spawn(subject.arguments(out), log, random.randint(1, 60) if at_file else None)
    if not at_file:
        time.sleep(random.random() * duration)
        _kill(child)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        count.kills += 1
        count.at_files += at_file
        _check_kept(subject, out, before, count)
        return False
    if status != 0:
        count.different += 1
        count.notes.append(f"{subject.name}: exit {status}: {log.read_text()[-600:]}")
    return True


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _check_kept(subject: Subject, out: Path, before: dict[str, Any], count: Count) -> None:
    after = subject.kept(out)
    if subject.name == "collect" and any(after.get(name) != content for name, content in before.items()):
        count.lost += 1
        count.notes.append("collect: a shard that was listed is gone or changed")
    if subject.name != "collect" and before and (not after or max(after) < max(before)):
        count.lost += 1
        count.notes.append(f"{subject.name}: the newest checkpoint went from {max(before)} to {after}")


def one_run(subject: Subject, out: Path, random: Random, duration: float, whole: dict[str, Any], count: Count) -> None:
    """Kill and resume until it gets through, then compare."""
    for _ in range(ATTEMPTS):
        if attempt(subject, out, random, duration, count):
            break
    else:
        child = spawn(subject.arguments(out), out.with_suffix(".log"))
        os.waitpid(child, 0)
    count.runs += 1
    try:
        found = subject.contents(out)
    except (OSError, ValueError) as error:
        found = {"error": error}
    names = [name for name in {**whole, **found} if whole.get(name) != found.get(name)]
    if names:
        count.different += 1
        count.notes.append(f"{subject.name}: differs in {', '.join(sorted(names)[:5])}")
    count.repeated += _repeated(subject, out)


def _repeated(subject: Subject, out: Path) -> int:
    """Samples of a pool, or rows of a diary, that are there twice."""
    if subject.name == "collect":
        return in_child(lambda: _check_pool(out))
    keys = [(row["iteration"], row.get("offline_step"), "validation/objective" in row) for row in diary(out)]
    return len(keys) - len(set(keys))


def _check_pool(out: Path) -> None:
    pool = ReferencePool.open(out)  # refuses a prompt that is there twice, and samples not numbered 0, 1, 2, …
    assert len(pool.rewards) == len(world.PROMPTS) * 8


def in_child(function: Callable[[], Any]) -> int:
    """Exit status of `function` in a forked process: this one starts no thread that a later fork would lack."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def uninterrupted(subject: Subject, out: Path) -> tuple[dict[str, Any], float]:
    """(contents, seconds) of a run that nobody disturbs."""
    started = time.perf_counter()
    status = os.waitpid(spawn(subject.arguments(out), out.with_suffix(".log")), 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, out.with_suffix(".log").read_text()
    return subject.contents(out), time.perf_counter() - started


def run(kills: int, seed: int, trained: Sequence[str]) -> dict[str, Count]:
    """At least `kills` kills, half of them over collect, the others over the trainings named."""
    with tempfile.TemporaryDirectory(
        prefix="vbon-kills-", dir=MEMORY_DISK if Path(MEMORY_DISK).is_dir() else None
    ) as name:
        folder = make_world(Path(name))
        counts = {}
        for subject in subjects(folder, trained):
            share = kills / 2 if subject.name == "collect" else kills / 2 / len(trained)
            counts[subject.name] = count = Count()
            whole, duration = uninterrupted(subject, folder / "whole")
            random = Random(f"{seed}/{subject.name}")
            while count.kills < share:
                print(f"{subject.name}: {count.kills} kills", file=sys.stderr)
                one_run(subject, folder / f"run-{count.runs}", random, duration, whole, count)
            for path in [*folder.glob("run-*"), *folder.glob("whole*")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return counts


def summary(counts: dict[str, Count]) -> str:
    """A Markdown table."""
    lines = ["| command | SIGKILLs | of them at a file operation | runs finished | lost | repeated | different |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    names = ("kills", "at_files", "runs", "lost", "repeated", "different")
    rows = {name: [getattr(count, key) for key in names] for name, count in counts.items()}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in rows.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", nargs="+", choices=list(TRAINED), default=list(TRAINED))
    arguments = parser.parse_args()
    started = time.perf_counter()
    counts = run(arguments.kills, arguments.seed, arguments.trained)
    print(summary(counts))
    notes = [note for count in counts.values() for note in count.notes]
    print("\n".join(["", *notes]))
    kills = sum(count.kills for count in counts.values())
    print(f"{kills} kills, {len(notes)} failures, seed {arguments.seed}, {time.perf_counter() - started:.0f} s")
    return 1 if notes or any(count.lost or count.repeated or count.different for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
