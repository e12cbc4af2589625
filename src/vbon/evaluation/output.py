"""The EVAL folder and the printed table. Same seed, same bytes: only throughput.json holds wall-clock times."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from vbon.artifacts.evaluation import PER_PROMPT, REFERENCE, SAMPLES, EvaluationFolder
from vbon.core.rank_tilts import parse
from vbon.evaluation.measurements import Measurements
from vbon.evaluation.samples import sample_win_rates
from vbon.evaluation.throughput import Speed
from vbon.pool.prompts import Prompt, canonical_json

SHOWN_SAMPLES = 4
"""Completions of each prompt and policy that samples.parquet keeps."""
_COLUMNS = {
    "reward": "reward",
    "win_rate": "win rate",
    "kl_policy_ref": "KL(·‖ref)",
    "kl_policy_bon": "KL(·‖bon)",
    "reward_gain_share": "gain",
}
_SAMPLE_SCHEMA = pa.schema(
    [
        ("policy", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("sample_index", pa.int32()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("win_rate", pa.float64()),
        ("log_ratio", pa.float64()),
        ("log_weight", pa.float64()),
        ("finished", pa.bool_()),
    ]
)

_REFERENCE_SCHEMA = pa.schema(
    [("prompt_id", pa.string()), ("prompt", pa.string()), ("reward_quantiles", pa.list_(pa.float64()))]
)


def write_evaluation(folder: EvaluationFolder, evaluation: Measurements) -> None:
    """Write the tables, the speeds where they were measured, and the result."""
    tables = {
        PER_PROMPT: per_prompt_table(evaluation),
        SAMPLES: samples_table(evaluation),
        REFERENCE: reference_table(evaluation),
    }
    folder.write(tables, _speeds_record(evaluation.speeds), evaluation.summary)


def per_prompt_table(evaluation: Measurements) -> pa.Table:
    """A row for each policy and prompt, a column for each metric; null where a policy lacks one."""
    prompts = evaluation.task.pool.prompts
    names = sorted({name for values in evaluation.per_prompt.values() for name in values})
    rows = [
        {"policy": policy, "prompt_id": prompt.prompt_id}
        | {name: float(values[name][index]) if name in values else None for name in names}
        for policy, values in evaluation.per_prompt.items()
        for index, prompt in enumerate(prompts)
    ]
    schema = pa.schema([("policy", pa.string()), ("prompt_id", pa.string()), *((n, pa.float64()) for n in names)])
    return pa.Table.from_pylist(rows, schema)


def samples_table(evaluation: Measurements) -> pa.Table:
    """The first few completions of each policy and prompt, for reading side by side."""
    return pa.Table.from_pylist(list(_sample_rows(evaluation)), _SAMPLE_SCHEMA)


def reference_table(evaluation: Measurements) -> pa.Table:
    """The reference's reward CDF of each prompt: rewards of its pool at 0, 1 … 100 %, each one that was drawn."""
    task = evaluation.task
    rows = [
        {"prompt_id": prompt.prompt_id, "prompt": _text(prompt), "reward_quantiles": reward_quantiles(rewards)}
        for prompt, rewards in zip(task.pool.prompts, task.pool.per_prompt(task.pool.rewards), strict=True)
    ]
    return pa.Table.from_pylist(rows, _REFERENCE_SCHEMA)


def reward_quantiles(rewards: NDArray[np.float64]) -> list[float]:
    """For p = 0, 1 … 100 %: the lowest of M rewards that a share p of them does not exceed; the lowest for 0."""
    ranks = -(-np.arange(101) * len(rewards) // 100)  # ⌈p·M⌉ without rounding
    return [float(reward) for reward in np.sort(rewards)[np.maximum(ranks, 1) - 1]]


def print_evaluation(record: Mapping[str, Any], throughput: Mapping[str, Any], console: Console) -> None:
    """Policies × main metrics with intervals, the target, the floor, speeds, warnings.

    Args:
        record: What evaluation.json holds.
        throughput: What throughput.json holds; empty where nothing was timed.
        console: Where to print.
    """
    console.print(_table(record))
    if record.get("dials"):
        console.print(_dial_table(record["dials"]))
    console.print(f"rank test of the pool: χ² p = {record['rank_test']['p_value']:.3g}", highlight=False)
    for line in _speed_lines(throughput):
        console.print(line, highlight=False)
    for line in record["warnings"]:
        console.print(f"[yellow]warning:[/] {line}", highlight=False)


def _sample_rows(evaluation: Measurements) -> Iterator[dict[str, Any]]:
    task = evaluation.task
    size = task.samples_per_prompt
    for policy, samples in evaluation.samples.items():
        wins = sample_win_rates(samples, task)
        for p, prompt in enumerate(task.pool.prompts):
            for k in range(min(size, SHOWN_SAMPLES)):
                yield {
                    "policy": policy,
                    "prompt_id": prompt.prompt_id,
                    "prompt": _text(prompt),
                    "sample_index": k,
                    "completion": samples.completions[p * size + k],
                    "reward": samples.rewards[p, k],
                    "win_rate": wins[p, k],
                    "log_ratio": samples.divergence.log_ratio[p, k],
                    "log_weight": samples.log_weight[p, k],
                    "finished": bool(samples.finished[p, k]),
                }


def _text(prompt: Prompt) -> str:
    return canonical_json(prompt.prompt) if isinstance(prompt.prompt, list) else prompt.prompt


def _table(summary: Mapping[str, Any]) -> Table:
    n, prompts, size = summary["n"], summary["num_prompts"], summary["samples_per_prompt"]
    floor, target_name = summary["floor"]["kl_policy_bon"], parse(summary.get("tilt", "best"), n).name
    table = Table(
        title=f"N = {n:g}, {prompts} held-out prompts × {size} samples, pool of M = {summary['num_samples']}",
        caption=f"gain: share of best-of-N's, in reward · KL(·‖bon) reads {floor:.3f} at best-of-N itself (floor)",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", min_width=9, overflow="fold")
    for header in _COLUMNS.values():
        table.add_column(header, justify="right", no_wrap=True)
    rows = {name: row["metrics"] for name, row in summary["policies"].items()}
    target = {**summary["target"]["metrics"], "reward_gain_share": {"value": 1.0, "low": 1.0, "high": 1.0}}
    for name, values in {"reference": summary["reference"]["metrics"], **rows, target_name: target}.items():
        table.add_row(name, *(_cell(values.get(key)) for key in _COLUMNS))
    return table


def _dial_table(dials: Sequence[Mapping[str, Any]]) -> Table:
    """Runs with N turned after training, each against best-of-N of its own N."""
    title = "N turned after training (--dial)"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title_justify="left")
    table.add_column("", overflow="fold")
    for header in ("N", "λ", "reward", "win rate", "KL(·‖ref)", "KL(·‖bon)", "floor"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in dials:
        cells = (_cell(row["metrics"][key]) for key in list(_COLUMNS)[:4])
        table.add_row(row["policy"], f"{row['n']:g}", f"{row['share']:.3f}", *cells, f"{row['floor']:.3f}")
    return table


def _cell(estimate: dict[str, float | None] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    text = f"{estimate['value']:.3f}"
    if estimate["low"] is None or estimate["high"] is None or estimate["low"] == estimate["high"]:
        return text
    return f"{text}\n{estimate['low']:.3f}…{estimate['high']:.3f}"


def _speeds_record(speeds: Mapping[str, Speed]) -> dict[str, Any]:
    if not speeds:
        return {}
    return {
        "completions_per_second": {name: speed.rate for name, speed in speeds.items()},
        "latency_seconds": {name: speed.latency for name, speed in speeds.items()},
    }


def _speed_lines(throughput: Mapping[str, Any]) -> Iterator[str]:
    for title, key in (
        ("completions per second", "completions_per_second"),
        ("one prompt, seconds", "latency_seconds"),
    ):
        if key in throughput:
            yield f"{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in throughput[key].items())
