"""The default number of completions that are sampled together: a power of two that fits into memory."""

from typing import Any

import torch
from transformers import PreTrainedModel

MOST_ROWS = {"cpu": 256, "cuda": 2048}  # more do not pay
# Fixed, so that a pool is a function of its settings: what is free on a CPU's machine is not looked at.
CPU_BYTES = 2**31
FREE_SHARE = 0.5  # of a GPU's memory, for keys and values and logits; the rest is for activations and what comes after
BYTES_PER_LOGIT = 20  # float32 logits and log-probabilities, float64 cumulative sums, and the model's own logits


def rows_that_fit(model: PreTrainedModel, tokens: int) -> int:
    """Compute how many rows of `tokens` tokens, prompt and completion, fit into the memory of the model's device."""
    device = model.device
    on_gpu = device.type == "cuda"
    room = FREE_SHARE * torch.cuda.mem_get_info(device)[0] if on_gpu else CPU_BYTES
    return power_of_two(room / bytes_per_row(model, tokens), MOST_ROWS["cuda" if on_gpu else "cpu"])


def bytes_per_row(model: PreTrainedModel, tokens: int) -> int:
    """Compute the bytes that a row needs for keys and values of every layer and for drawing the next token."""
    config: Any = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_size * tokens * model.dtype.itemsize
    return int(cache + BYTES_PER_LOGIT * config.vocab_size)


def power_of_two(rows: float, most: int) -> int:
    """Return the largest power of two that is at most `rows` and at most `most`, and at least 1."""
    return 1 << max(0, int(min(rows, most)).bit_length() - 1)
