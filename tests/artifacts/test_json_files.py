"""Strict JSON in, JSON out; a torn last line costs itself and nothing else."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vbon.artifacts.json_files import append_line, json_value, lines_text, read_lines, read_object, write_json
from vbon.errors import VbonError

ROWS = [{"a": 1, "text": "one\u2028line"}, {"a": 2.5}, {"a": None}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused_and_null_only_where_asked_for(tmp_path: Path, value: float):
    path = tmp_path / "f.json"
    write_json(path, {"a": 1})
    for write in (write_json, append_line):
        with pytest.raises(ValueError, match="JSON"):
            write(path, {"a": [value]})
    assert read_object(path) == {"a": 1}  # the file before is intact
    assert json_value({"a": (value, np.float64(value), 1.5)}) == {"a": [None, None, 1.5]}


def test_values_become_json_of_their_own():
    made = json_value({"p": Path("x"), 1: np.arange(2), "f": np.float32(0.5), "b": True, "n": None})
    assert made == {"p": "x", "1": [0, 1], "f": 0.5, "b": True, "n": None}
    assert json.loads(json.dumps(made)) == made and made["b"] is True


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "must hold a JSON object"),
        ('{"a": 1, "a": 2}', "key 'a' appears twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "out of range"),
        ('{"format_version": 2}', "format_version is 2; this vbon reads 1"),
    ],
)
def test_anything_but_an_object_of_strict_json_is_refused_by_file(tmp_path: Path, text: str, says: str):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(VbonError) as caught:
        read_object(path, format_version=1)
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)


def test_a_missing_file_is_an_error_for_an_object_and_no_lines(tmp_path: Path):
    with pytest.raises(VbonError, match="cannot be read"):
        read_object(tmp_path / "none.json")
    assert read_lines(tmp_path / "none.jsonl") == []


def test_lines_cut_anywhere_give_the_complete_ones(tmp_path: Path):
    path, content = tmp_path / "f.jsonl", lines_text(ROWS).encode()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        complete = content[: length + 1] if content[length : length + 1] == b"\n" else content[:length]
        assert read_lines(path) == ROWS[: complete.count(b"\n")]


def test_a_bad_line_that_is_not_the_last_is_named(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    for bad in (b"{", b"3", b"\xff"):
        path.write_bytes(b'{"a": 1}\n' + bad + b'\n{"a": 2}\n')
        with pytest.raises(VbonError, match=f"{path}:2: "):
            read_lines(path)


def test_appended_lines_are_read_back(tmp_path: Path):
    for row in ROWS:
        append_line(tmp_path / "f.jsonl", row)
    assert read_lines(tmp_path / "f.jsonl") == ROWS
