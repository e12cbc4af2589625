"""Every test runs single-threaded, and property tests draw the same examples on every machine."""

import torch
from hypothesis import settings
from tests.pages import browse

torch.set_num_threads(1)
settings.register_profile("vbon", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("vbon")

__all__ = ["browse"]  # a fixture
