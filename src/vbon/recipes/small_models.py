"""Models of minutes: a byte-level tokenizer, a GPT-2 reference and a sentiment classifier, trained from nothing.

The demo makes them of its own corpus, the recipes of a review file, of papers, of sums.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from vbon.artifacts.files import replace_folder
from vbon.models.batch_size import rows_at_a_time
from vbon.models.pretrained import from_pretrained
from vbon.recipes.fit import DEFAULT, FitOptions, Loss, autocast, fit

END, PAD = "<|endoftext|>", "<|pad|>"
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
IGNORED = -100  # the label of padding
MEASURED_ROWS = 1000


@dataclass(frozen=True)
class Review:
    """A text and what its writer felt: label 1 is positive, 0 negative."""

    text: str
    label: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and training of a small GPT-2. With `model`, a hub id or directory, nothing is trained: that is used."""

    model: str | None = None
    vocabulary: int = 2048
    width: int = 192
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0
    window: int = 40
    batch_size: int = 64
    steps: int = 600
    learning_rate: float = 2e-3


class Windows:
    """Token windows of reviews: half of them begin where the review does, as prompts do, half anywhere in it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], window: int):
        rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([r.text for r in reviews], verbose=False).input_ids]
        self.ids = torch.tensor([token for row in rows for token in row])
        self.ends = torch.tensor([len(row) for row in rows]).cumsum(0)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), self.ends[:-1]])
        self.labels = torch.tensor([review.label for review in reviews])
        self.window = window
        self.pad = tokenizer.pad_token_id

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (count, window), right-padded; which are real; and the reviews' labels (count,)."""
        review = torch.randint(0, len(self.ends), (count,), generator=generator)
        room = (self.ends - self.starts)[review] - self.window
        share = torch.rand(count, 2, generator=generator)
        shift = torch.where(share[:, 0] < 0.5, 0.0, share[:, 1]) * (room + 1).clamp_min(1)
        positions = (self.starts[review] + shift.long())[:, None] + torch.arange(self.window)
        real = positions < self.ends[review, None]
        ids = torch.where(real, self.ids[positions.clamp_max(len(self.ids) - 1)], self.pad)
        return ids, real, self.labels[review]


def train_reference(
    train: Sequence[Review],
    held_out: Sequence[Review],
    config: ModelConfig,
    out: Path,
    *,
    seed: int = 0,
    options: FitOptions = DEFAULT,
) -> dict[str, float]:
    """Tokenizer and language model at `out`, whole or not at all. Returns held-out cross-entropy, nats per token.

    Raises:
        Paused: as `fit` does.
    """
    tokenizer = kept_tokenizer(train, config, options)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, config))
    fit(model, Windows(tokenizer, train, config.window), config, next_token_loss, seed, options)
    nats = measure(model, Windows(tokenizer, held_out, config.window), next_token_loss, options)
    save(model, tokenizer, out)
    return {"parameters": model.num_parameters(), "held_out_nats_per_token": nats}


def train_classifier(
    train: Sequence[Review],
    held_out: Sequence[Review],
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    seed: int = 0,
    options: FitOptions = DEFAULT,
) -> dict[str, float]:
    """A classifier of short spans at `out`, whole or not at all. Returns its held-out accuracy on whole windows.

    Raises:
        Paused: as `fit` does.
    """
    torch.manual_seed(seed)
    labels = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    model = GPT2ForSequenceClassification(gpt2_config(tokenizer, config, **labels))
    fit(model, Windows(tokenizer, train, config.window), config, prefix_label_loss, seed, options)
    accuracy = measure(model, Windows(tokenizer, held_out, config.window), last_token_accuracy, options)
    save(model, tokenizer, out)
    return {"parameters": model.num_parameters(), "held_out_accuracy": accuracy, "tokens": config.window}


def kept_tokenizer(train: Sequence[Review], config: ModelConfig, options: FitOptions) -> PreTrainedTokenizerFast:
    """`train_tokenizer` of the reviews, or what an unfinished training keeps of it."""
    kept = None if options.checkpoints is None else options.checkpoints / "tokenizer"
    if kept is None or not kept.is_dir():
        tokenizer = train_tokenizer((review.text for review in train), config)
        if kept is None:
            return tokenizer
        with replace_folder(kept) as folder:
            tokenizer.save_pretrained(folder)
    loaded: PreTrainedTokenizerFast = from_pretrained(PreTrainedTokenizerFast, str(kept), "a tokenizer")
    return loaded


def train_tokenizer(texts: Iterable[str], config: ModelConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text encodes, whatever it was trained on."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=config.window
    )


def gpt2_config(tokenizer: PreTrainedTokenizerBase, config: ModelConfig, **extra: Any) -> GPT2Config:
    """GPT-2 of the preset's sizes; its tanh-GELU as one kernel."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=config.window,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        **extra,
    )


def next_token_loss(model: GPT2LMHeadModel, ids: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, nats; padding on the right is never seen, attention being causal."""
    targets = ids.masked_fill(~real, IGNORED)[:, 1:]
    ids = end_padded(model, ids, real)
    return cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def prefix_label_loss(model: GPT2ForSequenceClassification, ids: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the label at every token: each prefix of a window is a short span of its own."""
    ids = end_padded(model, ids, real)
    logits = model.score(model.transformer(ids).last_hidden_state)
    targets = labels[:, None].expand_as(ids).masked_fill(~real, IGNORED)
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def end_padded(model: PreTrainedModel, ids: Tensor, real: Tensor) -> Tensor:
    """The ids, padded by the token of the end: transformers warns of PAD, though it is never looked at."""
    return torch.where(real, ids, model.config.eos_token_id)


def last_token_accuracy(model: GPT2ForSequenceClassification, ids: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Share of windows whose label the model names."""
    return (model(ids, attention_mask=real.long()).logits.argmax(-1) == labels).double().mean()


@torch.no_grad()
def measure(model: PreTrainedModel, windows: Windows, value_of: Loss, options: FitOptions = DEFAULT) -> float:
    """The mean of a loss or an accuracy over MEASURED_ROWS windows; so many at a time that their logits fit."""
    batch = [tensor.to(options.device) for tensor in windows.draw(MEASURED_ROWS, torch.Generator().manual_seed(1))]
    rows = rows_at_a_time("fit", model.device, windows.window * model.config.vocab_size)
    total = 0.0
    with autocast(options):
        for part in zip(*(tensor.split(rows) for tensor in batch), strict=True):
            total += float(value_of(model, *part)) * (len(part[0]) / MEASURED_ROWS)
    return total


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write weights and tokenizer; the folder is complete or absent."""
    with replace_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
