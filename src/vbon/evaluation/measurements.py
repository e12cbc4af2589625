"""What has been measured of an evaluation's policies, in memory and, while the evaluation lasts, on disk."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vbon.artifacts.files import replace_file
from vbon.evaluation.divergence import Divergence
from vbon.evaluation.samples import PolicySamples
from vbon.evaluation.task import EvalTask
from vbon.evaluation.throughput import Speed

Float = NDArray[np.float64]
_LISTS, _GROUPS = ("completion_ids", "completions"), ("judge_rewards", "divergence")
_ARRAYS = tuple(field.name for field in fields(PolicySamples) if field.name not in (*_LISTS, *_GROUPS))


@dataclass(frozen=True, eq=False)
class Measurements:
    """`summary` is evaluation.json; `per_prompt` maps policy to metric to (P,); `samples` maps policy to its draws.

    The reference and the target stand beside the policies under the names `reference` and `best-of-n`.
    """

    task: EvalTask
    summary: dict[str, Any]
    per_prompt: dict[str, dict[str, Float]]
    samples: dict[str, PolicySamples]
    speeds: dict[str, Speed]
    """Empty where nothing was timed."""


class Measured(NamedTuple):
    """What was measured of one policy: its draws, metric → (P,), and speeds, with the reference those of best-of-N."""

    samples: PolicySamples
    per_prompt: dict[str, Float]
    speeds: dict[str, Speed]


def write_measured(path: Path, measured: Measured) -> None:
    """Store all of it, bit by bit: arrays as safetensors, everything else as JSON in the metadata of the file."""
    samples = measured.samples
    groups = {
        "samples": {name: getattr(samples, name) for name in _ARRAYS},
        "judge_rewards": samples.judge_rewards,
        "divergence": samples.divergence._asdict(),
        "per_prompt": measured.per_prompt,
    }
    arrays = {f"{group} {name}": array for group, values in groups.items() for name, array in values.items()}
    # The file orders its arrays by their type; the names in their own order keep the order of the metrics.
    content = [list(arrays), *(getattr(samples, name) for name in _LISTS), measured.speeds]
    replace_file(path, save(arrays, {"content": json.dumps(content)}))


def read_measured(path: Path) -> Measured | None:
    """Read what `write_measured` stored. Return None if there is no such file, or it is incomplete."""
    try:
        with safe_open(path, "numpy") as file:
            names, completion_ids, completions, speeds = json.loads(file.metadata()["content"])
            groups: dict[str, dict[str, Any]] = {"judge_rewards": {}}
            for group, _, name in (key.partition(" ") for key in names):
                groups.setdefault(group, {})[name] = file.get_tensor(f"{group} {name}")
    except (OSError, SafetensorError):
        return None
    samples = PolicySamples(
        completion_ids=completion_ids,
        completions=completions,
        judge_rewards=groups["judge_rewards"],
        divergence=Divergence(**groups["divergence"]),
        **groups["samples"],
    )
    return Measured(samples, groups["per_prompt"], {name: Speed(*speed) for name, speed in speeds.items()})
