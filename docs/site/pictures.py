"""The drawings of the pages, computed by vbon's own functions: `make pictures` draws them again."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vbon.core.best_of_n import kl_from_reference, log_weight, win_rate
from vbon.core.pool_size import kl_from_pool
from vbon.core.reward_cdf import RewardCDF
from vbon.figures.shapes import Line, Panel
from vbon.figures.svg import draw_panels

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
SIZE = (6.4, 3.6)
POOL_REWARDS = np.array([0.4, 0.9, 1.1, 1.6, 1.7, 2.2, 2.4, 2.9, 3.0, 3.3, 3.9, 4.6])
NEW_REWARD = 3.6


def weights() -> str:
    """Draw W_N over the rank of a completion among samples of the reference, for continuous rewards."""
    ranks = np.linspace(0.002, 0.998, 250)
    below, above = ranks - 0.002, ranks + 0.002
    lines = [
        Line(f"N = {n}" if n > 1 else "one sample", tuple(ranks), tuple(np.exp(log_weight(below, above, n))))
        for n in (1, 2, 4, 8)
    ]
    panel = _panel("", "rank of the completion, F", "weight W_N = π_bon / π_ref", lines)
    return draw_panels("weights", [panel], size=SIZE, legend="upper left")


def ranks() -> str:
    """Draw the rank of a new completion in the pool of its prompt, and the weight that the rank has."""
    found = RewardCDF(POOL_REWARDS, np.array([len(POOL_REWARDS)]))
    grid = np.linspace(0.0, 5.0, 500)
    interval = found.interval(np.zeros(len(grid), np.int64), grid)
    new = found.interval(np.zeros(1, np.int64), np.array([NEW_REWARD]))
    shown = [
        Line("pool: M = 12 samples", tuple(POOL_REWARDS), (0.0,) * len(POOL_REWARDS), style="none", series=0),
        Line("estimated rank, F_≤", tuple(grid), tuple(interval.cdf_le), series=0),
        Line("new completion", (NEW_REWARD,), tuple(new.cdf_le), style="none", marker="*", series=4),
    ]
    weight = [
        Line("W_8", tuple(grid), tuple(np.exp(log_weight(interval.cdf_lt, interval.cdf_le, 8))), series=1),
        Line(
            "new completion",
            (NEW_REWARD,),
            tuple(np.exp(log_weight(new.cdf_lt, new.cdf_le, 8))),
            style="none",
            marker="*",
            series=4,
        ),
    ]
    panels = [
        _panel("1. the rank among the pool's rewards", "reward", "rank", shown),
        _panel("2. the weight of that rank, N = 8", "reward", "weight W_8", weight),
    ]
    return draw_panels("ranks", panels, size=(8.4, 3.6), columns=2, legend="upper left")


def tradeoff() -> str:
    """Draw the win rate of best-of-N over its KL to the reference, N growing along the curve."""
    ns = np.geomspace(1.0, 128.0, 80)
    marked = (1, 2, 4, 8, 16, 32, 64, 128)
    lines = [
        Line("best-of-N", *zip(*tradeoff_points(ns), strict=True), series=1),
        Line("N = 1, 2, 4, … 128", *zip(*tradeoff_points(marked), strict=True), style="none", series=1, marker="o"),
    ]
    panel = _panel("", "KL(π_bon‖π_ref), nats", "win rate against one sample", lines)
    return draw_panels("tradeoff", [panel], size=SIZE, legend="lower right")


def _panel(title: str, x_label: str, y_label: str, lines: list[Line]) -> Panel:
    return Panel(title, x_label, y_label, lines, x_log=False, y_log=False)


def tradeoff_points(ns: Iterable[float]) -> list[tuple[float, float]]:
    """Return KL to the reference and win rate of best-of-N for each N."""
    return [(kl_from_reference(float(n)), win_rate(float(n))) for n in ns]


def pool_cost() -> str:
    """Draw the distance to best-of-N that a pool of M samples leaves, over M."""
    sizes = 2 ** np.arange(4, 12)
    lines = [Line(f"N = {n}", tuple(sizes), tuple(kl_from_pool(int(m), n) for m in sizes)) for n in (2, 4, 8, 16, 32)]
    panel = Panel("", "M, samples for each prompt", "cost of the pool, nats", lines, level=("0.01 nats", 0.01))
    return draw_panels("pool-cost", [panel], size=SIZE, legend="upper right")


def pipeline() -> str:
    """Draw the verbs and what they make, from the model to the report."""
    stages = [
        ("collect", "M samples for each prompt,", "scored: the pool"),
        ("inspect", "what would best-of-N gain?", "Is M large enough?"),
        ("train", "sample, rank in the pool,", "update: the run"),
        ("evaluate", "against the reference and", "best-of-N, on other prompts"),
        ("report", "one page about all of it", ""),
    ]
    width = 168
    boxes = [_box(20 + place * (width + 22), width, *stage) for place, stage in enumerate(stages)]
    arrows = [_arrow(20 + place * (width + 22) + width, 22) for place in range(len(stages) - 1)]
    total = 40 + len(stages) * width + (len(stages) - 1) * 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 104" width="{total}" height="104" role="img" '
        'aria-label="collect, inspect, train, evaluate, report: the stages of vbon" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" fill="#1d1f24">\n'
        + "\n".join([*boxes, *arrows])
        + "\n</svg>\n"
    )


def _box(x: int, width: int, title: str, first: str, second: str) -> str:
    middle = x + width // 2
    return (
        f'<rect x="{x}" y="16" width="{width}" height="72" rx="8" fill="#eef3fa" stroke="#1f5fa8"/>'
        f'<text x="{middle}" y="40" text-anchor="middle" font-size="15" font-weight="bold">{title}</text>'
        f'<text x="{middle}" y="60" text-anchor="middle" font-size="11">{first}</text>'
        f'<text x="{middle}" y="75" text-anchor="middle" font-size="11">{second}</text>'
    )


def _arrow(x: int, length: int) -> str:
    end = x + length - 3
    return (
        f'<path d="M{x + 3} 52H{end - 5}" stroke="#5d6470" stroke-width="1.6"/>'
        f'<path d="M{end} 52l-7 -4.5v9z" fill="#5d6470"/>'
    )


PICTURES: dict[str, Callable[[], str]] = {
    "weights": weights,
    "ranks": ranks,
    "tradeoff": tradeoff,
    "pool-cost": pool_cost,
    "pipeline": pipeline,
}


def main() -> int:
    """Draw every picture."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
