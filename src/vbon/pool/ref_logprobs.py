"""log π_ref of a pool's completions: the stored numbers are compared with the model in use before they are believed.

They may be of another precision or engine, or of a setting that was allowed to differ.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

ROWS_COMPARED = 16
TOLERANCE = 1e-4
"""Nats per token: what two float32 forward passes of one model differ by at most."""


def checked_ref_logprobs(
    stored: Float, lengths: Callable[[Int], Int], compute: Callable[[Int], Float], path: Path
) -> Float:
    """Complete log π_ref of a pool: the stored numbers where they are right, else computed ones.

    A few of the known rows are computed again. Where one differs by more than float32 noise, all rows are computed.

    Args:
        stored: float64 (B,), NaN where unknown.
        lengths: rows (b,) → their numbers of tokens.
        compute: rows (b,) → log π_ref under the model in use, float64 (b,).
        path: of the pool, for the warning.

    Returns:
        log π_ref of every row, float64 (B,).
    """
    known = np.flatnonzero(np.isfinite(stored))
    few = known[np.unique(np.linspace(0, len(known) - 1, min(ROWS_COMPARED, len(known))).astype(np.int64))]
    gap = np.abs(compute(few) - stored[few]) / np.maximum(lengths(few), 1) if len(few) else np.zeros(1)
    wrong = not float(gap.max()) <= TOLERANCE
    if wrong:
        warnings.warn(
            f"{path}: its stored log π_ref differ from this model's by up to {gap.max():.2g} nats per token (another "
            "precision, engine or setting); all are computed anew",
            stacklevel=2,
        )
    rows = np.arange(len(stored)) if wrong else np.flatnonzero(~np.isfinite(stored))
    result = stored.copy()
    if len(rows):
        result[rows] = compute(rows)
    return result
