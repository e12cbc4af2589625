"""The reference: a tokenizer of single characters, and a GPT-2 that learns from homework with mistakes."""

import math
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from homework import CorpusConfig, draw_sums, write_answer
from rich.console import Console
from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"
CHARACTERS = "0123456789+="
IGNORED = -100  # the label of what is not learnt
WARMUP_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and training of the GPT-2."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    window: int = 16
    batch_size: int = 128
    steps: int = 1200
    learning_rate: float = 2e-3


def train_reference(config: ModelConfig, corpus: CorpusConfig, out: Path) -> dict[str, int]:
    """Tokenizer and model at `out`, whole or not at all."""
    tokenizer = make_tokenizer(config.window)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(_gpt2_config(tokenizer, config))
    torch.set_flush_denormal(True)  # Adam's averages fade into denormals, which cost twice the time
    try:
        fit(model, *encode_homework(tokenizer, corpus), config)
    finally:
        torch.set_flush_denormal(False)
    aside = out.with_name(out.name + ".partial")
    for folder in (aside, out):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(out)
    return {"parameters": model.num_parameters()}


def make_tokenizer(longest: int) -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: index for index, token in enumerate([END, PAD, *CHARACTERS])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=longest
    )


def encode_homework(tokenizer: PreTrainedTokenizerFast, corpus: CorpusConfig) -> tuple[Tensor, Tensor]:
    """Token ids and labels, int64 (sums, longest). What the pupil was given is seen and not learnt."""
    rng = random.Random(corpus.seed)
    sums = draw_sums(corpus, corpus.sums, corpus.seed, held_out=False)
    texts = [one.prompt + write_answer(one, corpus, rng) + END for one in sums]
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    real = encoded.attention_mask.bool()
    learnt = real & (torch.arange(real.shape[1]) >= len(sums[0].prompt))
    # Padding on the right is never seen, attention being causal; transformers warns of PAD.
    return torch.where(real, encoded.input_ids, tokenizer.eos_token_id), encoded.input_ids.masked_fill(~learnt, IGNORED)


def fit(model: GPT2LMHeadModel, ids: Tensor, labels: Tensor, config: ModelConfig) -> None:
    """AdamW; linear warm-up, then a half cosine to a twentieth of the rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config.steps))
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in track(range(config.steps), "reference", console=Console(stderr=True)):
        rows = torch.randint(0, len(ids), (config.batch_size,), generator=generator)
        logits = model(ids[rows]).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[rows, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    cosine = 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def _gpt2_config(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> GPT2Config:
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=config.window, n_embd=config.width, n_layer=config.layers,
        n_head=config.heads, activation_function="gelu_pytorch_tanh", bos_token_id=end, eos_token_id=end,
        pad_token_id=pad, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
