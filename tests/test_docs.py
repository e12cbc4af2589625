"""The reference pages name only what exists: functions, tests, files, verbs and make targets."""

import ast
import re
from pathlib import Path

import pytest

from vbon.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("paper_to_code.md", "glossary.md", "architecture.md", "how-it-works.md")
ROOMS = (
    "core|artifacts|pool|models|rewards|training|evaluation|report|lab|integrations|config|sweep|demo|recipes|flags|cli"
)
NAME = re.compile(rf"({ROOMS})(\.\w+)+(?<!\.json)")
FILE = re.compile(r"(src|tests|docs|recipes|benchmarks)/[^\s:]+(::\w+)?")
PAPER_MODULES = ("best_of_n", "reward_cdf", "objectives", "offline", "policy_gradient", "kl")


def definitions(path):
    """Dotted names that a Python file defines: functions, classes, their methods, assigned names."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if hasattr(node, "target") else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def name_exists(name):
    """`core.best_of_n.log_weight`: a module under src/vbon, and what it defines."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        module = ROOT.joinpath("src", "vbon", *parts[:size])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                rest = ".".join(parts[size:])
                return not rest or rest in definitions(file)
    return False


def file_exists(reference):
    path, _, name = reference.partition("::")
    return (ROOT / path).exists() and (not name or name in definitions(ROOT / path))


def command_exists(command):
    program, verb = command.split()[:2]
    if program == "make":
        return re.search(rf"^{re.escape(verb)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    return verb in VERBS


def is_dangling(token):
    if NAME.fullmatch(token):
        return not name_exists(token)
    if FILE.fullmatch(token):
        return not file_exists(token)
    return token.startswith(("vbon ", "make ")) and not command_exists(token)


def tokens(text):
    return re.findall(r"`([^`\n]+)`", text)


def rows(text):
    """Cells of every table row below a header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = {i for i, row in enumerate(cells) if set(row[0]) <= set("-:")}
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


@pytest.mark.parametrize("doc", DOCS)
def test_no_dangling_names(doc):
    assert [token for token in tokens((ROOT / "docs" / doc).read_text()) if is_dangling(token)] == []


@pytest.mark.parametrize("doc", DOCS)
def test_no_dangling_links(doc):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "docs" / doc).read_text())
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.parametrize("folder", ["docs", "recipes"])
def test_figures_stand_alone(folder):
    """Colours of the report's page are variables, which stand for nothing in a file of its own: nothing is drawn."""
    figures = sorted((ROOT / folder).rglob("*.svg"))
    assert figures
    assert [path.name for path in figures if "var(--" in path.read_text()] == []


def test_each_row_of_the_paper_names_a_function_and_a_test():
    for row in rows((ROOT / "docs" / "paper_to_code.md").read_text()):
        _, _, functions, tests, command = row
        assert tokens(functions) and all(NAME.fullmatch(token) for token in tokens(functions)), row
        assert tokens(tests) and all("::" in token and FILE.fullmatch(token) for token in tokens(tests)), row
        assert command == "–" or all(token.startswith(("vbon ", "make ")) for token in tokens(command)), row


def test_each_public_function_of_the_method_has_its_row():
    named = set(tokens((ROOT / "docs" / "paper_to_code.md").read_text()))
    public = set()
    for module in PAPER_MODULES:
        tree = ast.parse((ROOT / "src" / "vbon" / "core" / f"{module}.py").read_text())
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        public |= {f"core.{module}.{name}" for name in found if not name.startswith("_")}
    assert public - named == set()


@pytest.mark.parametrize(
    "token",
    [
        "core.best_of_n.log_wait",
        "core.best_off_n.log_weight",
        "core.reward_cdf.RewardCDF.intervals",
        "tests/core/test_best_of_n.py::test_nothing_of_the_kind",
        "tests/core/test_best_of_m.py",
        "vbon inspekt POOL",
        "make tests-of-nothing",
    ],
)
def test_a_wrong_name_is_found(token):
    assert is_dangling(token)
