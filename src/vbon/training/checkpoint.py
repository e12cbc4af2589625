"""Checkpoints that resume exactly: weights and optimizer moments as safetensors, the rest as JSON; no pickle anywhere.

A checkpoint is a folder written aside and renamed: it is there in full or not at all. Random numbers are functions of
(seed, iteration), so no generator state is kept.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vbon.errors import VbonError

FORMAT = 1
PREFIX = "step-"
BEST = "best"


def save(
    folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None, progress: dict[str, Any]
) -> None:
    """Write the checkpoint `folder` atomically. `progress` is JSON: iteration, best value, what was watched."""
    partial = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, model in models.items():
        save_file(_weights(model), partial / f"{name}.safetensors")
    state: dict[str, Any] = {"format": FORMAT, "progress": progress}
    if optimizer is not None:
        tensors, state["optimizer"] = _split_optimizer(optimizer)
        save_file(tensors, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps(state))
    for path in partial.iterdir():
        _sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    _sync(folder.parent)


def load(folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Fill models and optimizer from a checkpoint and return its progress.

    Raises:
        VbonError: the checkpoint is not of this format, or does not fit these models.
    """
    state = _read_state(folder)
    for name, model in models.items():
        _fill(model, folder / f"{name}.safetensors")
    if optimizer is not None:
        tensors = load_file(folder / "optimizer.safetensors")
        optimizer.load_state_dict(_join_optimizer(tensors, state["optimizer"]))
    progress: dict[str, Any] = state["progress"]
    return progress


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint under `folder`, or None."""
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())
    return found[-1] if found else None


def step_folder(folder: Path, iteration: int) -> Path:
    """Where the checkpoint after this many iterations goes."""
    return folder / f"{PREFIX}{iteration:06d}"


def keep_last(folder: Path, count: int) -> None:
    """Remove all but the last `count` checkpoints; the best one has another name and stays."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-count]:
        shutil.rmtree(path)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, each storage once (tied weights would be refused by safetensors)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.detach().cpu().contiguous()
    return kept


def _fill(model: nn.Module, path: Path) -> None:
    weights = load_file(path)
    own = model.state_dict()
    strangers = set(weights) - set(own)
    if strangers or any(own[name].shape != tensor.shape for name, tensor in weights.items()):
        raise VbonError(f"{path}: does not fit this model; resume with the settings the run was started with")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{index}.{name}"] = value
    groups = [{k: v for k, v in group.items() if _is_json(v)} for group in state["param_groups"]]
    return tensors, {"scalars": scalars, "param_groups": groups}


def _join_optimizer(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **described["scalars"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": described["param_groups"]}


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise VbonError(f"{folder}: no readable checkpoint (state.json)") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise VbonError(f"{folder}: checkpoint of another format; train again with this version")
    return state


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
