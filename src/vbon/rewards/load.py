"""One word for every reward: `load_reward(spec)` chooses by the form of the specification."""

import re
from pathlib import Path

from vbon.config import CollectConfig, EvaluateConfig, GenerateConfig, InspectConfig, RescoreConfig, TrainConfig
from vbon.errors import VbonError
from vbon.rewards.builtin import PREFIX, builtin_reward
from vbon.rewards.http import http_reward
from vbon.rewards.pairwise import PREFIX as PAIRWISE
from vbon.rewards.pairwise import PairwiseReward
from vbon.rewards.protocol import FORMS, Reward
from vbon.rewards.python_callable import python_reward

Command = CollectConfig | EvaluateConfig | GenerateConfig | InspectConfig | RescoreConfig | TrainConfig
"""The configs of the commands that load a reward."""
_URL = re.compile(r"https?://", re.IGNORECASE)
_FILE_FUNCTION = re.compile(r".+\.py:[^\W\d]\w*")
_MODULE_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(#.+)?")


def load_reward(
    spec: str,
    *,
    device: str = "cpu",
    batch_size: int = 64,
    timeout: float = 60.0,
    concurrency: int = 4,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Reward:
    """The reward that `spec` names.

    `timeout` (seconds) bounds one batch of a Python callable or one HTTP request, of which `concurrency` are in flight
    at a time; a classifier has no limit. `dtype` is that of a classifier's weights.
    Raises VbonError naming `spec` and, where it has none of them, the forms accepted.
    """
    if spec.startswith(PAIRWISE):
        judge = load_reward(
            spec.removeprefix(PAIRWISE), batch_size=batch_size, timeout=timeout, concurrency=concurrency
        )
        return PairwiseReward(judge)
    if _URL.match(spec):
        return http_reward(spec, batch_size=batch_size, timeout=timeout, concurrency=concurrency)
    if spec.startswith(PREFIX):
        return builtin_reward(spec)
    if not is_directory(spec) and (_FILE_FUNCTION.fullmatch(spec) or _MODULE_FUNCTION.fullmatch(spec)):
        return python_reward(spec, batch_size=batch_size, timeout=timeout)
    require_classifier_form(spec)
    from vbon.rewards.classifier import classifier_reward  # torch and transformers: only where a model is loaded

    return classifier_reward(
        spec, device=device, batch_size=batch_size, dtype=dtype, trust_remote_code=trust_remote_code
    )


def load_configured_reward(spec: str, config: Command, device: str) -> Reward:
    """Load the reward that `spec` names with the batch size, time limit and trust that a command's config gives.

    Raises:
        VbonError: as `load_reward` does.
    """
    reward = load_reward(
        spec,
        device=device,
        batch_size=config.reward_batch_size,
        timeout=config.reward_timeout,
        concurrency=config.reward_concurrency,
        dtype=config.reward_dtype,
        trust_remote_code=config.trust_remote_code,
    )
    if isinstance(reward, PairwiseReward) and isinstance(config, CollectConfig | TrainConfig):
        reward.limit(config.opponents, config.max_comparisons, both_orders=config.judge_orders == "both")
    return reward


def is_directory(spec: str) -> bool:
    """Whether `spec`, with or without its #LABEL, is a directory here."""
    return bool(spec) and (Path(spec).is_dir() or Path(spec.rpartition("#")[0] or spec).is_dir())


def require_classifier_form(spec: str) -> None:
    """Raises VbonError unless `spec` is a directory or could be a hub id."""
    if spec.endswith(".py") and Path(spec).is_file():
        raise VbonError(f"reward {spec}: name the function too, {spec}:function")
    if not is_directory(spec) and not _HUB_ID.fullmatch(spec):
        raise VbonError(f"reward {spec!r}: not found; a reward is {FORMS}")
