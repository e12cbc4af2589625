"""The layers of the packages, circles of imports, names of files and the check for the same settings, from the source.

`lint-imports` checks the layers too, without imports that are there for types only; here they count.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = {
    "config.yaml": "vbon.artifacts",
    "run.json": "vbon.artifacts.run",
    "metrics.jsonl": "vbon.artifacts.run",
    "samples.jsonl": "vbon.artifacts.run",
    "evaluation.json": "vbon.artifacts.evaluation",
    "inputs.json": "vbon.artifacts.evaluation",
    "per_prompt.parquet": "vbon.artifacts.evaluation",
    "samples.parquet": "vbon.artifacts.evaluation",
    "reference.parquet": "vbon.artifacts.evaluation",
    "throughput.json": "vbon.artifacts.evaluation",
    "sweep.yaml": "vbon.artifacts.sweep",
    "sweep.json": "vbon.artifacts.sweep",
    "timings.json": "vbon.artifacts.sweep",
    "speeds.json": "vbon.artifacts.sweep",
    "manifest.json": "vbon.pool.manifest",
    "state.json": "vbon.training",
}
"""What stages leave for each other, and the module or package that knows its name."""


def sources() -> dict[str, ast.Module]:
    """Module name → its syntax tree."""
    names = {path: ".".join(path.relative_to(SRC).with_suffix("").parts) for path in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for path, name in names.items()}


MODULES = sources()


def imports_of(name: str, tree: ast.Module) -> Iterator[str]:
    """Modules of vbon that a module imports anywhere: on top, inside functions, for types only, by importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from inner & MODULES.keys()
            if inner - MODULES.keys():
                yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "_module")):
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and one.value in MODULES)


IMPORTS = {name: set(imports_of(name, tree)) - {name} for name, tree in MODULES.items()}


def layers() -> list[set[str]]:
    """The layers of pyproject.toml, the highest first; each is a set of packages."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lines = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [set(re.findall(r"[\w.]+", line)) for line in lines]


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_module_imports_a_higher_layer():
    height = {package: -number for number, layer in enumerate(layers()) for package in layer}
    assert {package_of(name) for name in MODULES} - {"vbon"} == height.keys()
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name != "vbon" and (other == "vbon" or height[package_of(other)] > height[package_of(name)])
    ]
    assert not wrong


def circles() -> list[list[str]]:
    """Strongly connected sets of more than one module (Tarjan, 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in IMPORTS[name]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in IMPORTS:
        if name not in order:
            visit(name)
    return found


def test_no_circle_of_imports():
    del IMPORTS["vbon"]  # names the public functions, each imported on first use; nothing imports it (see above)
    for others in IMPORTS.values():
        others.discard("vbon")
    assert not circles()


def test_artifacts_import_no_torch():
    reached, todo = set(), [name for name in MODULES if name.startswith("vbon.artifacts")]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += IMPORTS[name]
    external = {
        (name, alias)
        for name in reached
        for node in ast.walk(MODULES[name])
        for alias in (
            [one.name for one in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)]
        )
        if isinstance(node, ast.Import | ast.ImportFrom) and alias
    }
    assert not [(name, alias) for name, alias in external if alias.split(".")[0] in ("torch", "transformers")]


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text of a module but its docstrings; of an f-string, the parts."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_a_stage_leaves_is_spelled_in_one_room(file: str):
    pattern = re.compile(rf"(^|[\s/'\"`(]){re.escape(file)}($|[\s'\"`:;,.)])")
    others = {name: tree for name, tree in MODULES.items() if name != "vbon.cli"}  # its help names files to the user
    rooms = {name for name, tree in others.items() if any(pattern.search(text) for text in texts(tree))}
    assert rooms and all(room.startswith(FILES[file]) for room in rooms)


def test_the_same_settings_is_one_function():
    functions = {
        f"{name}.{node.name}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and re.search(r"check_same|same_settings", node.name)
    }
    assert functions == {"vbon.artifacts.settings.check_same_settings"}
    refusals = {
        name for name, tree in MODULES.items() if any("was started with other settings" in text for text in texts(tree))
    }
    assert refusals == {"vbon.artifacts.settings"}
