"""The demo's last words: the policy beside its target and the bars that the demo sets itself."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vbon.artifacts.evaluation import read_record
from vbon.core import best_of_n

WIN_RATE_BAR = 0.95
"""Of N/(N+1)."""
KL_BAR = 1.25
"""Times best-of-N's KL(π_bon‖π_ref) on the same prompts."""
JUDGE = "judge_reward/"
"""What evaluation calls the mean of a reward that nothing was trained on, and its name."""


def closing(evaluation: Path, n: int) -> dict[str, Any]:
    """The figures of the demo's one policy, its target and the two bars, from evaluation.json."""
    record = read_record(evaluation)
    target = {key: estimate["value"] for key, estimate in record["target"]["metrics"].items()}
    policy = next(iter(record["policies"].values()))["metrics"]
    bars = {"win_rate": WIN_RATE_BAR * best_of_n.win_rate(n), "kl_policy_ref": KL_BAR * target["kl_policy_ref"]}
    return {
        "n": n,
        "policy": policy,
        "reference": record["reference"]["metrics"],
        "target": target,
        "floor": record["floor"]["kl_policy_bon"],
        "bars": bars,
        "met": {
            "win_rate": policy["win_rate"]["value"] >= bars["win_rate"],
            "kl_policy_ref": policy["kl_policy_ref"]["value"] <= bars["kl_policy_ref"],
        },
    }


def print_closing(result: dict[str, Any], report: Path, seconds: float) -> None:
    """Print the closing table and where the report is."""
    console = Console()
    console.print(closing_table(result))
    console.print(f"{seconds:.0f} s. Open the report: {report}", highlight=False)


def closing_table(result: dict[str, Any]) -> Table:
    """Metrics by reference, one sample of the policy, best-of-N; and the bar where there is one."""
    best = f"best-of-{result['n']}"
    table = Table(title="One sample, on prompts not trained on", title_justify="left")
    for header in ("", "reference", "trained policy", best, "the demo's bar"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    judges = [key for key in result["policy"] if key.startswith(JUDGE)]
    rows = {"win_rate": "win rate", "reward": "reward", "kl_policy_ref": "KL(π_θ‖π_ref)"}
    for key, label in (
        rows | {key: f"judge: {key.removeprefix(JUDGE).removeprefix('builtin:')}" for key in judges}
    ).items():
        table.add_row(
            label,
            _value(result["reference"][key]),
            _value(result["policy"][key]),
            f"{result['target'][key]:.3f}",
            _bar(result, key),
        )
    floor = f"{result['floor']:.3f} (floor)"
    key = "kl_policy_bon"
    table.add_row("KL(π_θ‖π_bon)", _value(result["reference"][key]), _value(result["policy"][key]), floor, "")
    return table


def _bar(result: dict[str, Any], key: str) -> str:
    if key not in result["bars"]:
        return ""
    sign = "≥" if key == "win_rate" else "≤"
    return f"{sign} {result['bars'][key]:.3f} {'met' if result['met'][key] else 'MISSED'}"


def _value(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f}"
