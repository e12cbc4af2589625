"""What accelerate's configuration says of DeepSpeed, and what vbon decides itself."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType

from vbon.config.train import TrainConfig
from vbon.errors import VbonError

ASKED_FOR = "ACCELERATE_USE_DEEPSPEED"
_OURS = {"optimizer": "--learning-rate", "scheduler": "--lr-schedule"}
_PRECISIONS = ("fp16", "bf16")
_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def read_deepspeed(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's configuration as accelerate was told it, without what is `auto`; vbon's own in its place.

    Raises:
        VbonError: DeepSpeed is missing, or is told something that vbon does not do or decides by a flag of its own.
    """
    try:
        told: dict[str, Any] = without_auto(DeepSpeedPlugin().deepspeed_config)
    except (OSError, ValueError) as error:
        raise VbonError(f"DeepSpeed's configuration: {' '.join(str(error).split())}") from None
    _check(told, config)
    if importlib.util.find_spec("deepspeed") is None:
        raise VbonError("DeepSpeed is not installed: pip install deepspeed, or shard with FSDP2 (fsdp_version: 2)")
    return {
        **{name: value for name, value in told.items() if name not in (*_PRECISIONS, *_SIZES)},
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device at every token that is sampled
    }


@contextlib.contextmanager
def unseen_by_accelerate() -> Iterator[None]:
    """Inside, an `Accelerator` is one of processes without DeepSpeed.

    With it accelerate ties `backward` to one engine, takes the step in it, and has transformers shard every model
    that is loaded, the reference and reward models too.
    """
    told = os.environ.get(ASKED_FOR)
    os.environ[ASKED_FOR] = "false"
    try:
        yield
    finally:
        del os.environ[ASKED_FOR]
        if told is not None:
            os.environ[ASKED_FOR] = told


def told_of_deepspeed(accelerator: Accelerator) -> dict[str, Any] | None:
    """DeepSpeed's configuration where it is to share the weights, and there are processes to share them.

    Raises VbonError for an accelerator that has its own engine.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise VbonError(
            "an Accelerator with DeepSpeed takes steps by itself: leave it out, vbon reads the same settings"
        )
    told: dict[str, Any] | None = getattr(accelerator.state, "deepspeed_plugins", None)
    return told if torch.distributed.is_initialized() else None


def without_auto(told: dict[str, Any]) -> dict[str, Any]:
    """The same without entries that are `auto`, which is a word of accelerate's, and not of DeepSpeed's."""
    inner = {key: without_auto(value) if isinstance(value, dict) else value for key, value in told.items()}
    return {key: value for key, value in inner.items() if value != "auto"}


def _check(told: dict[str, Any], config: TrainConfig) -> None:
    zero = told["zero_optimization"]
    if zero.get("stage") not in (1, 2, 3):
        raise VbonError("DeepSpeed without ZeRO shares nothing out: set zero_stage to 1, 2 or 3, or use --multi_gpu")
    for name in ("offload_optimizer", "offload_param"):
        if (zero.get(name) or {}).get("device") not in (None, "none"):
            raise VbonError(f"DeepSpeed with weights or moments offloaded is not supported: set {name}_device: none")
    for name, flag in _OURS.items():
        if name in told:
            raise VbonError(f"DeepSpeed's {name} is vbon's {flag} here: leave it out of DeepSpeed's configuration")
    for name, ours in zip(_SIZES, (config.minibatch_size, None, 1, config.max_grad_norm), strict=True):
        if told.get(name) not in (None, "none", ours):
            raise VbonError(f"DeepSpeed's {name} is {told[name]}, which vbon decides: set it to auto")
    if config.dtype != "float32" or any((told.get(name) or {}).get("enabled") for name in _PRECISIONS):
        raise VbonError(
            "DeepSpeed trains in float32 here: set mixed_precision: 'no', and leave fp16, bf16 and --dtype out"
        )
