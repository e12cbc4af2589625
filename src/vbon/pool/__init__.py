"""Scored reference samples of each prompt: collected or imported once, and used by every later stage."""

from vbon.artifacts.fingerprint import Fingerprint, check_fingerprint
from vbon.pool.prompts import Prompt, make_prompt, read_prompts, reward_columns
from vbon.pool.store import ReferencePool, tie_keys
from vbon.pool.writer import PoolWriter

__all__ = [
    "Fingerprint",
    "PoolWriter",
    "Prompt",
    "ReferencePool",
    "check_fingerprint",
    "make_prompt",
    "read_prompts",
    "reward_columns",
    "tie_keys",
]
