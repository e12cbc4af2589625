"""A model, prompts and a reward in a folder, and the command line run in it."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vbon import cli

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside the tests


def load_world() -> ModuleType:
    """The enumerable task of tests/training, by its file: several folders have a conftest.py."""
    spec = importlib.util.spec_from_file_location("enumerable", Path(__file__).parents[1] / "training/conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ref/, reward.py, prompts.jsonl (the first six) and held.jsonl (the other two)."""
    world, folder = load_world(), tmp_path_factory.mktemp("ingredients")
    world.save_model(folder / "ref")
    (folder / "reward.py").write_text(world.REWARD)
    rows = [json.dumps({"prompt": prompt}) + "\n" for prompt in world.PROMPTS]
    (folder / "prompts.jsonl").write_text("".join(rows[:6]))
    (folder / "held.jsonl").write_text("".join(rows[6:]))
    return folder


@pytest.fixture
def vbon(ingredients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """vbon("collect --out pool …") → exit status; ref, reward.py and the prompts lie in the current folder."""
    for path in ingredients.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    yield lambda line: cli.main(line.split())
