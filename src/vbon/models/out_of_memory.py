"""An answer to memory that runs out all the same: half as many rows, once."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from vbon.errors import VbonError
from vbon.models.batch_size import HALVED, Use

Result = TypeVar("Result")


def halved_once(use: Use, attempt: Callable[[], Result], help_with: str) -> Result:
    """Call `attempt`; where memory runs out, halve the rows of `use` for the rest of the process and call it again.

    Processes that train together must all take the same number of calls, so there memory that runs out is an error at
    once.

    Args:
        use: decides by `rows_at_a_time` how many rows `attempt` takes at a time.
        attempt: what needs the memory; it may be called twice.
        help_with: flags that help, for the error.

    Raises:
        VbonError: memory runs out with half as many rows too.
    """
    try:
        return attempt()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if use in HALVED or torch.distributed.is_initialized():
            raise VbonError(f"memory runs out in {use}; {help_with} helps") from None
    HALVED.add(use)
    warnings.warn(f"memory ran out in {use}: from now on half as many rows at a time", stacklevel=2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the attempt held is free only here, outside the except clause
    return attempt()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch's CPU allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
