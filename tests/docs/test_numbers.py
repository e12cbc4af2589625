"""Tables and drawings of the pages are those that the committed results and vbon's functions give."""

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, pictures = load("result_tables"), load("pictures")


@pytest.mark.parametrize("page", tables.pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_a_page_are_current(page: Path):
    text = page.read_text(encoding="utf-8")
    assert tables.refreshed(text, page) == text, "run make numbers"


def test_every_table_is_shown_somewhere():
    text = "".join(page.read_text(encoding="utf-8") for page in tables.pages())
    assert {name for _, name, _, _ in tables.BLOCK.findall(text)} == set(tables.TABLES)


def test_a_stale_table_is_found():
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    changed = text.replace("IMDB reviews](recipes/sentiment/README.md), 16 tokens, N = 8 | 9", "IMDB, N = 8 | 8")
    assert changed != text and tables.refreshed(changed, page) == text


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_drawing_is_current(name: str):
    """Its words and shapes are the same, and every number to half a unit of the last place that can be seen."""
    stored, drawn = (pictures.FOLDER / f"{name}.svg").read_text(encoding="utf-8"), pictures.PICTURES[name]()
    assert NUMBER.sub("#", stored) == NUMBER.sub("#", drawn), "run make pictures"
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(drawn), strict=True)
    assert [(a, b) for a, b in pairs if abs(float(a) - float(b)) > 0.5] == []


def test_the_curve_of_the_trade_off_passes_through_best_of_8():
    ((kl, win_rate),) = pictures.tradeoff_points([8.0])
    assert kl == pytest.approx(math.log(8) - 7 / 8) and win_rate == pytest.approx(8 / 9)
