"""Rewards: one protocol for classifiers, Python callables, HTTP endpoints and built-ins."""

from vbon.rewards.checked import checked
from vbon.rewards.load import load_configured_reward, load_reward
from vbon.rewards.protocol import Reward
from vbon.rewards.python_callable import callable_reward

__all__ = ["Reward", "callable_reward", "checked", "load_configured_reward", "load_reward"]
