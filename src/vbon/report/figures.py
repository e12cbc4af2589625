"""Figures as inline SVG, drawn by matplotlib with the page's CSS colours: one drawing serves light, dark and print.

The bytes depend on the data alone: ids are salted with the figure's name, and no date is written.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vbon.core import best_of_n
from vbon.core.stats import Estimate

# Stand-ins that matplotlib can draw with; `_as_page_colours` turns each into the page's own.
INK, MUTED, GRID, TARGET = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
REFERENCE_SERIES, TARGET_SERIES = -1, -2
"""In place of a policy's number, which chooses its colour and marker."""
SERIES = tuple(f"#0a0c{index:02d}" for index in range(12))
_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", TARGET: "var(--target)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)
}
MARKERS = "o^Dv<>Ps"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: selectable, read aloud, in the page's own font
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


class Drawing(NamedTuple):
    """One figure of the page: what it shows in words, its SVG, and the caption under it."""

    title: str
    svg: str
    caption: str


class Point(NamedTuple):
    """One policy in a plane: both coordinates with their intervals."""

    name: str
    x: Estimate
    y: Estimate
    series: int


class Curve(NamedTuple):
    """One line of a training figure: `name` is None where the figure's one line needs no legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    series: int
    dashed: bool = False


class Panel(NamedTuple):
    """One prompt: the reference's rewards at evenly spaced shares from 0 to 1, and completions as points."""

    title: str
    rewards: Sequence[float]
    marks: Sequence[Curve]


def against_kl(
    key: str,
    points: Sequence[Point],
    *,
    y_label: str,
    alt: str,
    curve: tuple[Sequence[float], Sequence[float]] | None = None,
    targets: Sequence[tuple[str, float, float]] = (),
) -> str:
    """Policies in the plane of KL(π_θ‖π_ref) and `y_label`, best-of-n as `curve` (x, y) and `targets` (label, x, y)."""

    def draw(axes: Axes) -> None:
        if curve is not None:
            axes.plot(*curve, color=TARGET, linestyle="--", label="best-of-n, any n", zorder=2)
        for label, x, y in targets:
            axes.plot(x, y, "*", color=TARGET, markersize=13, label=label, zorder=3)
        for point in points:
            _error_bars(axes, point)
        axes.set_xlabel("KL(π_θ‖π_ref), nats a completion")
        axes.set_ylabel(y_label)
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
        axes.legend(loc="lower right", labelcolor=INK)

    return as_svg(key, draw, alt=alt, size=(5.4, 3.7))


def best_of_n_curve(max_kl: float) -> tuple[list[float], list[float]]:
    """The theoretical curve of best-of-n, n real, up to `max_kl`: (log n − (n−1)/n, n/(n+1)); continuous rewards."""
    ns = np.geomspace(1.0, best_of_n.n_from_kl(max_kl), 80)
    return [best_of_n.kl_from_reference(float(n)) for n in ns], [best_of_n.win_rate(float(n)) for n in ns]


def bars(key: str, rows: Sequence[tuple[str, Estimate, int]], *, floor: float | None, x_label: str, alt: str) -> str:
    """One horizontal bar a policy with its interval; the dashed line is where a perfect policy would read."""

    def draw(axes: Axes) -> None:
        for place, (_, value, series) in enumerate(rows):
            axes.barh(place, value.value, height=0.55, color=colour_of(series), alpha=0.85)
            if value.low < value.high:
                axes.errorbar(value.value, place, xerr=reach(value), color=INK, capsize=3, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [shortened(name) for name, _, _ in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        if floor is not None:
            axes.axvline(floor, color=TARGET, linestyle="--", label=f"best-of-N itself reads {floor:.3f}")
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), labelcolor=INK)

    return as_svg(key, draw, alt=alt, size=(5.4, 1.5 + 0.42 * len(rows)))


def curves(
    key: str,
    lines: Sequence[Curve],
    *,
    y_label: str,
    alt: str,
    level: tuple[str, float] | None = None,
    x_label: str = "iteration",
) -> str:
    """Curves over whole numbers, such as iterations; `level` is a horizontal line (label, height) to compare with."""

    def draw(axes: Axes) -> None:
        for line in lines:
            marker = "o" if len(line.x) < 2 or line.dashed else ""
            style = "--" if line.dashed else "-"
            label = shortened(line.name)
            axes.plot(line.x, line.y, style, marker=marker, markersize=3.5, color=colour_of(line.series), label=label)
        if level is not None:
            axes.axhline(level[1], color=TARGET, linestyle=":", label=level[0])
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(y_label)
        if len(lines) > 1 or level is not None:
            axes.legend(loc="best", labelcolor=INK, fontsize=9)

    return as_svg(key, draw, alt=alt, size=(4.4, 2.8))


def reward_cdfs(key: str, panels: Sequence[Panel], *, n: float, alt: str) -> str:
    """A small plot a prompt, two in a row: F of the reference, F^N of best-of-N, and completions by reward and rank."""

    def draw(grid: NDArray[Any]) -> None:
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _reward_cdf(axes, panel, n)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        grid.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK, fontsize=9)

    shape = (-(-len(panels) // 2), 2)
    return as_svg(
        key, lambda grid: draw(np.reshape(grid, shape)), alt=alt, size=(5.4, 0.6 + 1.9 * shape[0]), shape=shape
    )


def _reward_cdf(axes: Axes, panel: Panel, n: float) -> None:
    share = np.linspace(0.0, 1.0, len(panel.rewards))
    axes.step(panel.rewards, share, where="post", color=MUTED, label="F, the reference")
    axes.step(panel.rewards, share**n, where="post", color=TARGET, linestyle="--", label=f"F^{n:g}, best-of-{n:g}")
    for mark in panel.marks:
        axes.plot(
            mark.x,
            mark.y,
            MARKERS[mark.series % len(MARKERS)],
            color=colour_of(mark.series),
            markersize=5.5,
            label=shortened(mark.name),
            zorder=4,
        )
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("reward")


def _error_bars(axes: Axes, point: Point) -> None:
    axes.errorbar(
        point.x.value,
        point.y.value,
        xerr=reach(point.x),
        yerr=reach(point.y),
        color=colour_of(point.series),
        marker=MARKERS[point.series % len(MARKERS)],
        linestyle="none",
        markersize=6.5,
        capsize=2.5,
        linewidth=1.3,
        label=shortened(point.name),
        zorder=4,
    )


def colour_of(series: int) -> str:
    special = {REFERENCE_SERIES: MUTED, TARGET_SERIES: TARGET}
    return special.get(series, SERIES[series % len(SERIES)])


def reach(estimate: Estimate) -> list[list[float]]:
    return [[max(estimate.value - estimate.low, 0.0)], [max(estimate.high - estimate.value, 0.0)]]


def shortened(name: str, limit: int = 28) -> str:
    # matplotlib reads $…$ as mathematics and hides a label that begins with an underscore.
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$").replace("_", "\u200b_", 1) if name.startswith("_") else name.replace("$", r"\$")


def as_svg(
    key: str, draw: Callable[[Any], None], *, alt: str, size: tuple[float, float], shape: tuple[int, int] = (1, 1)
) -> str:
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(*shape))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(buffer.getvalue(), key, alt)


_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _inline(document: str, key: str, alt: str) -> str:
    """A whole SVG document as an element: no prologue, ids of its own, the page's colours and font, a name."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style .*?</style>", "", svg, flags=re.DOTALL)  # would reach the whole page
    svg = re.sub(r' id="', f' id="{key}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{key}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for stand_in, colour in _CSS.items():
        svg = svg.replace(stand_in, colour)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(alt)}" ', 1).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
