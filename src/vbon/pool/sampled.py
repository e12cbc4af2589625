"""What an engine of `vbon collect` is: it draws completions, and may tell their token ids and log-probabilities."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from vbon.artifacts.fingerprint import Fingerprint
from vbon.pool.manifest import Plan
from vbon.pool.prompts import Prompt
from vbon.rewards import Reward


class Samples(NamedTuple):
    """The samples of one prompt before scoring; M entries each, None where the engine does not tell."""

    completions: list[str]
    completion_ids: Sequence[list[int] | None]
    ref_logprobs: Sequence[float | None]
    """Sequence log-probability at the sampling temperature, nats."""
    finished: Sequence[bool | None]


Drawn = Iterator[tuple[list[int], list[Samples]]]


class Described(Protocol):
    """What is to be known before a pool is begun."""

    @property
    def device(self) -> str:
        """Where a reward model is best put."""

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """What is known of how the samples are made."""

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Token ids of every prompt. Raises VbonError naming the row of one that is too long."""

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Completions of these prompts to sample at a time."""


class Engine(Described, Protocol):
    """A sampler of completions; `draw` is a function of its arguments as far as the engine's seeds are."""

    def draw(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], plan: Plan, seed: int, num_samples: int
    ) -> Drawn:
        """Yield (positions of some prompts, their samples) until every prompt had its turn."""
