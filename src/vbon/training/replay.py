"""Rollouts saved to a file and fed into one update again, to isolate a fault of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vbon.artifacts.rollouts import SavedRollouts, read_rollouts, write_rollouts
from vbon.artifacts.run import RunFolder
from vbon.core.reward_cdf import Interval
from vbon.errors import VbonError
from vbon.models.batch import Sequences
from vbon.training.output import checkpoint
from vbon.training.output.run_checkpoints import RunCheckpoints
from vbon.training.rollout import Rollouts
from vbon.training.task import Task

NAME = "iteration-{:06d}.safetensors"


def save_rollouts(folder: Path, rollouts: Rollouts, task: Task, iteration: int) -> None:
    """Write the rollouts of an iteration into a folder.

    Args:
        folder: made where it is missing.
        rollouts: those of one process that has all of the iteration.
        task: the training prompts of the run.
        iteration: its number, counted from 0.
    """
    tensors = {
        "prompt_index": rollouts.prompt_index,
        **rollouts.sequences._asdict(),
        **{name: getattr(rollouts, name) for name in ("old_logprobs", "ref_logprobs", "finished", "sequence_reward")},
        **({} if rollouts.values is None else {"values": rollouts.values}),
    }
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    arrays |= {"rewards": rollouts.rewards, **rollouts.interval._asdict()}
    prompts = tuple(prompt.prompt_id for prompt in task.prompts)
    write_rollouts(folder / NAME.format(iteration), SavedRollouts(iteration, rollouts.kl_coef, prompts, arrays))


def load_rollouts(path: Path, task: Task, device: torch.device) -> tuple[int, Rollouts]:
    """Read rollouts of the task's prompts and the number of their iteration.

    Args:
        path: a file of `save_rollouts`.
        task: the training prompts of the run.
        device: where the policy is.

    Raises:
        VbonError: the file is damaged, or of other prompts.
    """
    saved = read_rollouts(path)
    if list(saved.prompts) != [prompt.prompt_id for prompt in task.prompts]:
        raise VbonError(f"{path}: its rollouts are of other prompts than this run is trained on")
    arrays = dict(saved.arrays)
    interval = Interval(*(arrays.pop(name) for name in Interval._fields))
    rewards = arrays.pop("rewards")
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    sequences = Sequences(*(tensors.pop(name) for name in Sequences._fields))
    prompt_index = tensors.pop("prompt_index").cpu()
    return saved.iteration, Rollouts(
        prompt_index=prompt_index,
        sequences=sequences,
        ref_states=None,
        rewards=rewards,
        interval=interval,
        kl_coef=saved.kl_coef,
        **tensors,
    )


def replay(
    path: Path,
    task: Task,
    run: RunFolder,
    checkpoints: RunCheckpoints,
    device: torch.device,
    update: Callable[[int, Callable[..., Rollouts]], dict[str, float]],
) -> dict[str, Any]:
    """Repeat the update of saved rollouts, from the checkpoint of their iteration; the run stays as it is.

    Args:
        path: the file of rollouts.
        task: the training prompts of the run.
        run: the run whose checkpoint is used; the result goes to its folder vbon/replay.
        checkpoints: the checkpoints of the run.
        device: where the policy is.
        update: (iteration, function that gives the rollouts) → the metrics of that iteration.

    Returns:
        The number of the iteration, its metrics, where the weights after it are, and whether they are those that the
        run had after it: None where the run keeps no checkpoint of that moment.

    Raises:
        VbonError: the file is damaged or of other prompts, or there is no checkpoint of that iteration.
        FloatingPointError: the loss or a gradient of the update is not finite.
    """
    iteration, rollouts = load_rollouts(path, task, device)
    state = checkpoints.restore_before(iteration)
    metrics = update(iteration, lambda *_: rollouts)
    state.iteration = iteration + 1
    after = checkpoints.save_beside(run.own / "replay", iteration + 1, state)
    then = checkpoint.numbered(run.checkpoints, checkpoint.ONLINE, iteration + 1)
    same = _same_weights(then, after) if then.is_dir() else None
    return {"iteration": iteration, "weights": str(after), "same_weights_as_the_run": same, **metrics}


def _same_weights(then: Path, now: Path) -> bool:
    """Whether a checkpoint holds the bytes of every network and moment of another."""
    files = [file for file in now.glob("*.safetensors") if (then / file.name).is_file()]
    return bool(files) and all(file.read_bytes() == (then / file.name).read_bytes() for file in files)


def replay_line(result: dict[str, Any]) -> str:
    """Format the result of `replay` for the console."""
    outcome = {None: "the run keeps no checkpoint to compare with", True: "the same weights as in the run"}
    same = outcome.get(result["same_weights_as_the_run"], "OTHER weights than in the run")
    shown = ("policy_loss", "grad_norm", "ratio_gap", "sequence_reward", "kl_policy_ref", "kl_policy_bon")
    numbers = "  ".join(f"{name} {result[name]:.4g}" for name in shown if name in result)
    return f"iteration {result['iteration']} replayed to {result['weights']}: {same}\n{numbers}"
