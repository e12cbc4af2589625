"""Checkpoints that resume exactly: weights and optimizer moments as safetensors, the rest as JSON; no pickle anywhere.

A checkpoint is a folder written aside and renamed: it is there in full or not at all. Random numbers are functions of
(seed, iteration), so no generator state is kept.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vbon.artifacts.files import remove_folder, replace_folder
from vbon.errors import VbonError

FORMAT = 1
ONLINE, OFFLINE, BEST = "step-", "offline-", "best-"
STATE = "state.json"
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what AdamW keeps of a parameter that it has moved
_MEND = "remove the checkpoint, and the same command continues from the one before"


def save(
    folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None, progress: dict[str, Any]
) -> None:
    """Write a checkpoint, which is complete or absent whenever the process is killed.

    Args:
        folder: its place.
        models: name → module with all its weights.
        optimizer: the optimizer with all its moments, or None.
        progress: the state of the run, as JSON.

    Raises:
        VbonError: the disk is full or refuses; the checkpoints before this one are intact.
    """
    try:
        with replace_folder(folder) as partial:
            _write(partial, models, optimizer, progress)
    except SafetensorError as error:
        raise VbonError(f"{folder}: cannot be written ({error}); what was written before is intact") from None


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
    """Find the last complete checkpoint under `folder`, or None; the online phase comes after the offline one."""
    return next((path for prefix in (ONLINE, OFFLINE) for path in reversed(_complete(folder, prefix))), None)


def numbered(folder: Path, prefix: str, count: int) -> Path:
    """Name the folder of the checkpoint after `count` iterations or steps."""
    return folder / f"{prefix}{count:06d}"


def keep_last(folder: Path, count: int) -> None:
    """Remove all but the last `count` checkpoints to resume from; the best ones are not among these."""
    for path in [*_complete(folder, OFFLINE), *_complete(folder, ONLINE)][:-count]:
        remove_folder(path)


def keep_best(folder: Path, best: Path) -> None:
    """Remove the other best checkpoints; call it once what names this one is on disk: a continued run may need them."""
    for path in _complete(folder, BEST):
        if path != best:
            remove_folder(path)


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
        raise VbonError(f"{path}: damaged or missing; {_MEND}") from error


def _fill_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], state: dict[str, Any], folder: Path
) -> None:
    try:
        _check_moments(optimizer, tensors)
        optimizer.load_state_dict({"state": _joined(tensors), "param_groups": _groups(optimizer, state)})
    except (KeyError, TypeError, ValueError) as error:
        raise VbonError(
            f"{folder}: its optimizer does not fit this run; was it started with other settings?"
        ) from error


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    moments = {index: entries for index, entries in state["state"].items() if entries}
    tensors = {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, entries in moments.items()
        for name, tensor in entries.items()
    }
    groups = [{k: v for k, v in group.items() if _is_json(v)} for group in state["param_groups"]]
    return tensors, {"param_groups": groups}


def _joined(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return state


def _check_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """ValueError for moments of no parameter, of another shape or incomplete: a fused step would not look again."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in _joined(tensors).items():
        if not 0 <= index < len(parameters) or set(entries) != _MOMENTS:
            raise ValueError(f"moments {index}: {sorted(entries)}")
        shapes = {name: parameters[index].shape if name != "step" else torch.Size() for name in _MOMENTS}
        if {name: tensor.shape for name, tensor in entries.items()} != shapes:
            raise ValueError(f"moments {index} have other shapes")


def _groups(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The checkpoint's settings of each parameter group; ValueError where they have another form."""
    saved: list[dict[str, Any]] = state["optimizer"]["param_groups"]
    own = [{k: v for k, v in group.items() if _is_json(v)} for group in optimizer.state_dict()["param_groups"]]
    if not _same_form(own, saved) or [one["params"] for one in own] != [one["params"] for one in saved]:
        raise ValueError("parameter groups differ")
    return saved


def _same_form(mine: Any, saved: Any) -> bool:
    if isinstance(mine, dict):
        return isinstance(saved, dict) and set(mine) == set(saved) and all(_same_form(mine[k], saved[k]) for k in mine)
    if isinstance(mine, list | tuple):
        return isinstance(saved, list) and len(mine) == len(saved) and all(map(_same_form, mine, saved))
    if isinstance(mine, float):
        return type(saved) in (int, float) and math.isfinite(saved)
    return type(mine) is type(saved)


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VbonError(f"{folder}: no readable checkpoint (state.json); {_MEND}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "progress" not in state:
        raise VbonError(f"{folder}: checkpoint of another format; train again with this version")
    return state
