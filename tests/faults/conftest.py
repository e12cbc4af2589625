"""The enumerable task in a folder, and the command line run in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.commands import write_ingredients

from vbon import cli


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, reward.py, prompts.jsonl (the first six) and held.jsonl (the other two)."""
    return write_ingredients(tmp_path_factory.mktemp("ingredients"))


@pytest.fixture
def vbon(ingredients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """vbon("collect --out pool …") → exit status; model, reward.py and the prompts lie in the current folder."""
    for path in ingredients.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    yield lambda line: cli.main(line.split())
