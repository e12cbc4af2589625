"""Records of staged recipes: work is done once, with its settings; how a recipe ends."""

import json

import pytest

from vbon.demo.staged import Records, exit_status
from vbon.errors import VbonError


def test_work_is_done_once_and_its_record_is_kept(tmp_path):
    records, done = Records(tmp_path), []

    def work() -> dict[str, int]:
        done.append(1)
        return {"parameters": 7}

    (tmp_path / "stages").mkdir()
    record = records.once("reference", {"steps": 2, "sizes": (3, 4)}, work, made="it")
    assert records.once("reference", {"sizes": [3, 4], "steps": 2}, work, made="it") is None
    assert done == [1]
    stored = json.loads((tmp_path / "stages/reference.json").read_text())
    assert stored == {"settings": {"steps": 2, "sizes": [3, 4]}, "seconds": record["seconds"], "parameters": 7}
    assert records.find("reference") == stored and records.find("pool") is None
    assert records.seconds() == {"reference": record["seconds"]}


@pytest.mark.parametrize("settings", [{"steps": 3}, {"steps": 2, "width": None}, {}])
def test_other_settings_are_refused_and_named(tmp_path, settings):
    records = Records(tmp_path)
    (tmp_path / "stages").mkdir()
    records.once("reference", {"steps": 2}, dict, made="it")
    named = "width" if "width" in settings else "steps"
    expected = f"made with another {named}; choose another --out, or remove it and what it made"
    with pytest.raises(VbonError, match=expected):
        records.once("reference", settings, dict, made="it and what it made")


def test_a_recipe_ends_with_one_line(capsys):
    def fail(error: BaseException):
        raise error

    assert exit_status("sums", lambda: None) == 0
    assert exit_status("sums", lambda: fail(VbonError("no such file"))) == 2
    assert capsys.readouterr().err == "sums: error: no such file\n"
    assert exit_status("sums", lambda: fail(KeyboardInterrupt())) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
