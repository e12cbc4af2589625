"""Enumerable worlds: a small GPT-2 over a few letters, with its tokenizer and prompts, in a folder as any model's.

The default has 5 letters, at most 5 new tokens and one prompt: 3,906 completions, entropy about 6.8 nats.
"""

import itertools
import json
import string
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.errors import VbonError
from vbon.lab.rewards import letter_value

EOS = 0
MAX_COMPLETIONS = 200_000
NEVER = -96.0  # the logit of prompts and padding
GOOD_LETTER = 0.5  # letters worth more are "good"


@dataclass(frozen=True, kw_only=True)
class World:
    """What a world is a function of: each word of a prompt is a token.

    `good_letter_logit` shifts the logit of every letter worth more than 0.5.
    """

    letters: int = 5
    max_new_tokens: int = 5
    prompts: tuple[str, ...] = ("prompt0",)
    sharpness: float = 7.0
    hidden_size: int = 32
    num_layers: int = 2
    good_letter_logit: float = 0.0
    seed: int = 14

    @property
    def pad(self) -> int:
        return self.letters + 1

    @property
    def vocabulary(self) -> list[str]:
        words = dict.fromkeys(word for prompt in self.prompts for word in prompt.split())
        return ["<eos>", *string.ascii_lowercase[: self.letters], "<pad>", *words]

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Token ids of every prompt."""
        return [[self.vocabulary.index(word) for word in prompt.split()] for prompt in self.prompts]

    @cached_property
    def completions(self) -> list[list[int]]:
        """Token ids of every completion, by length, then in order; the longest have no EOS."""
        return [
            [*word, EOS] if length < self.max_new_tokens else list(word)
            for length in range(self.max_new_tokens + 1)
            for word in itertools.product(range(1, self.letters + 1), repeat=length)
        ]

    @cached_property
    def texts(self) -> list[str]:
        """Every completion as its tokens add it to a prompt: a space before each letter, nothing for EOS."""
        return ["".join(f" {self.vocabulary[token]}" for token in ids if token != EOS) for ids in self.completions]


WORLDS = {
    "large": World(letters=7, sharpness=1.5, seed=4),
    "default": World(),
    "peaked": World(sharpness=10.0, seed=5),
    "very peaked": World(letters=3, max_new_tokens=3, sharpness=12.0, seed=1),
}
"""Worlds by how much mass single completions carry; docs/experiments.md has their entropies."""


def count_completions(world: World) -> int:
    """Σ_{length ≤ T} K^length."""
    return sum(world.letters**length for length in range(world.max_new_tokens + 1))


def make_world(world: World, folder: Path) -> Path:
    """Write `folder`/model, prompts.jsonl and world.json; the same world gives the same weights. Returns `folder`.

    Raises VbonError for more completions than can be enumerated.
    """
    if count_completions(world) > MAX_COMPLETIONS:
        raise VbonError(f"{count_completions(world)} completions are too many to enumerate; take fewer letters")
    folder.mkdir(parents=True, exist_ok=True)
    reference(world).save_pretrained(folder / "model")
    tokenizer(world).save_pretrained(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in world.prompts))
    (folder / "world.json").write_text(json.dumps(asdict(world), indent=2) + "\n")
    return folder


def reference(world: World) -> GPT2LMHeadModel:
    """π_ref: random weights times `sharpness` (the larger, the more peaked); prompts and padding are never sampled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        model = GPT2LMHeadModel(_config(world)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(world.sharpness)
        # The last layer norm now has mean 1 over its units, so a constant added to a row of the head adds to its logit.
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[world.pad :] = NEVER / world.hidden_size
        for token in range(1, world.letters + 1):
            if letter_value(world.vocabulary[token]) > GOOD_LETTER:
                model.lm_head.weight[token] += world.good_letter_logit / world.hidden_size
    return model


def tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token for each word of the world's vocabulary."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(world.vocabulary)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A space before every word, the first too: decoded alone or behind a prompt, a completion is the same text.
    words.decoder = decoders.Sequence([decoders.Replace(Regex("^"), " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def _config(world: World) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(world.vocabulary),
        n_positions=max(map(len, world.prompt_ids)) + world.max_new_tokens + 2,
        n_embd=world.hidden_size,
        n_layer=world.num_layers,
        n_head=4,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=world.pad,
        tie_word_embeddings=False,
    )
