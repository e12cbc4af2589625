"""Config of `vbon integrate`."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import types
from vbon.config.fields import check_fields

Host = Literal["trl", "verl", "openrlhf"]


@dataclass(frozen=True, kw_only=True)
class IntegrateConfig:
    """Settings of `vbon integrate`, which writes data, reward, settings and a README for another trainer."""

    host: Host = field(metadata={"positional": "HOST"})
    """Trainer to write for: trl, verl or openrlhf."""
    pool: types.Directory
    """Directory of the pool."""
    out: types.Directory
    """Directory to write. It must be new or empty."""
    n: types.BestOf = 8.0
    """N of best-of-N."""
    model: types.Model | None = None
    """Reference model, where training starts. Default: the one that made the pool."""
    reward: types.RewardSpec | None = None
    """Reward. Default: the one that scored the pool."""
    trust_remote_code: types.TrustRemoteCode = False

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
