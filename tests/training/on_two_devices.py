"""Train every config on the CPU and on a device that is none, and print what each validation saw: JSON.

    python -m tests.training.on_two_devices CONFIG.yaml…

A process of its own, since torch counts its devices before its first gradient and never again.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from tests.pretend_device import device, pretended

from vbon.artifacts.run import RunFolder, read_rows
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import load_yaml
from vbon.models import load
from vbon.training.train import train


def trained(config: TrainConfig, where: torch.device) -> list[dict[str, Any]]:
    """The rows of the run's diary, without its seconds."""
    load.resolve_device = lambda name: where
    Accelerator.device = property(lambda self: where)
    config = replace(config, out=f"{config.out}-{where.type}")
    with nullcontext() if where.type == "cpu" else pretended():
        train(config)
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds")}
        for row in read_rows(RunFolder(config.out).metrics)
    ]


if __name__ == "__main__":
    elsewhere = device()
    configs = [load_yaml(TrainConfig, path) for path in sys.argv[1:]]
    print(json.dumps([[trained(one, where) for where in (torch.device("cpu"), elsewhere)] for one in configs]))
