"""Figures of a comparison: methods as lines over their grid, best-of-n and the theory's fronts beside them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from vbon.core.stats import Estimate
from vbon.report.figures import INK, MARKERS, MUTED, TARGET, as_svg, colour_of, reach, shortened

Float = NDArray[np.float64]
SPREAD = 0.035
"""Methods at one N stand apart by this share of an octave, so that their bars do not cover each other."""


class Line(NamedTuple):
    """A method in a plane: its grid points as means over seeds with intervals, and every seed's own point."""

    name: str
    series: int
    x: Sequence[Estimate]
    y: Sequence[Estimate]
    seeds: Sequence[tuple[float, float]] = ()


class Guide(NamedTuple):
    """A curve to compare with, or points where `marker` is given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "--"
    marker: str = ""
    is_target: bool = True


def plane(
    key: str,
    lines: Sequence[Line],
    guides: Sequence[Guide],
    *,
    y_label: str,
    alt: str,
    x_label: str = "KL(π_θ‖π_ref), nats a completion",
) -> str:
    """Every method's grid points joined by a line; seeds small, intervals of the means as bars."""

    def draw(axes: Axes) -> None:
        for guide in guides:
            _guide(axes, guide)
        for line in lines:
            _line(axes, line)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        _legend(axes)

    return as_svg(key, draw, alt=alt, size=(7.4, 4.6))


def by_n(key: str, lines: Sequence[Line], floor: Sequence[tuple[float, float]], *, y_label: str, alt: str) -> str:
    """Each method over N, both axes logarithmic; `floor` is what best-of-N itself reads at each N."""

    def draw(axes: Axes) -> None:
        ns = [n for n, _ in floor]
        axes.plot(*zip(*floor, strict=True), "--", color=TARGET, label="best-of-N itself (floor)")
        for place, line in enumerate(lines):
            shift = 2.0 ** (SPREAD * (place - (len(lines) - 1) / 2))
            moved = [Estimate(*(part * shift for part in x)) for x in line.x]
            _line(axes, line._replace(x=moved, seeds=[(x * shift, y) for x, y in line.seeds]))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ns, [f"{n:g}" for n in ns])
        axes.xaxis.set_minor_locator(NullLocator())
        _plain_numbers(axes)
        axes.set_xlabel("N")
        axes.set_ylabel(y_label)
        _legend(axes)

    return as_svg(key, draw, alt=alt, size=(7.4, 4.6))


class Band(NamedTuple):
    """A difference over KL with its interval; nan where it is not known."""

    name: str
    series: int
    x: Sequence[float]
    y: Sequence[Estimate]


def differences(key: str, bands: Sequence[Band], *, y_label: str, alt: str) -> str:
    """A small plot a rival, two in a row, all to one scale; above the line the first method is ahead."""
    shape = (-(-len(bands) // 2), 2 if len(bands) > 1 else 1)

    def draw(grid: Any) -> None:
        panels = np.reshape(grid, -1)
        for axes in panels[len(bands) :]:
            axes.set_visible(False)
        most = max((abs(part) for band in bands for y in band.y for part in y if np.isfinite(part)), default=1.0)
        for axes, band in zip(panels, bands, strict=False):
            _band(axes, band, 1.05 * most)
            axes.set_xlabel("KL(π_θ‖π_ref), nats")
            axes.set_ylabel(y_label)

    return as_svg(key, draw, alt=alt, size=(7.4, 0.3 + 2.1 * shape[0]), shape=shape)


def _band(axes: Axes, band: Band, height: float) -> None:
    low, high = [y.low for y in band.y], [y.high for y in band.y]
    axes.axhline(0.0, color=MUTED, linewidth=0.9)
    axes.fill_between(band.x, low, high, color=colour_of(band.series), alpha=0.25, linewidth=0)
    axes.plot(band.x, [y.value for y in band.y], color=colour_of(band.series))
    axes.set_ylim(-height, height)
    axes.set_title(f"− {shortened(band.name)}", fontsize=10)


def _line(axes: Axes, line: Line) -> None:
    colour, marker = colour_of(line.series), MARKERS[line.series % len(MARKERS)]
    for x, y in line.seeds:
        axes.plot(x, y, marker, color=colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=3)
    xs, ys = [one.value for one in line.x], [one.value for one in line.y]
    bars = [np.hstack([reach(one) for one in side]) for side in (line.x, line.y)]
    axes.errorbar(
        xs,
        ys,
        xerr=bars[0],
        yerr=bars[1],
        color=colour,
        marker=marker,
        markersize=5.5,
        capsize=1.5,
        linewidth=1.1,
        elinewidth=0.8,
        label=shortened(line.name),
        zorder=4,
    )


def _guide(axes: Axes, guide: Guide) -> None:
    colour = TARGET if guide.is_target else MUTED
    style = "none" if guide.marker else guide.style
    axes.plot(
        guide.x,
        guide.y,
        linestyle=style,
        marker=guide.marker or None,
        markersize=11,
        color=colour,
        label=guide.name,
        zorder=2,
    )


def _plain_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside right upper", labelcolor=INK, fontsize=9)
