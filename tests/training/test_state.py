"""What a resumed run is told about itself: read back whole, or refused with the file that is damaged."""

import json
from pathlib import Path

import pytest

from vbon.artifacts.run import keep_rows, read_rows
from vbon.errors import VbonError
from vbon.training.output.state import RunState

ROW = {"iteration": 2, "validation/objective": -1.0, "validation/objective_se": 0.1}
FULL = RunState(4, 2, [ROW], ROW, [{"kl_policy_ref": 0.1}], ["plateau"])


def test_a_state_survives_json():
    assert RunState.from_json(json.loads(json.dumps(FULL.to_json())), "x") == FULL
    assert RunState.from_json(RunState().to_json(), "x") == RunState()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iteration": "4"}, "'iteration' must be a whole number, not '4'"),
        ({"iteration": True}, "'iteration' must be a whole number, not True"),
        ({"warnings_given": None}, "'warnings_given' must be a list, not None"),
        ({"best": []}, r"'best' must be an object, not \[\]"),
        ({"best": {"iteration": 2}}, "a validation is incomplete"),
        ({"validations": [7]}, r"'validations\[0\]' must be an object, not 7"),
        ({"more": 1}, "does not say where a run stands"),
    ],
)
def test_each_damage_is_named(changes, message):
    with pytest.raises(VbonError, match=f"step-000002: {message}; remove the checkpoint, and the same command"):
        RunState.from_json(FULL.to_json() | changes, "step-000002")
    for content in (None, [], "x"):
        with pytest.raises(VbonError, match="does not say"):
            RunState.from_json(content, "step-000002")


def test_rows_keep_line_separators_and_only_a_torn_last_line_is_left_out(tmp_path: Path):
    """U+2028, U+0085 and their like are text: a completion may hold them, and they end no row."""
    path = tmp_path / "samples.jsonl"
    rows = [{"iteration": i, "completion": f"a\u2028b\x85c\x1c{i}"} for i in range(4)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(whole + '{"iteration": 4, "comp', encoding="utf-8")
    assert read_rows(path) == rows
    keep_rows(path, RunState(iteration=2, validations=[ROW]).covers)
    assert read_rows(path) == rows[:3]


@pytest.mark.parametrize("line", [b'{"iteration"', b"[]", b"7", b'{"iteration": "2"}', b"{}", b"\xff", b"[" * 100_000])
def test_a_damaged_line_before_the_last_is_named_and_nothing_is_dropped(tmp_path: Path, line: bytes):
    path = tmp_path / "metrics.jsonl"
    content = b'{"iteration": 0}\n' + line + b'\n{"iteration": 1}\n'
    path.write_bytes(content)
    with pytest.raises(VbonError, match=r"metrics.jsonl:2: "):
        keep_rows(path, RunState().covers)
    assert path.read_bytes() == content
