"""An enumerable world (781 completions of up to four letters after one prompt), and pools drawn from it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.enumerable import Enumerable, make_enumerable, write_pool

from vbon.lab.world import World
from vbon.pool import ReferencePool, make_prompt

UNKNOWN = {"model": None, "tokenizer": None, "chat_template": None, "stop": None}  # the pool does not say
WORLD = World(max_new_tokens=4, prompts=("start",))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Enumerable:
    return make_enumerable(tmp_path_factory.mktemp("lab"), WORLD)


@pytest.fixture
def draw_pool(lab: Enumerable, tmp_path: Path) -> Callable[..., ReferencePool]:
    """draw_pool(num_samples, prompts=("start",)) → a pool of draws from the reference, whatever the prompt."""

    def draw(num_samples: int, prompts: Sequence = ("start",), columns: dict | None = None) -> ReferencePool:
        made = [make_prompt(prompt, columns) for prompt in prompts]
        return ReferencePool.open(write_pool(lab, tmp_path / "pool", num_samples, "positions", prompts=made, **UNKNOWN))

    return draw
