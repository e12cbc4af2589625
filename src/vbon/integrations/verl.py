"""vBoN in verl: `compute_score` returns ρ, and the configuration makes its KL-in-reward PPO the vBoN objective.

verl scores one completion a call, from threads of several worker processes, and shows the function neither prompt
nor EOS: the prompt and its reference rewards are in `extra_info` (`encode_reference` under the key "vbon", or plain
prompt_id and ref_rewards).
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import Any

from vbon.artifacts.fingerprint import Fingerprint
from vbon.core.best_of_n import kl_coef_from_n
from vbon.integrations.lookup import SequenceReward, load_sequence_reward, read_reference

EXTRA_INFO_KEY = "vbon"
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template that adds nothing: prompts are rendered once, by the tokenizer the pool was made with."""

ComputeScore = Callable[..., dict[str, float]]

_log = logging.getLogger(__name__)
_loading = Lock()  # verl's threads all ask first; one loads


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: str,
    n: float,
    pool: str | None = None,
    **_: Any,
) -> dict[str, float]:
    """verl's reward function: {"score": ρ, "base_reward": r, "win_rate": share of the pool beaten}.

    `reward`, `n` and, where rows hold no references, `pool` come from `custom_reward_function.reward_kwargs`.
    Logs before it raises: a worker's exception may come out far from its cause.
    """
    try:
        scorer = _load(reward, float(n), pool)
        info = dict(extra_info or {})
        reference = read_reference(info.get(EXTRA_INFO_KEY, info), scorer.find, f"extra_info of {data_source!r}")
        scores = scorer([reference], [solution_str])
    except Exception as error:
        _log.error("vbon compute_score failed: %s", error)
        raise
    return {
        "score": float(scores.sequence_rewards[0]),
        "base_reward": float(scores.rewards[0]),
        "win_rate": float(scores.win_rates[0]),
    }


def make_compute_score(reward: str, n: float, pool: str | None = None) -> ComputeScore:
    """`compute_score` with its settings filled in, for a file of your own that verl loads by path."""

    def bound(*args: Any, **kwargs: Any) -> dict[str, float]:
        return compute_score(*args, **kwargs, reward=reward, n=n, pool=pool)

    return bound


def config_lines(n: float, reward_file: str, fingerprint: Fingerprint | None = None) -> list[str]:
    """Hydra overrides that make verl's PPO maximise −KL(π_θ‖π_bon); with a pool's `fingerprint`, its sampling too.

    Older versions spell `reward.custom_reward_function` without `reward.`; verl migrates that spelling itself.
    """
    lines = [
        "algorithm.adv_estimator=gae",
        "algorithm.gamma=1.0",
        "algorithm.lam=0.95",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_penalty=kl",
        "algorithm.kl_ctrl.type=fixed",
        f"algorithm.kl_ctrl.kl_coef={kl_coef_from_n(n)!r}",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.actor.entropy_coeff=0",
        "actor_rollout_ref.rollout.top_p=1.0",
        "actor_rollout_ref.rollout.top_k=-1",
        "reward.reward_manager.name=naive",
        f"reward.custom_reward_function.path={reward_file}",
        "reward.custom_reward_function.name=compute_score",
    ]
    if fingerprint is not None and fingerprint.temperature is not None:
        lines.append(f"actor_rollout_ref.rollout.temperature={fingerprint.temperature}")
    if fingerprint is not None and fingerprint.max_new_tokens is not None:
        lines.append(f"data.max_response_length={fingerprint.max_new_tokens}")
    return lines


def dataset_row(index: int, prompt_text: str, reference: str) -> dict[str, Any]:
    """A row of verl's training file: the rendered prompt, and its reference JSON in `extra_info`."""
    return {
        "data_source": "vbon",
        "prompt": [{"role": "user", "content": prompt_text}],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {"index": index, EXTRA_INFO_KEY: reference},
    }


def _load(reward: str, n: float, pool: str | None) -> SequenceReward:
    with _loading:
        return _load_once(reward, n, pool)


@cache
def _load_once(reward: str, n: float, pool: str | None) -> SequenceReward:
    return load_sequence_reward(reward, n, pool)
