"""Curves of a run in TensorBoard, Weights & Biases or trackio, through accelerate."""

import os
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator

from vbon.artifacts.run import RunFolder, settings_of
from vbon.config.train import TrainConfig

CURVES = "curves"  # TensorBoard's folder in the run
PROJECT = "vbon"


def tracker_of(config: TrainConfig) -> str | None:
    """Choose the tracker: TensorBoard only where it is installed. ModuleNotFoundError for another that is not there."""
    if config.tracker == "none" or (config.tracker == "tensorboard" and find_spec("tensorboard") is None):
        return None
    if find_spec(config.tracker) is None:
        raise ModuleNotFoundError(f"no module {config.tracker}", name=config.tracker)
    return config.tracker


def open_tracker(accelerator: Accelerator, folder: RunFolder, config: TrainConfig) -> None:
    """Start the tracker of this process's run, if there is one; a resumed run is a second one of the same group."""
    name = tracker_of(config)
    if name == "tensorboard":
        accelerator.init_trackers(CURVES)
    elif name is not None:
        own = {"wandb": {"dir": str(folder.own), "group": folder.path.name}}.get(name, {})
        project = os.environ.get("WANDB_PROJECT", PROJECT) if name == "wandb" else PROJECT
        accelerator.init_trackers(project, settings_of(config), {name: {"name": folder.path.name, **own}})


def log_row(accelerator: Accelerator, row: dict[str, Any], config: TrainConfig) -> None:
    """Send the numbers of a row of metrics to the tracker.

    TensorBoard takes them by `offline_step` or else `iteration`. The others drop what comes with an earlier step than
    the last, and the online iterations begin at 1 again: they get both counts as numbers, in order of arrival.
    """
    if config.tracker != "tensorboard":
        accelerator.log(row)
        return
    curves = {key: value for key, value in row.items() if key not in ("iteration", "offline_step")}
    accelerator.log(curves, step=row.get("offline_step", row["iteration"]))
