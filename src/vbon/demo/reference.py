"""The demo's reference model: a byte-level tokenizer and a small GPT-2, trained from nothing in under a minute."""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY = 512
CONTEXT = 40
BATCH = 48
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
IGNORED = -100  # the label of padding


def train_reference(texts: Sequence[str], out: Path, *, steps: int, seed: int) -> float:
    """Train tokenizer and model on `texts`, save both at `out`, return the last cross-entropy (nats a token).

    `out` appears whole or not at all.
    """
    tokenizer = train_tokenizer(texts)
    rows, labels = encode(tokenizer, texts)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(model_config(tokenizer))
    loss = fit(model, rows, labels, steps)
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(out)
    return loss


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text encodes, whatever it was trained on."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and labels, int64 (rows, CONTEXT); a text ends with its end token, or where the context does."""
    encoded = tokenizer(list(texts), truncation=True)["input_ids"]
    rows = torch.full((len(encoded), CONTEXT), tokenizer.eos_token_id)  # on the right: causal attention never sees it
    labels = torch.full_like(rows, IGNORED)
    for index, ids in enumerate(encoded):
        kept = torch.tensor([*ids, tokenizer.eos_token_id][:CONTEXT])
        rows[index, : len(kept)] = labels[index, : len(kept)] = kept
    return rows, labels


def model_config(tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    """About 0.4 million parameters: enough for the grammar, small enough for two cores."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=96, n_layer=3, n_head=4,
        activation_function="gelu_pytorch_tanh",  # GPT-2's, in one kernel
        bos_token_id=end, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Adam's averages of rare tokens fade into denormals, which cost twice the time. Others count on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def fit(model: GPT2LMHeadModel, rows: Tensor, labels: Tensor, steps: int) -> float:
    """Next-token training; cosine from the peak rate to a twentieth of it. Returns the mean loss of the last tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    losses = []
    model.train()
    with denormals_flushed():
        for _ in track(range(steps), "reference", transient=True):
            batch = torch.randint(0, len(rows), (BATCH,))
            logits = model(rows[batch]).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[batch, 1:].flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    model.eval()
    return sum(losses[-(steps // 10 + 1) :]) / (steps // 10 + 1)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear over the first WARMUP_STEPS, then a half cosine from 1 to 1/20."""
    cosine = 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP_STEPS) * cosine
