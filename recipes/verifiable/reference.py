"""The reference: a tokenizer of single characters, and a GPT-2 that learns from homework with mistakes."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from homework import CorpusConfig, draw_sums, write_answer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.recipes import small_models
from vbon.recipes.small_models import END, IGNORED, PAD, end_padded, fit, gpt2_config, save

CHARACTERS = "0123456789+="


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
    tokenizer, sizes = make_tokenizer(config.window), small_models.ModelConfig(**asdict(config))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, sizes))
    fit(model, Homework(tokenizer, corpus), sizes, answer_loss, seed=0)
    save(model, tokenizer, out)
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


class Homework:
    """Written sums as training rows. What the pupil was given is seen and not learnt."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, corpus: CorpusConfig):
        rng = random.Random(corpus.seed)
        sums = draw_sums(corpus, corpus.sums, corpus.seed, held_out=False)
        texts = [one.prompt + write_answer(one, corpus, rng) + END for one in sums]
        encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        self.ids, self.real = encoded.input_ids, encoded.attention_mask.bool()
        learnt = self.real & (torch.arange(self.real.shape[1]) >= len(sums[0].prompt))
        self.labels = self.ids.masked_fill(~learnt, IGNORED)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, which are real, and what is to be learnt, (count, longest) each."""
        rows = torch.randint(0, len(self.ids), (count,), generator=generator)
        return self.ids[rows], self.real[rows], self.labels[rows]


def answer_loss(model: GPT2LMHeadModel, ids: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of what is to be learnt, nats per token; padding on the right is never seen."""
    logits = model(end_padded(model, ids, real)).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
