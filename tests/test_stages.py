"""Records of staged recipes: work is done once, with its settings; how a recipe ends."""

import json
import time
from functools import partial

import pytest

from vbon.errors import Paused, VbonError
from vbon.recipes.stages import Budget, Records, exit_status


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
    expected = rf"{named} was .*; repeat them, or choose another --out, or remove it and what it made"
    with pytest.raises(VbonError, match=expected):
        records.once("reference", settings, dict, made="it and what it made")


def test_a_recipe_ends_with_one_line(capsys):
    def fail(error: BaseException):
        raise error

    assert exit_status("sums", lambda: None) == 0
    assert exit_status("sums", lambda: fail(VbonError("no such file"))) == 2
    assert capsys.readouterr().err == "sums: error: no such file\n"
    assert exit_status("sums", lambda: fail(KeyboardInterrupt())) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err


def test_seconds_are_those_of_all_calls_that_a_piece_of_work_took(tmp_path):
    records = Records(tmp_path)
    (tmp_path / "stages").mkdir()

    def work(seconds: float, stop: BaseException | None = None) -> dict[str, int]:
        time.sleep(seconds)
        if stop is not None:
            raise stop
        return {}

    for stop in (Paused("between two steps"), KeyboardInterrupt()):
        with pytest.raises(type(stop)):
            records.once("train", {}, partial(work, 0.3, stop), made="it")
        assert records.find("train") is None and records.seconds() == {}
    record = records.once("train", {}, partial(work, 0.1), made="it")
    assert record["seconds"] >= 0.7 and [path.name for path in (tmp_path / "stages").iterdir()] == ["train.json"]


def test_a_budget_is_spent_after_its_minutes_and_never_without(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget, endless = Budget(2), Budget(None)
    assert budget.share_left == 1 and not budget.is_spent()
    now = 190.0
    assert budget.share_left == pytest.approx(0.25) and not budget.is_spent()
    now = 221.0
    assert budget.share_left == 0 and budget.is_spent()
    assert endless.share_left == 1 and not endless.is_spent()


def test_a_pause_is_no_error(capsys):
    def pause() -> None:
        raise Paused("after step 3")

    assert exit_status("sums", pause) == 0
    assert capsys.readouterr().err == "sums: paused: after step 3\n"
