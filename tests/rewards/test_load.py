"""The form of a specification decides what is loaded; what has none of the forms is told which there are."""

import pytest

from vbon.errors import VbonError
from vbon.rewards import load_reward
from vbon.rewards.protocol import FORMS


@pytest.mark.parametrize(
    "spec", ["./absent", "/absent/dir", "a b", "", "absent/deep/path", "dir/#POS", "module:", ":f", "file.txt:f"]
)
def test_what_has_no_known_form_is_told_the_forms(spec):
    with pytest.raises(VbonError) as raised:
        load_reward(spec)
    assert FORMS in str(raised.value) and spec in str(raised.value)


def test_an_id_that_cannot_be_fetched_is_told_the_forms(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VbonError) as raised:
        load_reward("nobody/no-such-reward#1")
    assert str(raised.value).startswith("reward nobody/no-such-reward#1: cannot load a config from")
    assert "there is no such directory here" in str(raised.value) and str(raised.value).endswith(FORMS)


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(VbonError, match=r"is no model directory \(config\.json is missing there\)"):
        load_reward(f"{tmp_path}#POS")


def test_a_file_without_a_function_is_told_to_name_it(tmp_path):
    (tmp_path / "r.py").write_text("")
    with pytest.raises(VbonError, match=r"name the function too, .*r\.py:function"):
        load_reward(str(tmp_path / "r.py"))


def test_a_directory_with_a_colon_is_no_module(tmp_path, monkeypatch):
    (tmp_path / "run:best").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VbonError, match="'run:best' is no model directory"):
        load_reward("run:best")


def test_a_broken_model_directory_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(VbonError, match="cannot load a config from") as raised:
        load_reward(str(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "name"),
    [("builtin:length", "builtin:length"), ("HTTP://Example.org:80/score?key=1", "http://example.org:80/score")],
)
def test_each_form_is_recognised(spec, name):
    assert load_reward(spec).name == name
