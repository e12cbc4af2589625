"""What the package's own code never does: unpickle, evaluate text, load YAML unsafely, run a shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vbon

MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "np.load",
    "numpy.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "pd.read_pickle",
}


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield f"{node.lineno}: {name}"
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                if (keyword.arg, value) in {
                    ("shell", "True"),
                    ("trust_remote_code", "True"),
                    ("allow_pickle", "True"),
                    ("weights_only", "False"),
                    ("use_safetensors", "False"),
                }:
                    yield f"{node.lineno}: {keyword.arg}={value}"


def test_the_package_executes_nothing_that_it_reads():
    paths = sorted(Path(vbon.__file__).parent.rglob("*.py"))
    found = [f"{path}:{fault}" for path in paths for fault in faults(path.read_text(encoding="utf-8"))]
    assert len(paths) > 80 and found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "torch.load(f)",
        "yaml.load(f)",
        "eval(x)",
        "run(c, shell=True)",
        "from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_the_search_finds_each(line: str):
    assert len(list(faults(line))) == 1


@pytest.mark.parametrize("line", ["model.eval()", "yaml.safe_load(f)", "re.compile(x)", "load(n, trust_remote_code=t)"])
def test_and_nothing_else(line: str):
    assert list(faults(line)) == []
