"""A memory plan as lines for the console."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from vbon.errors import VbonError
from vbon.models.device_memory import available_bytes, process_bytes
from vbon.models.memory_plan import GIGABYTE, Item, MemoryPlan, Work, sampling_plan
from vbon.models.network_size import sampling_size, weights_in

WIDTH = 58
POOL_IN_MEMORY = 2  # bytes in memory for each byte of a pool's files
STORED_PER_COMPLETION = 500  # bytes of a completion of 64 tokens in a pool: text, ids, reward
CUDA_CONTEXT = 0.5 * GIGABYTE
ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Shown(NamedTuple):
    """The device and its memory that a plan is compared with, and the disk that is needed, and where."""

    device: str
    available: float | None
    disk: float
    out: Path


def around(device: torch.device, reward: str | None, reward_dtype: str, pool: Path | None = None) -> tuple[Item, ...]:
    """List what is in memory beside a model: the process, a reward model in a directory, and a pool.

    On a GPU the process counts by its context alone, and the pool is in the machine's memory.

    Args:
        device: where the model is.
        reward: the name of the reward, of which a directory is counted; None for none.
        reward_dtype: the type of its weights.
        pool: the folder of the pool, or None.

    Returns:
        The items.
    """
    on_cpu = device.type == "cpu"
    items = [Item("Python and its libraries", process_bytes()) if on_cpu else Item("context of the GPU", CUDA_CONTEXT)]
    folder = None if reward is None else Path(reward.rpartition("#")[0] or reward)
    if folder is not None and folder.is_dir():
        items.append(Item("reward model", float(weights_in(folder) * ITEMSIZES[reward_dtype])))
    if on_cpu and pool is not None:
        stored = sum(file.stat().st_size for file in pool.glob("**/*.parquet"))
        items.append(Item("pool", float(POOL_IN_MEMORY * stored)))
    return tuple(items)


def plan_lines(plan: MemoryPlan, shown: Shown, helps: Sequence[tuple[str, float]] = ()) -> list[str]:
    """Format a plan: each item, the predicted peak against what there is, the disk, and what helps.

    Args:
        plan: the plan.
        shown: what it is compared with.
        helps: flags, and the peak with them.

    Returns:
        The lines.
    """
    lines = ["memory that this will need (predicted):"]
    lines += [_line(item.what, item.bytes) for item in plan.always if item.bytes]
    for phase, items in plan.phases.items():
        lines += [_line(f"{phase}: {item.what}", item.bytes) for item in items]
    phases = ", ".join(plan.phases)
    lines.append(_line("peak" + (f", with the larger of {phases}" if len(plan.phases) > 1 else ""), plan.peak))
    if shown.available is not None:
        there = f"{shown.device} has {shown.available / GIGABYTE:.2f} GB"
        lines.append(f"  {there}: it fits" if plan.peak <= shown.available else f"  {there}: IT DOES NOT FIT")
    for flags, peak in helps:
        fits = "fits" if shown.available is not None and peak <= shown.available else "does not fit either"
        lines.append(f"    with {flags}: {peak / GIGABYTE:.2f} GB, which {fits}")
    lines.append(_disk(shown))
    return lines


def sampling_lines(
    model: PreTrainedModel, rows: int, longest: int, stored: int, out: str, *, reward: str | None, models: int = 1
) -> list[str]:
    """Plan a command that samples from a model that is loaded, and format the plan.

    Args:
        model: the model.
        rows: completions that are sampled together.
        longest: tokens of the longest row, prompt and completion.
        stored: completions that will be on the disk.
        out: where.
        reward: the reward, of which only a directory is counted, in float32.
        models: how many models of this size are loaded at the same time.

    Returns:
        The lines.
    """
    context, *beside = around(model.device, reward, "float32")
    loaded = sum(weight.nbytes for weight in model.parameters()) if model.device.type == "cpu" else 0
    beside = [context._replace(bytes=context.bytes - loaded), *beside]  # what the process holds without its model
    work = Work(device=model.device.type, longest=longest, rollouts=rows, beside=tuple(beside))
    plan = sampling_plan(sampling_size(model), work, models=models)
    available = available_bytes(model.device)
    if available is not None and model.device.type != "cpu":
        available += sum(weight.nbytes for weight in model.parameters())  # which are there already
    return plan_lines(plan, Shown(str(model.device), available, float(stored * STORED_PER_COMPLETION), Path(out)))


def show(make: Callable[[], list[str]]) -> None:
    """Print the lines of a plan on standard error; a plan that cannot be made is one line and stops nothing."""
    try:
        lines = make()
    except (VbonError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        lines = [f"no memory plan for this model: {' '.join(str(error).split())[:160]}"]
    print("\n".join(lines), file=sys.stderr)


def _line(what: str, size: float) -> str:
    return f"  {what:<{WIDTH}} {size / GIGABYTE:8.2f} GB"


def _disk(shown: Shown) -> str:
    folder = next(one for one in (shown.out.absolute(), *shown.out.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    short = "" if free > shown.disk else ", WHICH IS TOO LITTLE"
    return f"disk: {shown.disk / GIGABYTE:.2f} GB of {free / GIGABYTE:.0f} GB free at {shown.out}{short}"
