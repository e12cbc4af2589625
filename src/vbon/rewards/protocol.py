"""What a reward is: prompts and completions in, one float64 per completion out."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Message = dict[str, Any]
Prompt = str | list[Message]

Score = Callable[[list[Prompt], list[str], dict[str, list[Any]]], Any]
"""What one kind of reward implements: (prompts, completions, columns) → one number per completion, in any container."""


FORMS = (
    "a classifier directory or hub id [#LABEL[:pair|:text]], module:function, file.py:function, http(s)://…, "
    "builtin:NAME, pairwise:JUDGE"
)


class Reward(Protocol):
    """A callable that scores completions; `load_reward` and `checked` make one."""

    @property
    def name(self) -> str:
        """The specification it was loaded from, without credentials."""

    @property
    def fingerprint(self) -> str:
        """What identifies it: two rewards with one fingerprint give the same numbers."""

    @property
    def noise(self) -> float | None:
        """None where a row's number does not depend on its batch; else the least relative noise to reckon with."""

    def __call__(self, prompts: list[Prompt], completions: list[str], /, **columns: list[Any]) -> np.ndarray:
        """Rewards, float64, shape (len(completions),), all finite; raises VbonError naming the prompt at fault."""


class RewardError(Exception):
    """A failure whose message already says what went wrong in one line; `checked` adds which reward and prompt.

    `row`: the row of the batch that is at fault, where one is.
    """

    def __init__(self, message: str, row: int | None = None):
        super().__init__(message)
        self.row = row
