"""The page of a finished sweep: what a parser sees of it, and a real browser where there is one."""

from pathlib import Path

import pytest
from tests.pages import Outline, shown_prompts
from tests.sweep.conftest import HELD_OUT, LIMIT

pytestmark = pytest.mark.timeout(LIMIT)


@pytest.fixture(scope="module")
def outline(finished: Path) -> Outline:
    return Outline((finished / "report.html").read_text())


def test_the_page_is_one_file_that_loads_nothing(outline):
    assert not [tag for tag, _ in outline.tags if tag in ("link", "iframe", "object", "embed", "img")]
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in outline.of("a")} <= set(ids)


def test_the_page_has_every_figure_with_words_for_it(outline):
    labels = [svg["aria-label"] for svg in outline.of("svg")]
    for said in (
        "Win rate against KL",
        "Reward against KL",
        "Points on the front of win rate",
        "Points on the front of reward",
        "KL to best-of-N over N",
        "Judge ",
        "Speed: ",
        "Latency at batch 1",
    ):
        assert any((label or "").startswith(said) for label in labels), said
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in outline.of("svg"))


def test_the_page_says_the_figures_of_the_table(finished, outline):
    """KL(π_θ‖π_bon) of each method and N, mean over seeds, as table.md has it."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in (finished / "table.md").read_text().split("\n")
    ]
    rows = [row for row in rows if len(row) == 9 and row[0] in ("vbon", "bonbon")]
    assert len(rows) == 4
    for row in rows:
        assert row[7].split(" ")[0] in outline.text


def test_a_browser_runs_the_page_without_errors_and_filters_samples(finished, browse):
    dom, log = browse(finished / "report.html")
    assert "CONSOLE" not in log and "<title>vbon sweep" in dom
    assert sorted(shown_prompts(dom)) == sorted(HELD_OUT)
    dom, log = browse(finished / "report.html", "q=three&where=prompt")
    assert "CONSOLE" not in log
    assert sorted(shown_prompts(dom)) == sorted(prompt for prompt in HELD_OUT if "three" in prompt)
    assert "3 of 6 prompts" in dom
