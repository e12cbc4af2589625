"""Figures as SVG, drawn by matplotlib: standing alone, or inline with the page's CSS colours for light, dark and print.

The bytes depend on the data alone: ids are salted with the figure's name, and no date is written.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from vbon.core.estimate import Estimate
from vbon.figures.shapes import REFERENCE_SERIES, TARGET_SERIES, Line, Panel, value_of

INK, MUTED, GRID, TARGET = "#1d1f24", "#5d6470", "#e2e0da", "#b3261e"
SERIES = (
    *("#1f5fa8", "#6b6f78", "#177a5a", "#9a4f96", "#b06a00", "#2a8ba0"),
    *("#8c3b4a", "#5b6b1f", "#3f3f9e", "#7a5c3a", "#c2477f", "#0f6f74"),
)
"""The page's colours in light; `_inline` turns each into the page's own variable."""
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
    "axes.titlesize": 10.0,
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
    "legend.labelcolor": INK,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def draw_panels(
    key: str,
    panels: Sequence[Panel],
    *,
    size: tuple[float, float],
    alt: str | None = None,
    columns: int = 1,
    legend: str = "best",
    share_y: bool = False,
    png: Path | None = None,
) -> str:
    """Draw panels, row by row.

    Args:
        key: The figure's name, with which its ids begin.
        panels: One set of axes each.
        size: Width and height in inches.
        alt: The figure in words; given, the SVG is an element of a page, otherwise a document.
        columns: Panels in a row.
        legend: A matplotlib location, or `none`. One that begins with `outside` is one legend for all panels.
        share_y: Whether all panels have one y axis.
        png: Where to write the figure as a PNG file as well.

    Returns:
        The SVG.
    """

    def draw(figure: Figure) -> None:
        rows = -(-len(panels) // columns)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel)
            if legend != "none" and not legend.startswith("outside") and axes.get_legend_handles_labels()[0]:
                axes.legend(loc=cast(Any, legend))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles = grid[0].get_legend_handles_labels()
        if legend.startswith("outside") and handles[0]:
            figure.legend(*handles, loc=cast(Any, legend), ncols=3 if "lower" in legend else 1)

    return _as_svg(key, draw, alt, size, png)


def draw_bars(
    key: str, rows: Sequence[tuple[str, Estimate, int]], *, x_label: str, alt: str, floor: float | None = None
) -> str:
    """Draw a horizontal bar with its interval for each policy.

    Args:
        key: The figure's name, with which its ids begin.
        rows: Name, value and series of each policy.
        floor: The estimate for best-of-N itself, a dashed line.
        x_label: Of the values.
        alt: The figure in words.

    Returns:
        The SVG element.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (_, value, series) in enumerate(rows):
            axes.barh(place, value.value, height=0.55, color=colour_of(series), alpha=0.85)
            if value.low < value.high:
                axes.errorbar(value.value, place, xerr=_reach([value]), color=INK, capsize=3, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [shortened(name) for name, _, _ in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        if floor is not None:
            axes.axvline(floor, color=TARGET, linestyle="--", label=f"best-of-N itself: {floor:.3f}")
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0))

    return _as_svg(key, draw, alt, (5.4, 1.5 + 0.42 * len(rows)))


def colour_of(series: int) -> str:
    """Return the colour of a policy, the reference or best-of-N."""
    special = {REFERENCE_SERIES: MUTED, TARGET_SERIES: TARGET}
    return special.get(series, SERIES[series % len(SERIES)])


def shortened(name: str, limit: int = 28) -> str:
    """Return a name as matplotlib draws it: at most `limit` characters, none of them markup."""
    # matplotlib reads $…$ as mathematics and hides a label that begins with an underscore.
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$").replace("_", "\u200b_", 1) if name.startswith("_") else name.replace("$", r"\$")


def _draw_panel(axes: Axes, panel: Panel) -> None:
    drawable = [line for line in panel.lines if not panel.y_log or any(value > 0 for value in _values(line.y))]
    for place, line in enumerate(drawable):
        _draw_line(axes, line, place if line.series is None else line.series)
    if panel.level is not None:
        name, height = panel.level
        axes.axhline(height, color=TARGET if name else MUTED, linestyle=":" if name else "-", label=name)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    xs = [value for line in drawable for value in _values(line.x)]
    if panel.x_log and drawable:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    elif all(float(x).is_integer() for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.y_log and drawable:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Axes, line: Line, series: int) -> None:
    colour, own_marker = colour_of(series), MARKERS[series % len(MARKERS)]
    for x, y in line.seeds:
        axes.plot(x, y, own_marker, color=colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=3)
    if line.low is not None and line.high is not None:
        axes.fill_between(_values(line.x), line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    has_bars = any(isinstance(value, Estimate) for value in line.y)
    bars = (
        {"xerr": _reach(line.x), "yerr": _reach(line.y), "linewidth": 1.1, "elinewidth": 1.0, "capsize": 2}
        if has_bars
        else {}
    )
    shows_points = has_bars or line.style == "none" or len(line.x) < 2
    look: dict[str, Any] = {
        "color": colour,
        "linestyle": line.style,
        "marker": line.marker or (own_marker if shows_points else ""),
        "markersize": 12 if line.marker == "*" else 5.5 if shows_points else 3.5,
        "label": shortened(line.name),
        "zorder": 4 if shows_points and series >= 0 else 2,
    }
    draw: Callable[..., Any] = axes.errorbar if has_bars else axes.plot
    draw(_values(line.x), _values(line.y), **bars, **look)


def _values(values: Sequence[float | Estimate]) -> list[float]:
    return [value_of(value) for value in values]


def _reach(values: Sequence[float | Estimate]) -> list[list[float]]:
    """Return how far the intervals reach below and above the values, 0 for a bare number."""
    known = [value if isinstance(value, Estimate) else Estimate(value, value, value) for value in values]
    return [[max(one.value - one.low, 0.0) for one in known], [max(one.high - one.value, 0.0) for one in known]]


def _as_svg(
    key: str, draw: Callable[[Figure], None], alt: str | None, size: tuple[float, float], png: Path | None = None
) -> str:
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=alt is not None, metadata=_NO_METADATA)
        if png is not None:
            figure.savefig(png, dpi=150)
    return buffer.getvalue() if alt is None else _inline(buffer.getvalue(), key, alt)


def _inline(document: str, key: str, alt: str) -> str:
    """A whole SVG document as an element: no prologue, ids of its own, the page's colours and font, a name."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style .*?</style>", "", svg, flags=re.DOTALL)  # would reach the whole page
    svg = re.sub(r' id="', f' id="{key}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{key}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt, quote=True)}" ', 1).strip()
