"""The memory of a sampled row against the cache that the model itself fills, and the rows that fit."""

import pytest
import torch
from tests.models.conftest import ARCHITECTURES, VOCAB

from vbon.models import memory
from vbon.models.memory import BYTES_PER_LOGIT, bytes_per_row, power_of_two, rows_that_fit


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "qwen3"])  # qwen3: heads of a size of their own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_row_are_those_of_the_cache_and_of_the_draw(name, dtype):
    model = ARCHITECTURES[name]().eval().to(dtype)
    with torch.no_grad():
        cache = model(torch.ones(3, 7, dtype=torch.int64), use_cache=True).past_key_values
    held = sum(states.nbytes for layer in cache.layers for states in (layer.keys, layer.values))
    assert bytes_per_row(model, 7) == held // 3 + BYTES_PER_LOGIT * VOCAB


@pytest.mark.parametrize(("rows", "expected"), [(0.2, 1), (1, 1), (3.9, 2), (64, 64), (127.9, 64), (1e9, 64)])
def test_rows_are_a_power_of_two_within_memory_and_the_most_that_pay(rows, expected):
    assert power_of_two(rows, 100) == expected


def test_a_cpu_takes_the_most_rows_that_pay_or_those_that_its_fixed_share_of_memory_holds(monkeypatch):
    model = ARCHITECTURES["llama"]()
    assert rows_that_fit(model, 20) == 256
    monkeypatch.setattr(memory, "CPU_BYTES", 21 * bytes_per_row(model, 20))
    assert rows_that_fit(model, 20) == 16
