"""Variational Best-of-N: a model whose single sample is nearly as good as the best of N."""

import importlib
from typing import TYPE_CHECKING, Any

from vbon.version import __version__

if TYPE_CHECKING:
    from vbon.core import best_of_n
    from vbon.core.reward_cdf import RewardCDF
    from vbon.evaluation.evaluate import evaluate
    from vbon.pool.store import ReferencePool
    from vbon.training.trainer import VBoNTrainer

__all__ = ["ReferencePool", "RewardCDF", "VBoNTrainer", "best_of_n", "evaluate", "__version__"]

# Resolved on first use (PEP 562), so that `import vbon` and the command line's help need no torch.
_HOMES = {
    "best_of_n": "vbon.core",
    "RewardCDF": "vbon.core.reward_cdf",
    "ReferencePool": "vbon.pool.store",
    "VBoNTrainer": "vbon.training.trainer",
    "evaluate": "vbon.evaluation.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vbon' has no attribute {name!r}")
    if name == "best_of_n":
        return importlib.import_module("vbon.core.best_of_n")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
