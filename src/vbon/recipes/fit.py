"""Training of a small model on any device; a call that is stopped continues in a later one, to the same weights."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.artifacts.files import remove_leftovers
from vbon.artifacts.json_files import json_value, read_object, write_json
from vbon.artifacts.settings import check_same_settings
from vbon.errors import Paused
from vbon.progress import ProgressBar
from vbon.training.output import checkpoint

Precision = Literal["float32", "bfloat16"]
Loss = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(model, ids, mask of real tokens, labels) → a number."""
WARMUP_STEPS = 50
CHECKPOINT_EVERY = 500  # steps; a killed call repeats at most as many, a paused one none
SETTINGS = "settings.json"


class Schedule(Protocol):
    """Batch size, steps and learning rate of a training."""

    @property
    def batch_size(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...


class Batches(Protocol):
    """Rows to train on."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids (count, S), the mask of real tokens (count, S), and labels as the loss takes them."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Device and precision of a training, and the checkpoints from which a later call continues."""

    device: str = "cpu"
    precision: Precision = "float32"
    """bfloat16: matrix products in bfloat16 (autocast); weights, moments and losses stay float32."""
    checkpoints: Path | None = None
    """The folder of checkpoints while the training lasts; None writes none."""
    should_pause: Callable[[], bool] | None = None
    """Is called between two steps; where it returns True, the training writes a checkpoint and stops."""


DEFAULT = FitOptions()


def fit(
    model: PreTrainedModel,
    batches: Batches,
    schedule: Schedule,
    loss_of: Loss,
    seed: int,
    options: FitOptions = DEFAULT,
) -> None:
    """Train with AdamW: linear warm-up, then a half cosine to a twentieth of the learning rate.

    Args:
        model: Trained in place, on `options.device`.
        batches: Draws the rows of each step.
        schedule: Batch size, number of steps and peak learning rate.
        loss_of: The loss that is minimised.
        seed: Of the batches' draws; the weights and dropout follow torch's global generator.

    Raises:
        Paused: when `options.should_pause` asks for it, after a checkpoint; the same call continues from there.
    """
    nn.Module.to(model, options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    done = _restore(model, optimizer, generator, options)
    with denormals_flushed(), ProgressBar(type(model).__name__, schedule.steps) as bar:
        bar.advance(done)
        for step in range(done, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * learning_rate_factor(step, schedule.steps)
            batch = [tensor.to(options.device) for tensor in batches.draw(schedule.batch_size, generator)]
            with autocast(options):
                loss = loss_of(model, *batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.advance()
            if step + 1 < schedule.steps:
                _between(step + 1, schedule.steps, model, optimizer, generator, options)
    model.eval()


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step."""
    cosine = 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def autocast(options: FitOptions) -> torch.autocast:
    """Return the autocast context of `options`."""
    kind = torch.device(options.device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=options.precision == "bfloat16")


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormals to zero inside: Adam's averages of rare tokens decay into them, and they double the time.

    Outside they are kept, because other code relies on them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def checkpoint_folder(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Open the folder of an unfinished training with these settings, and remove it when the training ends.

    Raises:
        VbonError: the folder holds a training with other settings.
    """
    begun = folder / SETTINGS
    if not begun.is_file():  # written before any checkpoint, so that files without it are leftovers
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(begun, json_value(settings))
    then, now, fix = read_object(begun), json_value(settings), "choose another --out, or remove it to begin again"
    check_same_settings(folder, then, now, may_change=(), spell=str, fix=fix)
    remove_leftovers(folder)
    yield folder
    shutil.rmtree(folder)


def _between(
    step: int,
    steps: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    options: FitOptions,
) -> None:
    """Write a checkpoint after `step` of `steps` if one is due, and pause if that is asked for."""
    pauses = options.should_pause is not None and options.should_pause()
    if options.checkpoints is not None and (pauses or step % CHECKPOINT_EVERY == 0):
        progress = {"step": step, "random": _random_states(random, options.device)}
        where = checkpoint.numbered(options.checkpoints, checkpoint.ONLINE, step)
        checkpoint.save(where, {"model": model}, optimizer, progress)
        checkpoint.keep_last(options.checkpoints, 1)
    if pauses:
        raise Paused(f"{options.checkpoints}: stopped after step {step} of {steps}; run the same command to continue")


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator, options: FitOptions) -> int:
    """Load the latest checkpoint, if there is one; return the number of steps done."""
    found = None if options.checkpoints is None else checkpoint.latest(options.checkpoints)
    if found is None:
        return 0
    progress = checkpoint.load(found, {"model": model}, optimizer)
    states = {
        name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in progress["random"].items()
    }
    random.set_state(states["batches"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.device(options.device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], options.device)
    return int(progress["step"])


def _random_states(batches: torch.Generator, device: str) -> dict[str, str]:
    """Return the states, in hexadecimal, of the generators of batches and dropout."""
    states = {"batches": batches.get_state(), "cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}
