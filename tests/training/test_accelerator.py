"""Where training runs: the device that was asked for, or a refusal."""

import pytest
import torch

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.training.trainer import make_accelerator


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    config = TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cuda")
    with pytest.raises(VbonError, match="--device cuda: no CUDA device"):
        make_accelerator(config)
