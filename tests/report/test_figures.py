"""Figures read back: coordinates in the SVG against what was drawn, and what the page needs of them."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vbon.core import best_of_n
from vbon.core.estimate import Estimate
from vbon.figures.shapes import TARGET_SERIES, Line, Panel
from vbon.figures.svg import draw_panels
from vbon.report import plots

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert(1)</script> "$x_1$" & _'


def point(name: str, x: Estimate, y: Estimate, series: int) -> Line:
    return Line(name, [x], [y], style="none", series=series)


MINE = (point("mine", Estimate(1.0, 0.9, 1.2), Estimate(0.8, 0.7, 0.85), 0),)
CURVE = Line("best-of-n, any n", *plots.best_of_n_curve(1.5), style="--", series=TARGET_SERIES)
TARGET = Line("best-of-8", [1.2], [0.9], style="none", series=TARGET_SERIES, marker="*")


def drawn(points=MINE, **kwargs) -> str:
    return plots.against_kl("key", points, y_label="win rate", alt="what it says", **kwargs)


def test_curve_is_best_of_n_from_1_to_the_given_kl():
    kl, win = map(np.array, plots.best_of_n_curve(2.0))
    ns = win / (1 - win)
    assert (kl[0], win[0]) == (0.0, 0.5)
    assert kl[-1] == pytest.approx(2.0, abs=1e-9)
    assert kl == pytest.approx(np.log(ns) - (ns - 1) / ns, abs=1e-9)
    assert best_of_n.kl_from_reference(8) == pytest.approx(np.interp(8 / 9, win, kl), abs=1e-3)


def test_points_lie_where_their_figures_say():
    points = [
        point(str(x), Estimate(x, x, x), Estimate(y, y, y), i) for i, (x, y) in enumerate([(0, 0), (1, 3), (4, 1)])
    ]
    uses = [u for u in ET.fromstring(drawn(points)).iter(f"{SVG}use") if "series" in u.get("style", "")]
    places = np.array([[float(u.get("x")), float(u.get("y"))] for u in uses])
    # each policy has its marker, four caps and a legend entry; markers are drawn with the plot's own coordinates
    slope_x, slope_y = _affine(places, [(0, 0), (1, 3), (4, 1)])
    assert slope_x > 0 > slope_y  # SVG's y axis points down


def _affine(places: np.ndarray, expected: list[tuple[float, float]]) -> tuple[float, float]:
    """The scales that map `expected` onto three of `places`, found among distinct rows; fails where there are none."""
    distinct = np.unique(places.round(6), axis=0)
    for a in distinct:
        for b in distinct:
            scale = (b - a) / (np.array(expected[1]) - expected[0])
            third = a + scale * (np.array(expected[2]) - expected[0])
            if (a != b).all() and np.abs(distinct - third).sum(1).min() < 1e-3:
                return float(scale[0]), float(scale[1])
    raise AssertionError("no three markers lie as the points do")


def path_heights(svg: str, colour: str) -> np.ndarray:
    """The distinct heights of the staircase drawn in `colour` in the first panel, from the bottom up."""
    paths = (p for p in ET.fromstring(svg).iter(f"{SVG}path") if f"stroke: {colour}" in p.get("style", ""))
    stairs = next(p for p in paths if p.get("d", "").count("L") > 2 and "clip-path" in p.attrib)
    heights = {round(float(y), 4) for y in re.findall(r"[ML] \S+ (\S+)", stairs.get("d", ""))}
    return np.array(sorted(heights, reverse=True))


def test_reward_cdfs_rise_by_share_and_by_its_nth_power_and_completions_lie_at_their_figures():
    points = [(0.0, 0.2), (3.0, 0.5), (10.0, 0.9)]
    marks = [Line("mine", [x for x, _ in points], [y for _, y in points], style="none", series=0)]
    panel = plots.reward_cdf("prompt 1", [0.0, 1.0, 4.0, 9.0, 10.0], marks, 3)
    svg = draw_panels("k", [panel] * 3, alt="a", size=(5.4, 4.4), columns=2, legend="outside lower center")
    reference, best = path_heights(svg, "var(--muted)"), path_heights(svg, "var(--target)")
    bottom, rise = reference[0], reference[-1] - reference[0]
    assert (reference - bottom) / rise == pytest.approx(np.arange(5) / 4, abs=1e-4)
    assert (best - bottom) / rise == pytest.approx((np.arange(5) / 4) ** 3, abs=1e-4)
    uses = [u for u in ET.fromstring(svg).iter(f"{SVG}use") if "series" in u.get("style", "")]
    assert len(uses) == 3 * 3 + 1  # in three panels, and once in the legend
    slope_x, slope_y = _affine(np.array([[float(u.get("x")), float(u.get("y"))] for u in uses]), points)
    assert slope_x > 0 and slope_y == pytest.approx(rise, abs=0.01)


def test_bytes_depend_on_the_data_alone():
    assert drawn() == drawn()
    assert drawn() != drawn([*MINE, TARGET])


def test_hostile_names_stay_text():
    svg = drawn([point(HOSTILE, Estimate(1, 1, 1), Estimate(1, 1, 1), 0)])
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert any("<script>" in (t.text or "") for t in root.iter(f"{SVG}text"))
    panel = Panel("", "x", "y", [Line("_" + HOSTILE, [0, 1], [0, 1])] * 2, x_log=False, y_log=False)
    svg = draw_panels("k", [panel], alt=HOSTILE, size=(4.4, 2.8))
    assert ET.fromstring(svg).get("aria-label") == HOSTILE


def test_svg_names_itself_and_takes_colours_and_font_from_the_page():
    svg = drawn([CURVE, TARGET, *MINE])
    root = ET.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "what it says")
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "DejaVu" not in svg and "<style" not in svg and "<metadata" not in svg
    assert {"var(--series-0)", "var(--target)", "var(--ink)", "var(--font)"} <= set(re.findall(r"var\(--[\w-]+\)", svg))


def test_ids_are_the_figures_own_and_every_reference_meets_one():
    svg = drawn([CURVE, *MINE])
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) and all(i.startswith("key-") for i in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= set(ids)
