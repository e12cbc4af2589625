"""SIGKILL at any moment, then the same command again: `python -m tests.faults.kills --kills 50` prints a table.

A parent imports the package once and forks a process that runs `vbon collect`, `train`, `evaluate` or `sweep`, or a
recipe. It is killed, alone or with the processes it started, at a random moment: after a random time, or at a random
file operation (open, rename, remove, …) of its own, which is where a half-written file would show. The same command
runs again until a run gets through. What is compared with an uninterrupted run: every file of the result, but for what
a clock gave. After every kill: what was reported complete before is still there, bit for bit.
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
import yaml
from tests.faults.commands import COLLECT, EVALUATE, SWEEP, TRAIN, TRAININGS, contents, write_ingredients

import vbon.pool.collect
import vbon.sweep.sweep
import vbon.sweep.workers
from vbon import cli
from vbon.pool.store import ReferencePool

MEMORY_DISK = "/dev/shm"  # what survives a killed process does not depend on the disk, only the waiting does
ATTEMPTS = 60  # after so many kills of one run, it may finish
# What Python reports of a process's own file operations (sys.addaudithook); a kill at the k-th of them.
FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate"})
RECIPE = Path(__file__).parents[2] / "recipes/verifiable"
PRESET = {
    "corpus": {"digits": 1, "sums": 30, "held_out": 0.5, "slip": 0.2},
    "reference": {"width": 16, "layers": 1, "heads": 2, "window": 8, "batch_size": 32, "steps": 200}
    | {"learning_rate": 0.01},
    "problems": {"train": 12, "train_samples": 16, "test": 6, "test_samples": 16},
    "collect": {"max_new_tokens": 3},
    "train": {"n": 2, "warm_start": "none", "num_iterations": 2, "rollouts_per_iteration": 16, "samples_per_prompt": 4}
    | {"minibatch_size": 8, "validation_fraction": 0.25, "tracker": "none"},
    "evaluate": {"samples_per_prompt": 4, "throughput": False},
}


@dataclass(frozen=True)
class Command:
    """A command to kill: its words, the folder it writes, and what runs the words."""

    words: str
    out: str
    main: Callable[[list[str]], int] = cli.main


@dataclass
class Count:
    """What a command came to. `lost`, `repeated` and `different` must be 0."""

    runs: int = 0
    kills: int = 0
    at_files: int = 0
    lost: int = 0
    repeated: int = 0
    different: int = 0
    notes: list[str] = field(default_factory=list)


def commands() -> dict[str, Command]:
    """Every long command by its name."""
    sys.path.insert(0, str(RECIPE))
    import run as recipe

    reward = "--reward reward.py:score"
    shards = "--num-samples 8 --batch-size 16 --samples-per-shard 8"  # of few prompts, so that there is much to lose
    return {
        "collect": Command(f"{COLLECT} prompts.jsonl {reward} {shards} --out new", "new"),
        **{
            f"train, {name}": Command(f"{TRAIN} {reward} {flags} --out new", "new") for name, flags in TRAININGS.items()
        },
        "evaluate": Command(f"{EVALUATE} --out new".replace("evaluate run", "evaluate model run run2"), "new"),
        "sweep": Command("sweep sweep.yaml --out new", "new"),
        "recipe": Command("--out new --preset preset.yaml --seeds 1", "new", recipe.main),
    }


def write_inputs(folder: Path) -> None:
    """The enumerable task, pools, two runs, and the settings of a sweep and of a recipe, in the current folder."""
    os.chdir(folder)
    assert in_child(lambda: write_ingredients(folder)) == 0
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"n": [2, 3]}))
    Path("preset.yaml").write_text(yaml.safe_dump(PRESET))
    reward = "--reward reward.py:score"
    for line in (
        f"{COLLECT} prompts.jsonl {reward} --num-samples 200 --out pool",
        f"{COLLECT} held.jsonl {reward} --out held",
        f"{TRAIN} {reward} --out run",
        f"{TRAIN} {reward} --out run2 --seed 1",
    ):
        status = os.waitpid(spawn(Command(line, "none")), 0)[1]
        assert status == 0, Path("log").read_text()


def spawn(command: Command, die_at: int | None = None) -> int:
    """Fork a process that runs the command, in a group of its own, which dies at its `die_at`-th file operation.

    Returns its id.
    """
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    descriptor = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        torch.set_num_threads(1)
        if die_at is not None:
            _die_at(die_at, command.out)
        status = command.main(command.words.split())
    finally:
        os._exit(status)
    return 0


def _die_at(count: int, folder: str) -> None:
    left = [count]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and any(folder in Path(str(one)).parts for one in arguments[:2]):
            left[0] -= 1
            if left[0] == 0:
                os.killpg(0, signal.SIGKILL)  # a worker of a sweep takes the sweep with it, which would go on without

    sys.addaudithook(hook)


def attempt(name: str, command: Command, random: Random, duration: float, count: Count) -> bool:
    """Run the command once and kill it at a random moment; whether it got through instead."""
    out = Path(command.out)
    before, at_file = complete(out), random.random() < 0.5
    child = spawn(command, random.randint(1, random.choice((60, 600))) if at_file else None)
    if not at_file:
        time.sleep(random.random() * duration)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if random.random() < 0.5 else os.kill)(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        count.kills += 1
        count.at_files += at_file
        after = complete(out)
        lost = [key for key, content in before.items() if after.get(key) != content]
        count.lost += bool(lost)
        count.notes += [f"{name}: was complete and is gone or changed: {', '.join(lost)}"] if lost else []
        return False
    if status != 0:
        count.different += 1
        count.notes.append(f"{name}: exit {status}: {Path('log').read_text()[-600:]}")
    return True


def complete(out: Path) -> dict[str, Any]:
    """What is reported complete at this moment, which no later kill may change.

    The shards that manifests list, the weights of runs that have their record, the tables of evaluations that have
    theirs, and for each run that there is a checkpoint.
    """
    found: dict[str, Any] = {}
    for manifest in out.rglob("manifest.json"):
        for shard in json.loads(manifest.read_text())["shards"]:
            path = manifest.parent / shard["name"]
            found[str(path)] = path.read_bytes() if path.exists() else None
    for record in out.rglob("vbon/run.json"):
        found[str(record)] = (record.parents[1] / "model.safetensors").read_bytes()
    for record in out.rglob("evaluation.json"):
        found |= {str(path): path.read_bytes() for path in [record, *record.parent.glob("*.parquet")]}
    return found | {str(path.parents[1]): "a checkpoint" for path in out.rglob("checkpoints/*/state.json")}


def one_run(name: str, command: Command, random: Random, duration: float, whole: dict[str, Any], count: Count) -> None:
    """Kill and repeat until it gets through, then compare."""
    out = Path(command.out)
    for _ in range(ATTEMPTS):
        if attempt(name, command, random, duration, count):
            break
    else:
        os.waitpid(spawn(command), 0)
    count.runs += 1
    found = contents(out)
    names = [key for key in {**whole, **found} if whole.get(key) != found.get(key)]
    if names:
        count.different += 1
        count.notes.append(f"{name}: differs in {', '.join(sorted(names)[:5])}")
    count.repeated += _repeated(found) + in_child(lambda: _open_pools(out))
    shutil.rmtree(out)


def _repeated(found: dict[str, Any]) -> int:
    """Rows of diaries that are there twice."""
    count = 0
    for diary in (content for key, content in found.items() if key.endswith("metrics.jsonl")):
        keys = [(row["iteration"], row.get("offline_step"), "validation/objective" in row) for row in diary]
        count += len(keys) - len(set(keys))
    return count


def _open_pools(out: Path) -> None:
    for manifest in out.rglob("manifest.json"):
        ReferencePool.open(manifest.parent)  # refuses a prompt that is there twice, and samples not numbered 0, 1, 2, …


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


def run(kills: int, seed: int, names: Sequence[str]) -> dict[str, Count]:
    """At least `kills` kills of each command named."""
    vbon.sweep.workers._START = "fork"  # the workers of a sweep come from a process that has imported everything, too
    with tempfile.TemporaryDirectory(
        prefix="vbon-kills-", dir=MEMORY_DISK if Path(MEMORY_DISK).is_dir() else None
    ) as folder:
        write_inputs(Path(folder))
        counts: dict[str, Count] = {}
        for name, command in commands().items():
            if name in names:
                counts[name] = count = Count()
                started = time.perf_counter()
                assert os.waitpid(spawn(command), 0)[1] == 0, Path("log").read_text()
                whole, duration = contents(Path(command.out)), time.perf_counter() - started
                shutil.rmtree(command.out)
                random = Random(f"{seed}/{name}")
                while count.kills < kills:
                    print(f"{name}: {count.kills} kills", file=sys.stderr)
                    one_run(name, command, random, duration, whole, count)
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
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=list(commands()), default=list(commands()))
    arguments = parser.parse_args()
    started = time.perf_counter()
    counts = run(arguments.kills, arguments.seed, arguments.commands)
    print(summary(counts))
    notes = [note for count in counts.values() for note in count.notes]
    print("\n".join(["", *notes]))
    kills = sum(count.kills for count in counts.values())
    print(f"{kills} kills, {len(notes)} failures, seed {arguments.seed}, {time.perf_counter() - started:.0f} s")
    return 1 if notes or any(count.lost or count.repeated or count.different for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
