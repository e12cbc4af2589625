"""One rule for "the same settings": names that may change, settings that an older version did not know, mappings."""

import dataclasses

import pytest

from vbon.artifacts.settings import MAY_CHANGE, check_same_settings
from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.errors import VbonError


def test_every_difference_is_named_by_its_flag_with_both_values():
    with pytest.raises(VbonError) as caught:
        check_same_settings(
            "RUN", {"n": 4, "max_new_tokens": None, "seed": 1}, {"n": 8, "max_new_tokens": 16, "seed": 1}
        )
    assert str(caught.value) == (
        "RUN: was started with other settings (--n was 4, now it is 8; --max-new-tokens was not set, now it is 16); "
        "repeat them, or choose another --out"
    )


@pytest.mark.parametrize("name", sorted(MAY_CHANGE))
def test_what_says_where_and_when_may_change(name: str):
    check_same_settings("RUN", {name: 1}, {name: 2})
    check_same_settings("SWEEP", {"train": {name: 1}}, {"train": {name: 2}})
    with pytest.raises(VbonError):
        check_same_settings("RUN", {name: 1}, {name: 2}, may_change=())


def test_every_name_that_may_change_is_a_setting_of_some_verb():
    known = {
        field.name for config in (CollectConfig, EvaluateConfig, TrainConfig) for field in dataclasses.fields(config)
    }
    assert known >= MAY_CHANGE


def test_a_setting_that_one_side_did_not_know_is_no_difference():
    check_same_settings("RUN", {"n": 4}, {"n": 4, "new": 3})
    check_same_settings("RUN", {"n": 4, "gone": 3}, {"n": 4})
    for then, now in (({}, {"new": 3}), ({"gone": 3}, {})):
        with pytest.raises(VbonError):
            check_same_settings("RUN", then, now, missing_differs=True)


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({"a": 1}, {"a": 2}, "train.a was 1, now it is 2"),
        ({}, {"a": 2}, "train.a was missing, now it is 2"),
        ({"a": {"b": 1}}, {"a": {}}, "train.a.b was 1, now it is missing"),
        ({"a": {"b": 1}}, {"a": 3}, "train.a was {'b': 1}, now it is 3"),
    ],
)
def test_inside_a_mapping_every_key_counts(then: dict[str, object], now: dict[str, object], says: str):
    with pytest.raises(VbonError) as caught:
        check_same_settings("SWEEP", {"train": then}, {"train": now}, spell=str)
    assert f"({says})" in str(caught.value)


def test_a_tuple_is_the_list_that_a_file_makes_of_it():
    check_same_settings("RUN", {"ids": [1, [2, 3]]}, {"ids": (1, (2, 3))})
    with pytest.raises(VbonError):
        check_same_settings("RUN", {"ids": [1, 2]}, {"ids": (2, 1)})
