"""Tiny causal LMs of many architectures, peaked enough that a mistake shows, and plain row-by-row oracles."""

from collections.abc import Callable, Sequence

import pytest
import torch
import transformers
from torch import Tensor, nn

VOCAB = 13
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "bos_token_id": None,
    "eos_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB,
            n_embd=16,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=0,
        )
    )


def _bloom() -> nn.Module:
    return transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=4, initializer_range=0.3)
    )


def _openai_gpt() -> nn.Module:
    return transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=64)
    )


def _recurrent_gemma() -> nn.Module:
    return transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            lru_width=16,
            head_dim=4,
            attention_window_size=32,
        )
    )


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=8)),
    # Keys and values of a window only: such layers keep transformers' own cache.
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=4)),
    "bloom": _bloom,  # no position_ids: positions come from the attention mask
    "openai_gpt": _openai_gpt,  # no cache
    "recurrent_gemma": _recurrent_gemma,  # recurrent: nothing tells padding from text
}


def make(name: str) -> nn.Module:
    torch.manual_seed(1)
    return ARCHITECTURES[name]().eval()


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@pytest.fixture(scope="session")
def gpt2() -> nn.Module:
    return make("gpt2")


@pytest.fixture(scope="session")
def row_logits() -> Callable[[nn.Module, Sequence[int], Sequence[int]], Tensor]:
    """Logits before each completion token by one plain forward of that row alone: no mask, padding or cache. (T, V)."""

    @torch.no_grad()
    def logits(model: nn.Module, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
        ids = torch.tensor([[*prompt, *completion]])
        return model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()

    return logits
