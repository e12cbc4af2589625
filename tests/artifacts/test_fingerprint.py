"""Differences are named with both values; what is unknown on either side is no difference."""

import dataclasses

import pytest

from vbon.artifacts.fingerprint import FIELDS, Fingerprint, check_fingerprint
from vbon.errors import VbonError

POOL = Fingerprint("m1", "t1", "none", 1.0, 16, (0,), "r1")
OTHER = {
    "model": "m2",
    "tokenizer": "t2",
    "chat_template": "c2",
    "temperature": 0.7,
    "max_new_tokens": 8,
    "stop": (0, 1),
    "reward": "r2",
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_that_differs_is_named_with_both_values(field: str):
    actual = dataclasses.replace(POOL, **{field: OTHER[field]})
    assert POOL.differences(actual) == [(field, getattr(POOL, field), OTHER[field])]
    with pytest.raises(VbonError, match=f"--allow-mismatch {field}") as caught:
        check_fingerprint(POOL, actual, what="the policy")
    assert repr(getattr(POOL, field)) in str(caught.value) and repr(OTHER[field]) in str(caught.value)
    assert check_fingerprint(POOL, actual, allow_mismatch=[field], what="the policy") == [field]


@pytest.mark.parametrize("field", FIELDS)
def test_unknown_fields_pass(field: str):
    actual = dataclasses.replace(POOL, **{field: None})
    assert POOL.differences(actual) == actual.differences(POOL) == []
    assert actual.unknown() == [field]
    assert check_fingerprint(POOL, actual, what="the policy") == []


def test_allowing_one_field_does_not_allow_another():
    actual = dataclasses.replace(POOL, temperature=0.7, reward="r2")
    with pytest.raises(VbonError, match="reward is 'r1' in the pool but 'r2' here") as caught:
        check_fingerprint(POOL, actual, allow_mismatch=["temperature"], what="the run")
    assert "temperature" not in str(caught.value)


def test_an_unknown_name_to_allow_is_refused():
    with pytest.raises(VbonError, match="--allow-mismatch temprature: no such field; one of model, tokenizer"):
        check_fingerprint(POOL, POOL, allow_mismatch=["temprature"], what="the run")
