"""The interface of the engines of `vbon collect`.

An engine draws completions, and may tell their token ids and log-probabilities.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from vbon.artifacts.fingerprint import Fingerprint
from vbon.pool.manifest import Plan
from vbon.pool.prompts import Prompt
from vbon.rewards import Reward


class Samples(NamedTuple):
    """The M samples of one prompt before scoring; an entry is None where the engine does not tell."""

    completions: list[str]
    completion_ids: Sequence[list[int] | None]
    ref_logprobs: Sequence[float | None]
    """Sequence log-probability at the sampling temperature, nats."""
    finished: Sequence[bool | None]


Drawn = Iterator[tuple[list[int], list[Samples]]]


class Described(Protocol):
    """The properties of an engine that are needed before a pool is started."""

    @property
    def device(self) -> str:
        """Return the device on which a reward model should be loaded."""

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """Compute the fingerprint of the samples from all settings that are known."""

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Encode every prompt. `source` is the file of the prompts, for messages.

        Raises:
            VbonError: a prompt is too long; the message names its row.
        """

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Return the number of completions of these prompts that are sampled together."""


class Engine(Described, Protocol):
    """A sampler of completions. `draw` is a function of its arguments as far as the seeds of the engine allow it."""

    def draw(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], plan: Plan, seed: int, num_samples: int
    ) -> Drawn:
        """Yield samples batch by batch until every prompt has its own.

        Args:
            prompts: the prompts, P of them.
            prompt_ids: token ids of each prompt, as `encode` returned them.
            plan: sizes of the batches.
            seed: seed of the samples.
            num_samples: M, completions of each prompt.

        Yields:
            The positions of some prompts, and the samples of each.

        Raises:
            VbonError: a server cannot be used.
        """
