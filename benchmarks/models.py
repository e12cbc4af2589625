"""The models and the ragged rows that the benchmarks share: GPT-2 of 0.87 M parameters, or larger; random weights."""

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, EOS, PAD, NEW_TOKENS = 512, 0, 1, 16
LAYERS = 4


def gpt2(hidden_size: int = 128, num_layers: int = LAYERS) -> GPT2LMHeadModel:
    return _random(vocab_size=VOCAB, n_embd=hidden_size, n_layer=num_layers, n_head=4, n_positions=64)


SIZES = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20)}
"""Width, layers, heads of the GPT-2 of that name: 124, 355 and 774 million parameters with its vocabulary."""
FULL_VOCAB = 50257


def gpt2_of(size: str, dtype: torch.dtype, device: str, *, tiny: bool) -> GPT2LMHeadModel:
    """A GPT-2 of a size in SIZES, on a device; `tiny`: two narrow layers in its place."""
    width, layers, heads = (32, 2, 4) if tiny else SIZES[size]
    vocab_size = VOCAB if tiny else FULL_VOCAB
    model = _random(vocab_size=vocab_size, n_embd=width, n_layer=layers, n_head=heads, n_positions=256)
    return torch.nn.Module.to(model, device=device, dtype=dtype)


def _random(**sizes: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        **sizes, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return GPT2LMHeadModel(config).eval()


def random_rows(count: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Token ids without EOS and padding, lengths uniform from shortest to longest."""
    draw = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=draw)

    return [integers(2, VOCAB, length).tolist() for length in integers(shortest, longest + 1, count).tolist()]
