"""The memory of a sampled row against the cache that the model itself fills, and the rows that fit."""

from typing import get_args

import pytest
import torch
import transformers
from tests.models.conftest import ARCHITECTURES, VOCAB

from vbon.models.batch_size import (
    BYTES_PER_LOGIT,
    LIMITS,
    Limit,
    Use,
    bytes_per_row,
    cached_values,
    power_of_two,
    rows_at_a_time,
    rows_that_fit,
)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "qwen3"])  # qwen3: heads of a size of their own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_row_are_those_of_the_cache_and_of_the_draw(name, dtype):
    model = ARCHITECTURES[name]().eval().to(dtype)
    with torch.no_grad():
        cache = model(torch.ones(3, 7, dtype=torch.int64), use_cache=True).past_key_values
    held = sum(states.nbytes for layer in cache.layers for states in (layer.keys, layer.values))
    assert bytes_per_row(model, 7) == held // 3 + BYTES_PER_LOGIT * VOCAB


@pytest.mark.parametrize(("rows", "expected"), [(0, 1), (1, 1), (3, 2), (64, 64), (127, 64)])
def test_sampled_rows_are_a_power_of_two(rows, expected):
    assert power_of_two(rows) == expected


def test_a_cpu_samples_the_most_rows_that_pay_or_those_that_its_fixed_share_of_memory_holds(monkeypatch):
    model = ARCHITECTURES["llama"]()
    assert rows_that_fit(model, 20) == 256
    monkeypatch.setitem(LIMITS["sampling"], "cpu", Limit(21 * bytes_per_row(model, 20), 256))
    assert rows_that_fit(model, 20) == 16


@pytest.mark.parametrize(
    ("use", "per_row", "on_cpu", "on_gpu"),
    [
        ("sampling", 2**24, 128, 64),  # 2 GiB there, half of the 2 GiB that are free here
        ("sampling", 1000, 256, 2048),
        ("forward", 100, 4, 164),  # at least 384 and 16384 tokens
        ("log-softmax", 50257, 333, 333),
        ("log-probabilities", 1, 64, 64),
        ("reference", 1, 256, 256),
        ("pool", 1, 2048, 2048),
        ("divergence", 32 * 50257, 10, 166),
        ("divergence", 0, 256, 256),
        ("fit", 128 * 8000, 131, 131),
    ],
)
def test_a_cpus_rows_follow_from_the_settings_and_not_from_what_is_free(monkeypatch, use, per_row, on_cpu, on_gpu):
    """Other rows at a time give other float32 sums: a change here changes results with the same seed."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("a CPU was asked what is free"))
    assert rows_at_a_time(use, torch.device("cpu"), per_row) == on_cpu
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**31, 2**32))
    assert rows_at_a_time(use, torch.device("cuda"), per_row) == on_gpu


def test_every_use_is_in_the_table_and_takes_at_least_one_row():
    assert set(LIMITS) == set(get_args(Use))
    assert all(rows_at_a_time(use, torch.device("cpu"), 2**40) == 1 for use in LIMITS)


def test_a_model_without_attention_has_a_size_too():
    config = transformers.Mamba2Config(hidden_size=16, num_hidden_layers=3, num_heads=4, head_dim=8)
    assert cached_values(config) == 2 * 3 * 16
