"""What has been measured of an evaluation's policies, in memory and, while the evaluation lasts, on disk."""

import io
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Store all of it, bit by bit, without pickle."""
    samples = measured.samples
    groups = {"judge_rewards": samples.judge_rewards, "divergence": samples.divergence._asdict()}
    arrays = {f"samples {name}": getattr(samples, name) for name in _ARRAYS}
    for group, values in {**groups, "per_prompt": measured.per_prompt}.items():
        arrays |= {f"{group} {name}": array for name, array in values.items()}
    text = json.dumps([*(getattr(samples, name) for name in _LISTS), measured.speeds])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, text=np.frombuffer(text.encode(), np.uint8), **arrays)
    replace_file(path, buffer.getvalue())


def read_measured(path: Path) -> Measured | None:
    """Read what `write_measured` stored; None where there is no such file, or not in full."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            completion_ids, completions, speeds = json.loads(arrays["text"].tobytes())
            samples = PolicySamples(
                completion_ids=completion_ids,
                completions=completions,
                judge_rewards=_group(arrays, "judge_rewards"),
                divergence=Divergence(**_group(arrays, "divergence")),
                **_group(arrays, "samples"),
            )
            named = {name: Speed(*speed) for name, speed in speeds.items()}
            return Measured(samples, _group(arrays, "per_prompt"), named)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _group(arrays: Any, group: str) -> dict[str, Any]:
    prefix = f"{group} "
    return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
