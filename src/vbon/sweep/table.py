"""table.md: what every method came to at every grid point, and what failed. The same runs give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_COLUMNS = {
    "win_rate": "win rate",
    "reward": "reward",
    "kl_policy_ref": "KL(π_θ‖π_ref)",
    "kl_policy_bon": "KL(π_θ‖π_bon)",
}


def print_table(record: Mapping[str, Any], console: Console) -> None:
    """Print the table in 80 columns, the range over seeds below the mean, without the numbers of seeds and rollouts."""
    printed = Table(title=_title(record), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("method", "N", "β", "win rate", "reward", "KL(·‖ref)", "KL(·‖bon)"):
        printed.add_column(name, justify="left" if name == "method" else "right")
    for method, n, beta, _, *values, _ in _rows(record, _done(record), "{}\n{}…{}"):
        printed.add_row(method, n, beta, *values)
    console.print(printed)
    for line in _notes(record):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def table(record: Mapping[str, Any]) -> str:
    """Markdown: a row for each method and grid point, mean over seeds and their range, best-of-N itself among them."""
    done = _done(record)
    head = ["method", "N", "β", "seeds", *_COLUMNS.values(), "rollouts"]
    lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
    lines += [_line(row) for row in _rows(record, done, "{} ({} to {})")]
    return "\n".join([f"# {_title(record)}", "", *lines, "", *_notes(record)]) + "\n"


def _title(record: Mapping[str, Any]) -> str:
    done, every = len(_done(record)), len(record["runs"])
    return f"{done} of {every} runs done, {every - done} failed"


def _notes(record: Mapping[str, Any]) -> list[str]:
    runs, done = record["runs"], _done(record)
    floors = [f"{place['floor']['kl_policy_bon']:.3f} at N = {place['n']:g}" for place in record["grid"]]
    text = [
        "Held-out prompts; mean over seeds, and the lowest and highest seed. best-of-N: exact from the held-out pool.",
        f"KL(π_θ‖π_bon) reads at best-of-N itself: {', '.join(floors) or '–'}.",
    ]
    late = [run["name"] for run in done if run["out_of_time"]]
    if late:
        text.append(f"Stopped by max_seconds, on this machine: {', '.join(late)}.")
    failed = [f"* {run['name']}: {run['reason']}" for run in runs if run["status"] != "done"]
    return [*text, *(["", "Failed:", "", *failed] if failed else [])]


def _done(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run for run in record["runs"] if run["status"] == "done"]


def _rows(record: Mapping[str, Any], done: Sequence[Mapping[str, Any]], over_seeds: str) -> Iterator[list[str]]:
    for place in record["grid"]:
        target = place["target"]
        values = [_number(target[key]["value"]) if key in target else "0" for key in _COLUMNS]
        yield ["best-of-n", f"{place['n']:g}", "", "", *values, ""]
        for method in record["methods"]:
            runs = [run for run in done if run["method"] == method and run["n"] == place["n"]]
            if runs:
                beta = runs[0]["kl_coef"]
                yield [
                    method,
                    f"{place['n']:g}",
                    "" if beta is None else f"{beta:g}",
                    str(len(runs)),
                    *(_over_seeds([run["metrics"][key]["value"] for run in runs], over_seeds) for key in _COLUMNS),
                    _range([run["cost"]["rollouts"] for run in runs]),
                ]


def _over_seeds(values: Sequence[float], form: str) -> str:
    middle = _number(sum(values) / len(values))
    return middle if len(values) < 2 else form.format(middle, _number(min(values)), _number(max(values)))


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
