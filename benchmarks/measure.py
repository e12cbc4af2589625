"""Paired timings and how they are shown. Seconds depend on the machine and its other work; ratios of pairs do not."""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = "wall"


def now() -> float:
    """Seconds on the clock of `--clock`."""
    return CLOCKS[_clock]()


def interleave(contenders: dict[str, Callable[[], object]], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C …: what else the machine does falls on all of them alike."""
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = now()
            call()
            seconds[name].append(now() - start)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """Median over pairs of how many times longer the first took."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit log seconds = a + b·log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def rows_of(seconds: dict[str, list[float]], ours: str, work: float) -> list[dict[str, Any]]:
    """One table row a contender: median seconds, work per second, and time over the time of `ours`."""
    return [
        {
            "contender": name,
            "seconds": round(statistics.median(times), 5),
            "per_second": round(work / statistics.median(times), 1),
            f"time / {ours}": round(ratio(times, seconds[ours]), 3),
        }
        for name, times in seconds.items()
    ]


class _SetClock(argparse.Action):
    """Sets the clock of the whole process."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        global _clock
        _clock = namespace.clock = values


def arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        action=_SetClock,
        help="cpu: time of this process, for one thread on a machine with other work",
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes that run everything; proves no speed")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds, after two to warm up")
    return parser


def report(rows: list[dict[str, Any]], args: argparse.Namespace, **more: Any) -> None:
    """Print the rows as a table, or as several where columns change; with --json, write them, `more`, and on what.

    That is the versions, cores and threads, and the GPU where `args.device` is one.
    """
    for _, group in itertools.groupby(rows, key=tuple):
        _print_table(list(group))
    if args.json:
        setting = {
            "hardware": _hardware(getattr(args, "device", "cpu")),
            "threads": args.threads,
            "clock": args.clock,
            "repeats": args.repeats,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        args.json.write_text(json.dumps({"setting": setting, "rows": rows, **more}, indent=1) + "\n")


def _print_table(rows: list[dict[str, Any]]) -> None:
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in [dict(zip(widths, widths, strict=True)), *rows]:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()))


def _hardware(device: str) -> str:
    cores = f"{os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if device.startswith("cuda") else cores
