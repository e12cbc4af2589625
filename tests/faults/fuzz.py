"""Damaged and generated files into every reader: `python -m tests.faults.fuzz --inputs 100000` prints a table.
Each input is a function of (seed, its number). It is read in a worker process under a time limit; what is not read must
be refused by a VbonError of one line, leave no file behind, and execute nothing. Three quarters of the inputs are valid
files with something changed, the others arbitrary bytes, another reader's file, or the valid file itself.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a damaged name of a model is no reason to ask

import torch
from tests.faults import config_targets as of_configs
from tests.faults import model_targets as of_models
from tests.faults import pool_targets as of_pools
from tests.faults import reward_targets as of_rewards
from tests.faults import run_targets as of_runs
from tests.faults.mutate import arbitrary, mutate_bytes, mutate_json, mutate_table, mutate_tensors
from tests.faults.reader import Target
from tests.faults.transparent import transparent

from vbon.errors import VbonError

MAKERS = (
    *(of_pools.prompts, of_pools.imports, of_pools.manifests, of_pools.shards),
    *(of_configs.configs_of_verbs, of_configs.sections, of_configs.sweeps, of_configs.declarations),
    *(of_configs.resumptions, of_runs.runs, of_runs.evaluations, of_runs.samples, of_runs.compared, of_runs.diaries),
    *(of_runs.states, of_runs.tensors, of_runs.answers),
    *(of_models.checkpoints, of_models.tokenizers, of_models.templates, of_rewards.python_rewards),
    transparent,
)
MUTATIONS = {"json": mutate_json, "table": mutate_table, "tensors": mutate_tensors}
CPU_LIMIT = 10.0  # seconds of computing an input may take
TIME_LIMIT = 120.0  # seconds in all, waiting included; a loaded machine may stand still for a while
MEMORY = 12 * 2**30  # bytes of address space: a file that claims to be huge must not take the machine with it
MEMORY_DISK = "/dev/shm"  # a hundred thousand files that live for a millisecond need no real one
CHUNK = 5000  # inputs a worker reads before the next one starts afresh
CANARY = "canary"  # what the snippets would create, could they execute


class Hang(KeyboardInterrupt):
    """The time limit passed. As Ctrl-C is, it is swallowed by no reader."""


def targets(folder: Path) -> list[Target]:
    """Every reader of the package with files that it accepts, which lie under `folder`."""
    made = []
    for maker in MAKERS:
        place = folder / maker.__name__
        place.mkdir()
        made.append(maker(place))
    return made


def draw(number: int, seed: int, all_targets: Sequence[Target]) -> tuple[Target, str, str, bytes]:
    """(target, how it was made, the suffix, the bytes) of input `number`."""
    random = Random(f"{seed}/{number}")
    target = random.choices(all_targets, [one.share for one in all_targets])[0]
    if target.make is not None and (not target.valid or random.random() < 0.5):
        suffix, content = target.make(random)
        return target, "generated", suffix, content
    valid = random.choice(target.valid)
    how = random.choices(("structure", "bytes", "arbitrary", "foreign", "valid"), (40, 35, 12, 8, 5))[0]
    if how == "foreign":
        content = random.choice(random.choice([one for one in all_targets if one.valid]).valid).content
    elif how == "arbitrary":
        content = arbitrary(random)
    elif how == "valid":
        content = valid.content
    elif how == "bytes" or valid.kind == "text":
        content = mutate_bytes(valid.content, random)
    else:
        content = MUTATIONS[valid.kind](valid.content, random)
    return target, how, valid.suffix, content


def outcome(target: Target, suffix: str, content: bytes, folder: Path) -> str:
    """read, refused, or what went wrong: hang, traceback, several lines, files left."""
    before = sorted(os.walk(folder))
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT)
    try:
        target.read(content, suffix)
        found = "read"
    except VbonError as error:
        found = "refused" if "\n" not in str(error) and str(error) else f"several lines: {error!r:.300}"
    except Hang:
        found = "hang"
    except Exception:
        found = "traceback: " + traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return found if sorted(os.walk(folder)) == before else f"files left after {found}"


def work(numbers: range, seed: int, folder: Path, results: Path) -> None:
    """Read these inputs; one line of JSON for each, so that the parent knows where a worker died."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _hang)
    signal.signal(signal.SIGPROF, _hang)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    all_targets = targets(folder)
    with open(results, "a", encoding="utf-8", buffering=1) as file:
        for number in numbers:
            target, how, suffix, content = draw(number, seed, all_targets)
            started = time.process_time()
            found = outcome(target, suffix, content, folder)
            row = [number, target.name, how, found, time.process_time() - started]
            file.write(json.dumps(row, ensure_ascii=True) + "\n")


def run(inputs: int, seed: int, *, processes: int = 1, first: int = 0) -> list[list[Any]]:
    """The rows of inputs `first`, `first` + 1, …. Workers are forked, so that the package is imported once."""
    with tempfile.TemporaryDirectory(
        prefix="vbon-fuzz-", dir=MEMORY_DISK if Path(MEMORY_DISK).is_dir() else None
    ) as name:
        folder = Path(name)
        last = first + inputs
        chunks = [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]
        while chunks:
            now, chunks = chunks[:processes], chunks[processes:]
            chunks = [*_unread(now, seed, folder), *chunks]
        rows = [json.loads(line) for line in _lines(folder)]
        assert not list(folder.rglob(CANARY)), "an input was executed"
        return rows


def _unread(chunks: Sequence[range], seed: int, folder: Path) -> list[range]:
    """Read these chunks side by side; what is left of those whose worker died, the fatal input reported and skipped."""
    started = []
    for chunk in chunks:
        place, results = folder / f"work-{chunk.start}", folder / f"{chunk.start:09d}.jsonl"
        place.mkdir()
        results.touch()
        process = multiprocessing.get_context("fork").Process(target=work, args=(chunk, seed, place, results))
        process.start()
        started.append((process, chunk, place, results))
    return [rest for one in started for rest in _finish(*one)]


def _finish(process: Any, chunk: range, place: Path, results: Path) -> list[range]:
    process.join(TIME_LIMIT * 2 + len(chunk))
    if process.is_alive():
        process.kill()
        process.join()
    assert not list(place.rglob(CANARY)), "an input was executed"
    shutil.rmtree(place)
    done = len(results.read_text().splitlines())
    if done == len(chunk):
        return []
    with open(results, "a") as file:
        file.write(json.dumps([chunk[done], "?", "?", f"worker died: exit {process.exitcode}", 0.0]) + "\n")
    rest = chunk[done + 1 :]
    return [rest] if rest else []


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from path.read_text(encoding="utf-8").splitlines()


def _hang(signum: int, frame: FrameType | None) -> None:
    raise Hang


def summary(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table: for each reader how many inputs, how they were made, and what came of them."""
    lines = ["| reader | inputs | changed valid files | read | refused in one line | failures | slowest |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    names = sorted({row[1] for row in rows})
    for name in [*names, "all"]:
        mine = [row for row in rows if name in (row[1], "all")]
        made, found = Counter(row[2] for row in mine), Counter(row[3].partition(":")[0] for row in mine)
        changed, bad = made["structure"] + made["bytes"], len(mine) - found["read"] - found["refused"]
        slowest = max(row[4] for row in mine)
        lines.append(
            f"| {name} | {len(mine)} | {changed / len(mine):.0%} | {found['read']} | {found['refused']} | {bad} "
            f"| {slowest:.2f} s |"
        )
    return "\n".join(lines)


def failures(rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    return [row for row in rows if row[3] not in ("read", "refused")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to go on where a run ended")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = run(arguments.inputs, arguments.seed, processes=arguments.processes, first=arguments.first)
    print(summary(rows))
    bad = failures(rows)
    seen: Counter[str] = Counter()
    for number, name, how, found, _ in bad:
        kind = found.strip().rpartition("\n")[2][:28] + name
        seen[kind] += 1
        if seen[kind] <= 2:
            print(f"\ninput {number} ({name}, {how}): {found}")
    print(f"\n{len(rows)} inputs, {len(bad)} failures, seed {arguments.seed}, {time.perf_counter() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
