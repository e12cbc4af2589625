"""The fuzzer's readers in this process: each reads the files it is said to accept, and damage ends in one line."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import fuzz
from tests.faults.reader import Target

from vbon.errors import VbonError

INPUTS = range(1000)


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Target]]:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield fuzz.targets(tmp_path)


def test_each_reader_accepts_its_valid_files(targets: list[Target]):
    """Else what the fuzzer damages was refused for another reason all along."""
    assert len(targets) == len({target.name for target in targets})
    for target in targets:
        for valid in target.valid:
            target.read(valid.content, valid.suffix)


def test_damage_is_read_or_refused_in_one_line(targets: list[Target], tmp_path: Path):
    before, found = sorted(os.walk(tmp_path)), Counter()
    for number in INPUTS:
        target, _, suffix, content = fuzz.draw(number, 7, targets)
        try:
            target.read(content, suffix)
            found[target.name, "read"] += 1
        except VbonError as error:
            assert str(error) and "\n" not in str(error), target.name
            found[target.name, "refused"] += 1
    assert sorted(os.walk(tmp_path)) == before
    assert {name for name, _ in found} == {target.name for target in targets}
