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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vbon.errors import VbonError

FORMAT = 1
ONLINE, OFFLINE, BEST = "step-", "offline-", "best-"
STATE = "state.json"


def save(
    folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None, progress: dict[str, Any]
) -> None:
    """Write the checkpoint `folder` atomically. `progress` is JSON: how far the run is, what was seen.

    Raises:
        VbonError: the disk is full or refuses; the checkpoints before this one are intact.
    """
    partial = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, models, optimizer, progress)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise VbonError(f"{folder}: cannot be written ({error}); earlier checkpoints are intact") from None


def load(folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Fill models and optimizer from a checkpoint and return its progress.

    Raises:
        VbonError: the checkpoint is damaged or not of this format, or does not fit these models.
    """
    state = _read_state(folder)
    for name, model in models.items():
        _fill(model, folder / f"{name}.safetensors")
    if optimizer is not None:
        tensors = _read_tensors(folder / "optimizer.safetensors")
        _fill_optimizer(optimizer, tensors, state, folder)
    progress: dict[str, Any] = state["progress"]
    return progress


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint under `folder`, or None; the online phase comes after the offline one."""
    return next((path for prefix in (ONLINE, OFFLINE) for path in reversed(_complete(folder, prefix))), None)


def numbered(folder: Path, prefix: str, count: int) -> Path:
    """Where the checkpoint after `count` iterations or steps goes."""
    return folder / f"{prefix}{count:06d}"


def keep_last(folder: Path, count: int) -> None:
    """Remove all but the last `count` checkpoints to resume from; best ones are no such."""
    for path in [*_complete(folder, OFFLINE), *_complete(folder, ONLINE)][:-count]:
        shutil.rmtree(path)


def keep_best(folder: Path, best: Path) -> None:
    """Remove every best checkpoint but this. Only once what names it is on disk: a resumed run may need the others."""
    for path in _complete(folder, BEST):
        if path != best:
            shutil.rmtree(path)


def _complete(folder: Path, prefix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{prefix}*") if (path / STATE).is_file())


def _write(
    folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None, progress: dict[str, Any]
) -> None:
    for name, model in models.items():
        save_file(_weights(model), folder / f"{name}.safetensors")
    state: dict[str, Any] = {"format": FORMAT, "progress": progress}
    if optimizer is not None:
        tensors, state["optimizer"] = _split_optimizer(optimizer)
        save_file(tensors, folder / "optimizer.safetensors")
    (folder / STATE).write_text(json.dumps(state))
    for path in folder.iterdir():
        _sync(path)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, each storage once (safetensors refuses tied weights); beside frozen weights only the others."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen and name not in frozen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.detach().cpu().contiguous()
    return kept


def _fill(model: nn.Module, path: Path) -> None:
    weights, expected, own = _read_tensors(path), _weights(model), model.state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in expected.items()}:
        raise VbonError(f"{path}: does not fit this model; resume with the settings the run was started with")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise VbonError(
            f"{path}: damaged or missing; remove this checkpoint and --resume from the one before"
        ) from error


def _fill_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], state: dict[str, Any], folder: Path
) -> None:
    try:
        optimizer.load_state_dict(_join_optimizer(tensors, state["optimizer"]))
    except (KeyError, ValueError) as error:
        raise VbonError(
            f"{folder}: its optimizer does not fit this run; was it started with other settings?"
        ) from error


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
        state = json.loads((folder / STATE).read_text())
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
