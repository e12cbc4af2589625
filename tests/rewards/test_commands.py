"""Every config of a command that loads a reward has the fields that loading reads."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from vbon.rewards import load


@pytest.mark.parametrize("config", typing.get_args(load.Command), ids=lambda config: config.__name__)
def test_a_command_that_loads_a_reward_has_its_settings(config):
    read = set(re.findall(r"config\.(\w+)", Path(load.__file__).read_text()))
    assert read and read <= {field.name for field in dataclasses.fields(config)}
