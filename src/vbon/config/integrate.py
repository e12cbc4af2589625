"""Config of `vbon integrate`: handing a pool over to another trainer."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import checks

Host = Literal["trl", "verl", "openrlhf"]


@dataclass(frozen=True, kw_only=True)
class IntegrateConfig:
    """`vbon integrate`: write what another trainer needs to run vBoN on a pool: data, reward, settings, README."""

    host: Host = field(metadata={"positional": "HOST"})
    """trl, verl or openrlhf."""
    pool: str
    """Directory of the pool."""
    out: str
    """Directory to write; new or empty."""
    n: float = 8.0
    """N of best-of-N."""
    model: str | None = None
    """Reference model, where training starts; default: the one that made the pool."""
    reward: str | None = None
    """Reward; default: the one that scored the pool."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model's tokenizer or the reward. Only for code you have read."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "pool", "out", "model", "reward")
        checks.check_above(self, 1, "n")
