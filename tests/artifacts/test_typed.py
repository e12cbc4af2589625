"""A record has the types of its annotations, or the error names file, field and value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from vbon.artifacts.typed import read_record
from vbon.errors import VbonError


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 1


@dataclass(frozen=True)
class Whole:
    text: str
    share: float
    is_done: bool
    parts: tuple[Part, ...]
    unknown: float | None
    ids: tuple[int, ...] | None
    extra: Mapping[str, Any]
    anything: Any = 7


GOOD: dict[str, Any] = {
    "text": "t",
    "share": 1,
    "is_done": False,
    "parts": [{"name": "a", "size": 2}, {"name": "b", "ignored": 0}],
    "ids": [3, 4],
    "extra": {"k": None},
}


def test_every_field_takes_its_annotated_type_and_what_is_missing_is_unknown():
    made = read_record(Whole, GOOD, "F")
    assert made == Whole("t", 1.0, False, (Part("a", 2), Part("b")), None, (3, 4), {"k": None})
    assert type(made.share) is float


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": 3}, "F: 'text' must be text, not 3"),
        ({"share": True}, "F: 'share' must be a number, not True"),
        ({"share": "1.0"}, "F: 'share' must be a number, not '1.0'"),
        ({"share": 10**400}, "F: 'share' is out of range"),
        ({"is_done": 0}, "F: 'is_done' must be true or false, not 0"),
        ({"parts": {}}, "F: 'parts' must be a list, not {}"),
        ({"parts": [{"name": "a"}, 1]}, "F: 'parts[1]' must be an object, not 1"),
        ({"parts": [{"size": 1}]}, "F: parts[0]: 'name' must be text, not None"),
        ({"ids": [1, True]}, "F: 'ids[1]' must be a whole number, not True"),
        ({"extra": []}, "F: 'extra' must be an object, not []"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_value(change: dict[str, Any], says: str):
    with pytest.raises(VbonError) as caught:
        read_record(Whole, json.loads(json.dumps(GOOD | change)), "F")
    assert str(caught.value) == says


def test_content_that_is_no_object_is_refused():
    with pytest.raises(VbonError, match=r"F: must be an object, not \[\]"):
        read_record(Whole, [], "F")
