"""Every config of a command that loads a reward has the fields that loading reads."""

import typing

import pytest

from vbon.config.fields import required_fields
from vbon.rewards import load


@pytest.mark.parametrize("cls", typing.get_args(load.Command), ids=lambda cls: cls.__name__)
def test_a_command_that_loads_a_reward_has_its_settings(cls):
    required = {field.name: 2.0 if field.name == "n" else "x" for field in required_fields(cls)}
    config = cls(**required)
    assert load.load_configured_reward("builtin:length", config, "cpu")(["p"], ["abc"]) == [3.0]
