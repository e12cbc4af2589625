"""Training a small model: on any device, and stopped anywhere to go on in a later call, to the same weights."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.errors import Asks, Paused, VbonError, never
from vbon.pool.files import replace_file
from vbon.training import checkpoint

Precision = Literal["float32", "bfloat16"]
Loss = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(model, ids, which are real, labels) → a number."""
WARMUP_STEPS = 50
CHECKPOINT_EVERY = 500  # steps that a kill may cost; a pause costs none
SETTINGS = "settings.json"


class Course(Protocol):
    """How long and how fast a model is trained."""

    @property
    def batch_size(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...


class Batches(Protocol):
    """Rows to train on."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (count, S), which of them are real (count, S), and labels, as the loss takes them."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a model is trained, in what precision, and what a later call goes on from."""

    device: str = "cpu"
    precision: Precision = "float32"
    """bfloat16: products in it (autocast); weights, moments and losses stay float32."""
    unfinished: Path | None = None
    """Folder of checkpoints while the training lasts; None keeps none."""
    asks_to_pause: Asks = never


HERE = Workplace()


def fit(
    model: PreTrainedModel, batches: Batches, course: Course, loss_of: Loss, seed: int, place: Workplace = HERE
) -> None:
    """AdamW; linear warm-up, then a half cosine to a twentieth of the rate.

    Raises:
        Paused: where `place` asks for it, after a checkpoint; the same call goes on from there.
    """
    nn.Module.to(model, place.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    done = _restore(model, optimizer, generator, place)
    with denormals_flushed():
        for step in track(range(done, course.steps), type(model).__name__, console=Console(stderr=True)):
            for group in optimizer.param_groups:
                group["lr"] = course.learning_rate * learning_rate_factor(step, course.steps)
            batch = [tensor.to(place.device) for tensor in batches.draw(course.batch_size, generator)]
            with autocast(place):
                loss = loss_of(model, *batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step + 1 < course.steps:
                _between(step + 1, course.steps, model, optimizer, generator, place)
    model.eval()


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    cosine = 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def autocast(place: Workplace) -> torch.autocast:
    """Products in the precision of `place`."""
    kind = torch.device(place.device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=place.precision == "bfloat16")


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Adam's averages of rare tokens fade into denormals, which cost twice the time. Others count on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def unfinished(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of an unfinished training with these settings; gone once the training is through.

    Raises:
        VbonError: what lies there was begun with other settings.
    """
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    begun = folder / SETTINGS
    if not begun.is_file():  # written last, so that what is older than it is nobody's
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        replace_file(begun, text.encode())
    elif begun.read_text() != text:
        raise VbonError(f"{folder}: begun with other settings; choose another --out, or remove it to begin again")
    checkpoint.remove_leftovers(folder)
    yield folder
    shutil.rmtree(folder)


def _between(
    step: int, steps: int, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator, place: Workplace
) -> None:
    """After `step` of `steps`: a checkpoint where one is due, and a pause where that is asked for."""
    pauses = place.asks_to_pause()
    if place.unfinished is not None and (pauses or step % CHECKPOINT_EVERY == 0):
        progress = {"step": step, "random": _random_states(random, place.device)}
        where = checkpoint.numbered(place.unfinished, checkpoint.ONLINE, step)
        checkpoint.save(where, {"model": model}, optimizer, progress)
        checkpoint.keep_last(place.unfinished, 1)
    if pauses:
        raise Paused(f"{place.unfinished}: stopped after step {step} of {steps}; the same command goes on")


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator, place: Workplace) -> int:
    """Steps that are done; the model, its moments and the random numbers are then as they were."""
    found = None if place.unfinished is None else checkpoint.latest(place.unfinished)
    if found is None:
        return 0
    progress = checkpoint.load(found, {"model": model}, optimizer)
    states = {
        name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in progress["random"].items()
    }
    random.set_state(states["batches"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.device(place.device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], place.device)
    return int(progress["step"])


def _random_states(batches: torch.Generator, device: str) -> dict[str, str]:
    """Of the batches, and of dropout where it is drawn."""
    states = {"batches": batches.get_state(), "cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}
