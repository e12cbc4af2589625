"""table.md: what every method came to at every grid point, and what failed. The same runs give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_COLUMNS = {
    "win_rate": "win rate",
    "reward": "reward",
    "kl_policy_ref": "KL(π_θ‖π_ref)",
    "kl_policy_bon": "KL(π_θ‖π_bon)",
}


def table(record: Mapping[str, Any]) -> str:
    """Markdown: a row for each method and grid point, mean over seeds and their range, best-of-N itself among them."""
    runs, grid = record["runs"], record["grid"]
    done = [run for run in runs if run["status"] == "done"]
    head = ["method", "N", "β", "seeds", *_COLUMNS.values(), "rollouts"]
    lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
    lines += [_line(row) for row in _rows(record, done)]
    floors = ", ".join(f"{place['floor']['kl_policy_bon']:.3f} at N = {place['n']:g}" for place in grid)
    text = [
        f"# {len(done)} of {len(runs)} runs done, {len(runs) - len(done)} failed",
        "",
        *lines,
        "",
        "Held-out prompts; mean over seeds, and the lowest and highest seed. best-of-N: exact from the held-out pool.",
        f"KL(π_θ‖π_bon) reads at best-of-N itself: {floors or '–'}.",
    ]
    late = [run["name"] for run in done if run["out_of_time"]]
    if late:
        text.append(f"Stopped by max_seconds, on this machine: {', '.join(late)}.")
    failed = [f"* {run['name']}: {run['reason']}" for run in runs if run["status"] != "done"]
    return "\n".join([*text, *(["", "Failed:", "", *failed] if failed else [])]) + "\n"


def _rows(record: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
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
                    *(_over_seeds([run["metrics"][key]["value"] for run in runs]) for key in _COLUMNS),
                    _range([run["cost"]["rollouts"] for run in runs]),
                ]


def _over_seeds(values: Sequence[float]) -> str:
    middle = _number(sum(values) / len(values))
    return middle if len(values) < 2 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
