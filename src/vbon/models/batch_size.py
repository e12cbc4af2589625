"""The number of rows that are processed together, decided by one function for every use.

On a CPU it depends on the settings alone, so that a pool or a run is a function of its settings; the memory that is
free is read for sampling on a GPU only.
"""

from typing import Any, Literal, NamedTuple

import torch

Use = Literal[
    "sampling",
    "rollouts",
    "training",
    "forward",
    "log-softmax",
    "log-probabilities",
    "reference",
    "pool",
    "divergence",
    "fit",
]


class Limit(NamedTuple):
    """The units that a use holds at a time, None for `FREE_SHARE` of the free memory, and its most rows."""

    amount: int | None
    most_rows: int | None = None


FREE_SHARE = 0.5  # of a GPU's memory, for keys and values and logits; the rest is for activations and what comes after
LIMITS: dict[Use, dict[str, Limit]] = {
    # Bytes of keys, values and logits. More rows do not pay.
    "sampling": {"cpu": Limit(2**31, 256), "cuda": Limit(None, 2048)},
    # Likewise, beside the weights, gradients and moments of training.
    "rollouts": {"cpu": Limit(2**29), "cuda": Limit(None, 2048)},
    # Bytes of what a forward pass keeps for its gradient. On a GPU this is fixed too: rows follow from the settings.
    "training": {"cpu": Limit(2**29), "cuda": Limit(2**33)},
    # Tokens, at least: fewer would be paid for in overhead (kernel launches on a GPU), more in padding.
    "forward": {"cpu": Limit(384), "cuda": Limit(16384)},
    # Logits that are raised to float32 and exponentiated (64 MB): a large vocabulary's never lie there twice.
    "log-softmax": {"cpu": Limit(2**24), "cuda": Limit(2**24)},
    # Rows that are sorted by length and padded together, of which "forward" makes its calls.
    "log-probabilities": {"cpu": Limit(64), "cuda": Limit(64)},
    "reference": {"cpu": Limit(256), "cuda": Limit(256)},
    "pool": {"cpu": Limit(2048), "cuda": Limit(2048)},
    # Logits in float32, of which about six arrays are alive at once: 64 MB, on a GPU a gigabyte.
    "divergence": {"cpu": Limit(2**24, 256), "cuda": Limit(2**28, 256)},
    # Logits in float32, half a gigabyte.
    "fit": {"cpu": Limit(2**27), "cuda": Limit(2**27)},
}
HALVED: set[Use] = set()
"""Uses in which memory has run out in this process, which take half as many rows since (`halved_once`)."""
BYTES_PER_LOGIT = 20  # float32 logits and log-probabilities, float64 cumulative sums, and the model's own logits


def rows_at_a_time(use: Use, device: torch.device, per_row: int = 1) -> int:
    """Decide how many rows are processed together, at least 1.

    Args:
        use: what they are processed for, an entry of `LIMITS`.
        device: where; every device that is not a CPU has the limits of a GPU.
        per_row: how much of the use's unit (rows, tokens, logits or bytes) one row takes.
    """
    limits = LIMITS[use]
    amount, most_rows = limits["cpu" if device.type == "cpu" else "cuda"]
    if amount is None and device.type != "cuda":  # a device that does not say what is free
        amount, most_rows = limits["cpu"]
    if amount is None:
        amount = int(FREE_SHARE * torch.cuda.mem_get_info(device)[0])
    if use in HALVED:
        amount //= 2
    rows = -(-amount // max(per_row, 1)) if use == "forward" else amount // max(per_row, 1)
    return max(1, rows if most_rows is None else min(rows, most_rows))


def rows_that_fit(model: Any, tokens: int, use: Use = "sampling") -> int:
    """Compute how many rows of `tokens` tokens, prompt and completion, are sampled together: a power of two."""
    device = next(model.parameters()).device
    return power_of_two(rows_at_a_time(use, device, bytes_per_row(model, tokens)))


def bytes_per_row(model: Any, tokens: int) -> int:
    """Compute the bytes that a row needs for keys and values of every layer and for drawing the next token."""
    config: Any = model.config.get_text_config()
    return int(cached_values(config) * tokens * model.dtype.itemsize + BYTES_PER_LOGIT * config.vocab_size)


def cached_values(config: Any) -> int:
    """Compute how many numbers the keys and values of one token are, over all layers, by a text model's config.

    A model without attention keeps a state instead, whatever the length; it counts as if a token had the hidden size.
    """
    attention = getattr(config, "num_attention_heads", None)
    if attention is None:
        return int(2 * config.num_hidden_layers * config.hidden_size)
    heads = getattr(config, "num_key_value_heads", None) or attention
    head_size = getattr(config, "head_dim", None) or config.hidden_size // attention
    return int(2 * config.num_hidden_layers * heads * head_size)


def power_of_two(rows: int) -> int:
    """Return the largest power of two that is at most `rows`, and at least 1."""
    return 1 << max(0, rows.bit_length() - 1)
