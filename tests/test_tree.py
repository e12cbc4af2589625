"""README's tree and the architecture page agree with the files in src/vbon."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "vbon"
READING_LIMIT = 900
DRIFT = 15  # lines by which a file may differ from the rounded number on the page


def named_in_tree(text):
    """Map each folder of README's tree, relative to src/vbon, to the Python files named below it."""
    found, folder = {}, None
    for line in text.split("src/vbon/\n")[1].split("```")[0].splitlines():
        if line.startswith("    "):
            found[folder] |= set(re.findall(r"\w+\.py", line))
        else:
            for folder in re.findall(r"([a-z_/]+)/(?:\s|$)", line):
                found[folder] = set()
    return found


def files_of(folder):
    return {path.name for path in (PACKAGE / folder).glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("folder", ["core", "training", "training/parallel", "training/output"])
def test_readme_names_each_file(folder):
    assert named_in_tree((ROOT / "README.md").read_text())[folder] == files_of(folder)


def test_readme_and_architecture_name_each_package():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    tree = named_in_tree((ROOT / "README.md").read_text())
    assert {folder for folder in tree if "/" not in folder} == packages
    layers = (ROOT / "docs" / "architecture.md").read_text().split("## The packages")[1].split("```")[1]
    assert packages - set(re.findall(r"\w+", layers)) == set()


def test_the_reading_order_is_short_and_its_line_counts_are_true():
    rows = re.findall(r"^\| `(src/\S+)` \| (\d+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    lines = {name: len((ROOT / name).read_text().splitlines()) for name, _ in rows}
    assert rows and sum(lines.values()) < READING_LIMIT
    assert [name for name, said in rows if abs(lines[name] - int(said)) > DRIFT] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/how-it-works.md"])
def test_lines_outside_tables_are_short(page):
    lines = (ROOT / page).read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
