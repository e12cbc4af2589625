"""Docstrings of the packages that are listed here: present, of the expected form, complete for long signatures."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vbon"
CONFORMING = ("artifacts", "core", "models", "pool", "sweep", "training")
"""Packages and modules whose docstrings conform; the aim is all of src/vbon, so the list only grows."""
QUESTION = re.compile(r"(What|Whether|Where|How|Which|That)\b")
LONG_SIGNATURE = 4
REFERENCE = re.compile(r"[Ss]ee `[\w.]+`")
"""A method of a protocol may refer to the protocol's docstring in place of sections of its own."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_nodes(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    """The module, its public classes and functions, and the public methods of these classes, by dotted name."""
    yield "module", tree
    yield from public_members(tree, "")


def public_members(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Documented]]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_members(node, f"{prefix}{node.name}.")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Its named parameters; `*args` and `**kwargs`, which pass on what others define, are none."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [given.arg for given in named if given.arg not in ("self", "cls")]


def returns_a_value(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return not (isinstance(function.returns, ast.Constant) and function.returns.value is None)


def missing_sections(node: Documented, docstring: str) -> list[str]:
    """What the docstring of a long signature lacks: its sections, and parameters that `Args:` does not name."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(parameters(node)) < LONG_SIGNATURE:
        return []
    if REFERENCE.search(docstring):
        return []
    _, _, arguments = docstring.partition("\nArgs:\n")
    missing = ["Args:"] if not arguments else []
    missing += [f"Args: {name}" for name in parameters(node) if arguments and f"    {name}:" not in arguments]
    if returns_a_value(node) and not re.search(r"\n(Returns|Yields):\n", docstring):
        missing.append("Returns:")
    return missing


def faults(source: str) -> list[str]:
    found = []
    for name, node in public_nodes(ast.parse(source)):
        docstring = ast.get_docstring(node)
        if not docstring:
            found.append(f"{name}: no docstring")
            continue
        if QUESTION.match(docstring):
            found.append(f"{name}: begins with {docstring.split()[0]}")
        found += [f"{name}: lacks {section}" for section in missing_sections(node, docstring)]
    return found


def files() -> list[Path]:
    roots = [SOURCE / name for name in CONFORMING]
    return sorted(path for root in roots for path in (root.rglob("*.py") if root.is_dir() else [root]))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_conform(path: Path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", CONFORMING)
def test_each_name_in_the_list_exists(name: str):
    assert list((SOURCE / name).rglob("*.py")) or (SOURCE / name).is_file()


FORM = '''"""A module."""


def f(a, b, c, d) -> int:
    """{first}

    Args:
        a: one.
        b: two.
        c: three.
        {last}: four.

    {returns}:
        Five.
    """
'''


def test_a_conforming_docstring_has_no_faults():
    assert faults(FORM.format(first="Add four numbers.", last="d", returns="Returns")) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n", "module: no docstring"),
        ('"""A module."""\nclass A:\n    def method(self):\n        pass\n', "A: no docstring"),
        ('"""A module."""\nclass A:\n    """A class."""\n    def m(self):\n        pass\n', "A.m: no docstring"),
        ('"""Where things are."""\n', "module: begins with Where"),
        (FORM.format(first="Whether it fits.", last="d", returns="Returns"), "f: begins with Whether"),
        (FORM.format(first="Add.", last="e", returns="Returns"), "f: lacks Args: d"),
        (FORM.format(first="Add.", last="d", returns="Raises"), "f: lacks Returns:"),
        (FORM.replace("Args:", "Parameters:").format(first="Add.", last="d", returns="Returns"), "f: lacks Args:"),
    ],
)
def test_a_fault_is_found(source: str, fault: str):
    assert fault in faults(source)
