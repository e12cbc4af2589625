"""vBoN in OpenRLHF: `reward_func` returns ρ, and the flags make its KL-in-reward training the vBoN objective.

OpenRLHF scores one completion a call, from threads, and swallows what a reward function raises: errors are logged
first. `queries` hold prompt and completion with special tokens; the prompt and its reference rewards are in `labels`.
Its default reward clip of ±10 never touches ρ, which lies in [−log(M+1), log N/(N−1)].
"""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from vbon.artifacts.fingerprint import Fingerprint
from vbon.core.best_of_n import kl_coef_from_n
from vbon.errors import VbonError
from vbon.integrations.lookup import Scores, SequenceReward, load_sequence_reward, read_reference

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[str]], dict[str, Any]]

_log = logging.getLogger(__name__)


def make_reward_func(
    reward: str, n: float, pool: str | None = None, *, special_tokens: Sequence[str] = ()
) -> RewardFunc:
    """A `reward_func` for `--reward.remote_url FILE.py`; everything is loaded at its first call.

    `special_tokens`: the tokenizer's (`tokenizer.all_special_tokens`), cut from a completion as the pool's text has
    them cut.
    """
    lazy = _Lazy(reward, n, pool)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """{"rewards": ρ, "scores": share of the pool beaten, "extra_logs": …} as float32 tensors (B,)."""
        try:
            scores = _score(lazy.get(), queries, prompts, labels, special_tokens)
        except Exception as error:
            _log.error("vbon reward_func failed: %s", error)
            raise
        return _answer(scores)

    return reward_func


def completion_of(query: str, prompt: str, special_tokens: Sequence[str]) -> str:
    """The completion in a query: what follows the prompt, special tokens cut.

    Raises VbonError where the query does not begin with the prompt (the host cut it, or its tokenizer rewrote it).
    """
    if not query.startswith(prompt):
        raise VbonError(f"a query does not begin with its prompt {prompt[:60]!r}; raise --data.max_len, or render it")
    text = query[len(prompt) :]
    for token in special_tokens:
        text = text.replace(token, "")
    return text


def config_lines(
    n: float, reward_file: str, fingerprint: Fingerprint | None = None, *, estimator: str = "gae"
) -> list[str]:
    """Flags of `openrlhf.cli.train_ppo_ray`; with a pool's `fingerprint`, its sampling too.

    `estimator`: gae (with a critic) or rloo (without). Both take the KL out of the reward, token by token.
    """
    lines = [
        f"--reward.remote_url {reward_file}",
        f"--algo.kl.init_coef {kl_coef_from_n(n)!r}",
        "--algo.kl.estimator k1",
        f"--algo.advantage.estimator {estimator}",
        "--algo.advantage.gamma 1.0",
        "--rollout.top_p 1.0",
    ]
    if fingerprint is not None and fingerprint.temperature is not None:
        lines.append(f"--rollout.temperature {fingerprint.temperature}")
    if fingerprint is not None and fingerprint.max_new_tokens is not None:
        lines.append(f"--rollout.max_new_tokens {fingerprint.max_new_tokens}")
    return lines


def dataset_row(prompt_text: str, reference: str) -> dict[str, str]:
    """A row of OpenRLHF's prompt file: `--data.input_key input --data.label_key label`."""
    return {"input": prompt_text, "label": reference}


class _Lazy:
    """The SequenceReward, loaded by the first of many threads that ask."""

    def __init__(self, reward: str, n: float, pool: str | None):
        self._arguments, self._lock = (reward, n, pool), Lock()

    def get(self) -> SequenceReward:
        with self._lock:
            return self._loaded

    @cached_property
    def _loaded(self) -> SequenceReward:
        return load_sequence_reward(*self._arguments)


def _score(
    scorer: SequenceReward,
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[str],
    special_tokens: Sequence[str],
) -> Scores:
    references = [read_reference(label, scorer.find, f"label {row}") for row, label in enumerate(labels)]
    completions = [completion_of(query, prompt, special_tokens) for query, prompt in zip(queries, prompts, strict=True)]
    return scorer(references, completions)


def _answer(scores: Scores) -> dict[str, Any]:
    import torch

    return {
        "rewards": torch.tensor(scores.sequence_rewards, dtype=torch.float32),
        "scores": torch.tensor(scores.win_rates, dtype=torch.float32),
        "extra_logs": {"base_reward": torch.tensor(scores.rewards, dtype=torch.float32)},
    }
