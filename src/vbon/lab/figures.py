"""Figures of the lab: lines or bars over shared axes, as SVG that is the same for the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vbon.errors import VbonError

PALETTE = ("#2f5d9b", "#c8553d", "#3f8f5f", "#8a5fa8", "#b8892b", "#4a4a4a", "#d17aa0", "#5aa7b5")


class Line(NamedTuple):
    """One curve; `low` and `high` bound its band. `style`: a matplotlib line style."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "-"


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_log: bool = True
    y_log: bool = True


def save(path: Path, panels: Sequence[Panel]) -> None:
    """Draw the panels side by side into an SVG file. Raises VbonError where matplotlib is not installed."""
    plt = _pyplot()
    with plt.rc_context({"svg.hashsalt": "vbon", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False)
        for axis, panel in zip(axes[0], panels, strict=True):
            _draw(axis, panel)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _draw(axis: Any, panel: Panel) -> None:
    drawable = [line for line in panel.lines if any(value > 0 for value in line.y) or not panel.y_log]
    for number, line in enumerate(drawable):
        colour = PALETTE[number % len(PALETTE)]
        axis.plot(line.x, line.y, line.style, marker="o", markersize=3, color=colour, label=line.label)
        if line.low is not None and line.high is not None:
            axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if not drawable:
        return
    if panel.x_log:
        axis.set_xscale("log", base=2)
    if panel.y_log:
        axis.set_yscale("log")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="upper left")  # "best" is slow, and warns of it


def _pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise VbonError(
            "vbon lab draws its figures with matplotlib; in vbon's clone run: pip install -e '.[report]'"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
