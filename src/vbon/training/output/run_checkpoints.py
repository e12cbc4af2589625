"""The checkpoints of one run: to continue from, and of the best policy so far."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from vbon.errors import VbonError
from vbon.training.output import checkpoint
from vbon.training.output.state import RunState
from vbon.training.parallel.learner import Learner


class RunCheckpoints:
    """Saves and loads the checkpoints of a run; all processes call each method together, and the main one writes.

    Args:
        folder: their folder.
        learner: the networks and their optimizer.
        beside: further modules to save, by name.
        keep: how many checkpoints to continue from are kept.
    """

    def __init__(self, folder: Path, learner: Learner, beside: Mapping[str, nn.Module], keep: int):
        self._folder, self._learner, self._beside, self._keep = folder, learner, beside, keep

    def save(self, prefix: str, count: int, state: RunState) -> None:
        """Save all that a continued run needs, after `count` steps or iterations, and remove older checkpoints."""
        modules, optimizer = self._modules(), self._learner.full_optimizer()
        if self._learner.accelerator.is_main_process:
            checkpoint.save(checkpoint.numbered(self._folder, prefix, count), modules, optimizer, state.to_json())
            self.prune(state)
        self._learner.accelerator.wait_for_everyone()

    def prune(self, state: RunState) -> None:
        """Remove the checkpoints that `state`, which is on disk, does not need; the main process alone calls it."""
        checkpoint.keep_last(self._folder, self._keep)
        if state.best is not None:
            checkpoint.keep_best(self._folder, self._best(state))

    def restore(self) -> RunState | None:
        """Fill networks and optimizer from the last checkpoint and return its state, or None if there is none."""
        found = checkpoint.latest(self._folder)
        return None if found is None else self._load(found)

    def restore_before(self, iteration: int) -> RunState:
        """Fill networks and optimizer as they were before an iteration, counted from 0.

        Raises:
            VbonError: there is no checkpoint of that moment.
        """
        found = checkpoint.numbered(self._folder, checkpoint.ONLINE, iteration)
        if not found.is_dir():
            raise VbonError(
                f"{found}: there is no such checkpoint; train with --checkpoint-every 1 and more --keep-checkpoints"
            )
        return self._load(found)

    def save_beside(self, folder: Path, iteration: int, state: RunState) -> Path:
        """Save networks and optimizer in another folder, and return where."""
        path = checkpoint.numbered(folder, checkpoint.ONLINE, iteration)
        checkpoint.save(path, self._learner.modules(), self._learner.full_optimizer(), state.to_json())
        return path

    def _load(self, found: Path) -> RunState:
        progress = checkpoint.load(found, self._modules(), self._learner.full_optimizer())
        self._learner.full_state.scatter()
        return RunState.from_json(progress, str(found))

    def save_best(self, state: RunState) -> None:
        """Save the present policy as the best one, that of `state.best`."""
        policy = self._learner.module("policy")
        if self._learner.accelerator.is_main_process:
            assert state.best is not None
            checkpoint.save(self._best(state), {"policy": policy}, None, state.best)

    def load_best(self, state: RunState) -> nn.Module:
        """Fill the policy with the best one's weights and return it."""
        policy = self._learner.module("policy")
        checkpoint.load(self._best(state), {"policy": policy}, None)
        return policy

    def _modules(self) -> dict[str, nn.Module]:
        return {**self._learner.modules(), **self._beside}

    def _best(self, state: RunState) -> Path:
        assert state.best is not None
        return checkpoint.numbered(self._folder, checkpoint.BEST, state.best["iteration"])
