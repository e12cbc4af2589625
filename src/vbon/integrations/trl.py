"""vBoN in TRL: a reward callable for RLOOTrainer (exact) and GRPOTrainer (approximate), and their settings.

TRL subtracts k1, summed over the sequence, from RLOO's reward, so ρ with beta = 1/(N−1) is the vBoN objective itself.
GRPO keeps the KL in the loss and drops how today's token changes tomorrow's KL: its fixed point is off by 0.14–0.25
nats at N = 8 and 0.8–1.0 at N = 32 (on 3,906 enumerated completions). Prefer RLOO.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from vbon.artifacts.fingerprint import Fingerprint
from vbon.core.best_of_n import kl_coef_from_n
from vbon.errors import VbonError
from vbon.integrations.lookup import (
    Reference,
    Scores,
    SequenceReward,
    checked_keys,
    checked_rewards,
    load_sequence_reward,
)
from vbon.models.load import load_tokenizer
from vbon.models.prompts import decode, encode
from vbon.pool.prompts import Prompt
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward

RESERVED_COLUMNS = "vbon_columns"
"""Column with those of the pool, as JSON, whose names TRL or this reward uses itself."""
HOST_ARGUMENTS = ("completion_ids", "trainer_state", "log_extra", "log_metric")
LogMetric = Callable[[str, float], None]


class VbonReward:
    """A TRL reward function: ρ of each completion.

    The prompt's reference rewards come from the dataset's column `ref_rewards`, or from `pool` by the column
    `prompt_id`, or from `pool` by the prompt itself. Other columns go to the base reward.

    Args:
        reward: a Reward, or what `--reward` takes.
        n: N of best-of-N, any real number above 1; give the trainer `rloo_config_kwargs(n)`.
        pool: a pool or its directory; not needed where every row has `ref_rewards`.
        tokenizer: the policy's, or its directory or hub id: completions are then decoded from TRL's token ids behind
            their prompt, as in the pool. Without it TRL's own text is scored, which lacks the first space of a
            completion with tokenizers of the Llama-2 family.
        options: passed to `load_reward` (device, batch_size, timeout, trust_remote_code).

    Raises:
        VbonError: n, reward or pool will not do; in a call: a prompt without references, a reward that failed.
    """

    __name__ = "vbon"  # TRL logs rewards/vbon/mean

    def __init__(
        self,
        reward: str | Reward,
        n: float,
        pool: str | ReferencePool | None = None,
        *,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> None:
        self.sequence_reward: SequenceReward = load_sequence_reward(reward, n, pool, **options)
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer

    def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], log_metric: LogMetric | None = None, **columns: Any
    ) -> list[float]:
        """ρ of each completion. TRL's calling convention: aligned lists by keyword, messages where it is a chat."""
        rows = {name: values for name, values in columns.items() if name not in HOST_ARGUMENTS}
        references = [self._reference(prompt, rows, index) for index, prompt in enumerate(prompts)]
        self._check_ends(columns.get("completion_ids"))
        scores = self.sequence_reward(references, self._texts(prompts, completions, columns.get("completion_ids")))
        if log_metric is not None:
            _log(scores, log_metric)
        return scores.sequence_rewards.tolist()

    def _check_ends(self, ids: Sequence[list[int]] | None) -> None:
        """Raise VbonError where TRL ends completions at other tokens than the pool's samples end at."""
        pool = self.sequence_reward.pool
        if pool is None or pool.fingerprint.stop is None or ids is None:
            return
        stop, most = pool.fingerprint.stop, pool.fingerprint.max_new_tokens
        for row in map(list, ids):
            beyond = any(token in stop for token in row[:-1])
            early = bool(row) and row[-1] not in stop and most is not None and len(row) < most
            if beyond or early:
                what = "continue behind a stop token of the pool" if beyond else f"end at the token {row[-1]}"
                raise VbonError(
                    f"{pool.path}: its samples end at the tokens {list(stop)}, but completions of the trainer {what}; "
                    f"set eos_token_id of the model's generation_config to {list(stop)}"
                )

    def _reference(self, prompt: Any, rows: dict[str, Sequence[Any]], index: int) -> Reference:
        row = {name: values[index] for name, values in rows.items()}
        prompt_id, ref_rewards = row.pop("prompt_id", None), row.pop("ref_rewards", None)
        ref_keys = row.pop("ref_keys", None)
        row |= json.loads(row.pop(RESERVED_COLUMNS, None) or "{}")
        if ref_rewards is None:
            return Reference(self.sequence_reward.find(prompt_id, prompt), None)
        where = f"prompt {prompt_id or repr(prompt)[:60]}"
        rewards = checked_rewards(ref_rewards, where)
        return Reference(Prompt(prompt_id or "", prompt, row), rewards, checked_keys(ref_keys, len(rewards), where))

    def _texts(self, prompts: Sequence[Any], completions: Sequence[Any], ids: Sequence[list[int]] | None) -> list[str]:
        """Each completion as the pool's are decoded, behind its prompt: TRL's text may lack its first space."""
        if self.tokenizer is None or ids is None:
            return [completion_text(completion) for completion in completions]
        return decode(self.tokenizer, encode(self.tokenizer, prompts), ids)


def completion_text(completion: Any) -> str:
    """The text that a completion adds: itself, or the content of the assistant message it is.

    Raises VbonError for several messages (tools, turns): the pool holds single-turn completions.
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise VbonError(f"a completion has {len(completion)} messages; a pool ranks single-turn completions only")
    content = completion[0].get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def rloo_config_kwargs(n: float, fingerprint: Fingerprint | None = None) -> dict[str, Any]:
    """What RLOOConfig must hold to maximise −KL(π_θ‖π_bon); with a pool's `fingerprint`, its sampling too."""
    return {"beta": kl_coef_from_n(n), "normalize_advantages": False, **_shared(fingerprint)}


def grpo_config_kwargs(n: float, num_generations: int, fingerprint: Fingerprint | None = None) -> dict[str, Any]:
    """What GRPOConfig must hold to come near it (module docstring: how near).

    beta = (G−1)/(G·(N−1)): GRPO's baseline includes the sample itself, which shrinks the reward's gradient, and only
    that, by (G−1)/G. Raises ValueError for n ≤ 1 or fewer than 2 generations.
    """
    if num_generations < 2:
        raise ValueError(f"num_generations must be at least 2, got {num_generations}")
    return {
        "beta": kl_coef_from_n(n) * (num_generations - 1) / num_generations,
        "num_generations": num_generations,
        "scale_rewards": "none",  # dividing by the group's spread would change the reward:KL ratio
        "loss_type": "dapo",
        "importance_sampling_level": "token",
        "use_bias_correction_kl": True,
        **_shared(fingerprint),
    }


def _shared(fingerprint: Fingerprint | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "disable_dropout": True,  # or the KL at step 0 is not 0
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "mask_truncated_completions": False,  # the pool ranks them like any other
    }
    if fingerprint is not None and fingerprint.temperature is not None:
        settings["temperature"] = fingerprint.temperature
    if fingerprint is not None and fingerprint.max_new_tokens is not None:
        settings["max_completion_length"] = fingerprint.max_new_tokens
    return settings


def _log(scores: Scores, log_metric: LogMetric) -> None:
    log_metric("vbon/reward", float(np.mean(scores.rewards)))
    log_metric("vbon/sequence_reward", float(np.mean(scores.sequence_rewards)))
    log_metric("vbon/win_rate", float(np.mean(scores.win_rates)))
