"""The rollouts of one iteration as a file: arrays as safetensors, and what is no array as JSON in its metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import is_number
from vbon.errors import VbonError

FORMAT_VERSION = 1
SHAPES = {
    "prompt_index": ("int64", "B"),
    "prompt_ids": ("int64", "BP"),
    "prompt_mask": ("bool", "BP"),
    "completion_ids": ("int64", "BT"),
    "completion_mask": ("bool", "BT"),
    "old_logprobs": ("float32", "BT"),
    "ref_logprobs": ("float32", "BT"),
    "finished": ("bool", "B"),
    "rewards": ("float64", "B"),
    "cdf_lt": ("float64", "B"),
    "cdf_le": ("float64", "B"),
    "sample_mass": ("float64", "B"),
    "sequence_reward": ("float64", "B"),
    "values": ("float32", "BT"),
}
"""Arrays with their types and dimensions: B completions, P prompt tokens, T new tokens. `values` may be missing."""


@dataclass(frozen=True, eq=False)
class SavedRollouts:
    """The rollouts of one iteration.

    `iteration` counts from 0; `prompts` are the ids of the run's prompts, into which `prompt_index` points.
    """

    iteration: int
    kl_coef: float
    prompts: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]


def write_rollouts(path: Path, saved: SavedRollouts) -> None:
    """Write the file, which is complete or absent. Raises VbonError where the disk refuses."""
    header = {"format_version": FORMAT_VERSION, "iteration": saved.iteration, "kl_coef": saved.kl_coef}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save(dict(saved.arrays), {"vbon": json.dumps({**header, "prompts": list(saved.prompts)})}))


def read_rollouts(path: Path) -> SavedRollouts:
    """Read what `write_rollouts` wrote. Raises VbonError, naming the file, for anything else."""
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})["vbon"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_header(header)
        _check_arrays(arrays, len(header["prompts"]))
    except OSError as error:
        raise VbonError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise VbonError(f"{path}: no rollouts of `vbon train --save-rollouts` ({error})") from None
    return SavedRollouts(header["iteration"], float(header["kl_coef"]), tuple(header["prompts"]), arrays)


def _check_header(header: Any) -> None:
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {header['format_version']!r}")
    if not (type(header["iteration"]) is int and header["iteration"] >= 0 and is_number(header["kl_coef"])):
        raise ValueError("the iteration or the KL coefficient is no number")
    if not (isinstance(header["prompts"], list) and all(isinstance(name, str) for name in header["prompts"])):
        raise ValueError("the prompts are no names")


def _check_arrays(arrays: Mapping[str, NDArray[Any]], num_prompts: int) -> None:
    if {*SHAPES} - {"values"} != {*arrays} - {"values"}:
        raise ValueError("an array is missing or unknown")
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        dtype, axes = SHAPES[name]
        if array.dtype != np.dtype(dtype) or len(axes) != array.ndim:
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)):
            raise ValueError(f"{name} has {array.shape}")
    index = arrays["prompt_index"]
    if not len(index) or index.min() < 0 or index.max() >= num_prompts:
        raise ValueError("a prompt_index points to no prompt")
