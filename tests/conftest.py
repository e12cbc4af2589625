"""Every test runs single-threaded, and property tests draw the same examples on every machine."""

import contextlib
import signal

import torch
from hypothesis import settings
from tests.pages import browse

torch.set_num_threads(1)
# A shell starts what it runs in the background with Ctrl-C ignored, which all processes that tests start would inherit.
with contextlib.suppress(ValueError):  # outside of the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("vbon", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("vbon")

__all__ = ["browse"]  # a fixture
