"""The model and the ragged rows that the benchmarks share: GPT-2 of 0.87 M parameters, random weights."""

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, EOS, PAD, NEW_TOKENS = 512, 0, 1, 16


def gpt2(hidden_size: int = 128, num_layers: int = 4) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=hidden_size, n_layer=num_layers, n_head=4, n_positions=64,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def random_rows(count: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Token ids without EOS and padding, lengths uniform from shortest to longest."""
    draw = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=draw)

    return [integers(2, VOCAB, length).tolist() for length in integers(shortest, longest + 1, count).tolist()]
