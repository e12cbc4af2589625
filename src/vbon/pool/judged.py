"""Best-of-N of a pool's reward as another reward sees it, for each N: where over-optimisation begins.

For a judge with value v of every sample, E_bon[v] is estimated without bias by core.best_of_n.expectation, from the
pool alone and before any training. A reward that is only a proxy of what is wanted keeps rising with N while the judge
falls.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from vbon.core import best_of_n, stats
from vbon.errors import VbonError
from vbon.pool.rescore import score_pool
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward
from vbon.rewards.pairwise import PairwiseReward

Float = NDArray[np.float64]


def judge_best_of_n(pool: ReferencePool, judge: Reward, ns: Sequence[int], seed: int) -> dict[str, Any]:
    """Score best-of-N by a judge for N = 1 and each N of `ns`, on the prompts that have enough samples for all.

    Args:
        pool: the pool whose reward chooses the best.
        judge: the reward that scores the chosen ones.
        ns: whole numbers N, at most the largest M.
        seed: seed of the bootstrap intervals.

    Returns:
        `rows`: for each N the judge's mean, and its change from the N before on the same prompts, with 95 % intervals
        over prompts; `best_n`: the N after which the judge falls by more than its interval, None if it never does.

    Raises:
        VbonError: the pool holds no texts, or the judge failed.
    """
    values = pool.per_prompt(score_pool(pool, judge))
    rewards = pool.per_prompt(pool.rewards)
    steps = [1, *sorted(set(ns))]
    pairs = [(v, r) for v, r in zip(values, rewards, strict=True) if len(r) >= steps[-1]]
    means = np.array([[best_of_n.expectation(v, r, n) for v, r in pairs] for n in steps])
    rows: list[dict[str, Any]] = [
        {
            "n": n,
            "value": stats.mean(means[index], seed)._asdict(),
            "change": stats.paired_difference(means[index], means[index - 1], seed)._asdict() if index else None,
        }
        for index, n in enumerate(steps)
    ]
    falls = [index for index, row in enumerate(rows) if row["change"] and row["change"]["high"] < 0]
    best_n = steps[falls[0] - 1] if falls else None
    return {"judge": judge.name, "num_prompts": len(pairs), "rows": rows, "best_n": best_n}


def check_judges(judges: Sequence[Reward]) -> None:
    """Raise VbonError where a judge is given twice, or only compares completions."""
    for judge in judges:
        if isinstance(judge, PairwiseReward):
            raise VbonError(
                f"--judge {judge.name}: a pairwise judge has no number for a completion alone; give it as --reward"
            )
    names = [judge.name for judge in judges]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise VbonError(f"--judge {twice[0]} is given twice; name it once")


def judge_table(judged: dict[str, Any]) -> Table:
    """The table of one judge."""
    table = Table(
        title=f"best-of-N as {judged['judge']} scores it",
        title_justify="left",
        caption="(95 % intervals over prompts) · change: from the N in the row above, on the same prompts",
        caption_justify="left",
        box=SIMPLE,
    )
    for name in ("N", "judge", "change"):
        table.add_column(name, justify="right")
    for row in judged["rows"]:
        table.add_row(str(row["n"]), _interval(row["value"]), _interval(row["change"]) if row["change"] else "")
    return table


def judge_warning(judged: dict[str, Any]) -> str | None:
    """The line that says from which N on the judge falls, or None."""
    if judged["best_n"] is None:
        return None
    what = "already falls from one sample on" if judged["best_n"] == 1 else f"falls beyond N = {judged['best_n']}"
    return f"judge {judged['judge']} {what}: a larger N optimises the reward at its cost"


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}, {estimate['high']:.3f})"
