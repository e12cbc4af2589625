"""Tiny models of the families that people bring, built from their configs, with byte-level tokenizers and templates."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# <end> ends a turn and <eos> a text: an instruct model may stop at either.
BYTES, EOS, END, PAD = 256, 256, 257, 258
SPECIAL = ["<eos>", "<end>", "<pad>"]
SHAPE = {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ROTARY = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 256}
STOP = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
FAMILIES: dict[str, tuple[type, PretrainedConfig]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=259, n_positions=256, n_embd=16, n_layer=1, n_head=2, **STOP)),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE, intermediate_size=32, **STOP)),
    "llama": (LlamaForCausalLM, LlamaConfig(**ROTARY, **STOP)),
    "qwen": (Qwen3ForCausalLM, Qwen3Config(**ROTARY, head_dim=8, tie_word_embeddings=True, **STOP)),
}
POLICY_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
JUDGE_TEMPLATE = "{% for m in messages %}{{ m.role|upper }}: {{ m.content }}\n{% endfor %}"


def save_policy(folder: Path, family: str, *, chat: bool = False) -> Path:
    """A policy whose logits are far from uniform, so that temperature, position and padding matter."""
    torch.manual_seed(1)
    model_class, config = FAMILIES[family]
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
        model.get_output_embeddings().weight[PAD] = 0
    if chat:
        model.generation_config.eos_token_id = [EOS, END]
    model.save_pretrained(folder)
    _tokenizer(POLICY_TEMPLATE if chat else None).save_pretrained(folder)
    return folder


def save_judge(folder: Path) -> Path:
    """A reward model with one logit and a chat template of its own."""
    torch.manual_seed(2)
    model = LlamaForSequenceClassification(LlamaConfig(**ROTARY, **STOP, num_labels=1, initializer_range=0.5))
    model.save_pretrained(folder)
    _tokenizer(JUDGE_TEMPLATE).save_pretrained(folder)
    return folder


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer
