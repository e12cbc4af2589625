"""The arithmetic of memory plans: against published sizes of models, and against sums by hand."""

import pytest
import torch
from tests.models.conftest import make
from transformers import LlamaConfig, Qwen2Config

from vbon.models.activations import bytes_per_token
from vbon.models.batch_size import FREE_SHARE, bytes_per_row, rows_that_fit
from vbon.models.device_memory import available_bytes, process_bytes
from vbon.models.memory_plan import Item, Size, Work, checkpoint_bytes, sampled_row, sampling_plan, training_plan
from vbon.models.network_size import empty_model, sampling_size, size_of, weights_in
from vbon.models.plan_lines import Shown, plan_lines, show

GIGABYTE = 1e9
SEVEN = Size(parameters=7 * 10**9, itemsize=2, cached_values=65_536, vocab_size=32_000, kept_per_token=10**7)


def test_a_config_alone_gives_the_published_number_of_weights():
    """Llama 3 8B has 8,030,261,248 weights and Qwen2.5 0.5B 494,032,768, of which tied ones count once."""
    llama = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    qwen = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    assert size_of(empty_model(llama)).parameters == 8_030_261_248
    assert size_of(empty_model(qwen, dtype="bfloat16")).parameters == 494_032_768
    assert sampling_size(empty_model(llama, dtype="bfloat16")).cached_values == 2 * 32 * 8 * 128


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_model_without_weights_keeps_as_much_for_the_gradient_as_with_them(name):
    model = make(name)
    assert bytes_per_token(empty_model(model.config)) == pytest.approx(bytes_per_token(model), rel=0.25)


def test_full_training_in_float32_takes_twenty_bytes_a_weight_beside_rows():
    """Policy, reference, gradient and two moments; adapters take 16 bytes a weight of theirs and no reference."""
    full = Size(parameters=1000, itemsize=4, cached_values=8, vocab_size=10, kept_per_token=100)
    work = Work(device="cpu", longest=10, rollouts=4, minibatch=2)
    plan = training_plan(full, work, 1e9)
    rows = 4 * sampled_row(full, 10)
    update = 2 * 10 * 100 + 4 * 4 * (2 * 10 * 10)
    assert plan.peak == 20 * 1000 + max(rows, update)
    lora = Size(parameters=1000, adapters=30, itemsize=2, cached_values=8, vocab_size=10, kept_per_token=100)
    assert training_plan(lora, work, 1e9).peak == 2 * 1000 + 16 * 30 + max(4 * sampled_row(lora, 10), update)


def test_shards_divide_gradients_and_moments_but_not_what_is_sampled():
    work = Work(device="cuda", longest=512, rollouts=64, minibatch=8, processes=8, in_shards=True)
    one = training_plan(SEVEN, Work(device="cuda", longest=512, rollouts=64, minibatch=8), 80 * GIGABYTE)
    eight = training_plan(SEVEN, work, 80 * GIGABYTE)
    assert sum(item.bytes for item in one.always) == 7e9 * (2 + 2 + 2 + 4)
    assert sum(item.bytes for item in eight.always) == 7e9 * (2 + 2 + (2 + 2 + 4) / 8)


def test_rollouts_on_a_gpu_take_a_share_of_what_is_free():
    work = Work(device="cuda", longest=512, rollouts=10**6, minibatch=1)
    row = sampled_row(SEVEN, 512)
    plan = training_plan(SEVEN, work, 7e10 + 300 * row / FREE_SHARE)
    assert plan.phases["rollouts"] == (Item("keys, values and logits, 256 rows at a time", 256.0 * row),)


def test_a_row_takes_what_the_sampler_counts():
    model = make("llama")
    assert sampled_row(sampling_size(model), 12) == bytes_per_row(model, 12)
    plan = sampling_plan(sampling_size(model), Work(device="cpu", longest=12, rollouts=rows_that_fit(model, 12)))
    assert plan.peak == sum(p.nbytes for p in model.parameters()) + rows_that_fit(model, 12) * bytes_per_row(model, 12)


def test_a_run_keeps_checkpoints_with_moments_the_best_weights_and_its_model_on_the_disk():
    size = Size(parameters=100, itemsize=4, cached_values=1, vocab_size=1)
    assert checkpoint_bytes(size, 2) == 2 * 1200 + 400 + 400


def test_a_plan_says_whether_it_fits(tmp_path):
    plan = training_plan(SEVEN, Work(device="cuda", longest=512, rollouts=64, minibatch=8), 80 * GIGABYTE)
    lines = plan_lines(plan, Shown("cuda", 24 * GIGABYTE, 1e9, tmp_path), [("--lora-rank 16", 16 * GIGABYTE)])
    assert "  cuda has 24.00 GB: IT DOES NOT FIT" in lines
    assert "    with --lora-rank 16: 16.00 GB, which fits" in lines
    assert "  cuda has 99.00 GB: it fits" in plan_lines(
        plan, Shown("cuda", 99 * GIGABYTE, 1e9, tmp_path / "new" / "run")
    )
    assert "WHICH IS TOO LITTLE" in plan_lines(plan, Shown("cuda", None, 1e18, tmp_path))[-1]


def test_a_plan_that_cannot_be_made_is_one_line_and_no_error(capsys):
    def fail() -> list[str]:
        raise RuntimeError("an architecture\nthat needs values")

    show(fail)
    assert capsys.readouterr().err == "no memory plan for this model: an architecture that needs values\n"


def test_weights_in_a_directory_are_counted_from_headers(tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path)
    assert weights_in(tmp_path) == sum(p.numel() for p in model.parameters())
    assert weights_in(tmp_path / "absent") == 0


def test_the_machine_says_what_a_process_has_and_may_have():
    before = process_bytes()
    held = torch.ones(2**25)  # 128 MiB
    assert process_bytes() - before >= 0.9 * held.nbytes
    assert (available_bytes(torch.device("cpu")) or 0) > held.nbytes
    assert available_bytes(torch.device("meta")) is None
