"""Prompts as text that a host's tokenizer call turns into exactly the token ids the pool was sampled from."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from vbon.errors import VbonError
from vbon.models.prompts import ids_of_text, text_of, text_of_ids
from vbon.pool.prompt_ids import prompt_ids_of
from vbon.pool.prompts import Prompt, shorten


class Rendered(NamedTuple):
    """Text of each prompt, special tokens written out, and the most tokens of any."""

    texts: list[str]
    longest: int


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], source: str = "the pool") -> Rendered:
    """Texts that `tokenizer(text, add_special_tokens=False)` maps to the policy's own prompt ids.

    Hosts tokenize without special tokens; a BOS or chat template must therefore be in the text.
    Raises VbonError naming a prompt for which no such text is found.
    """
    encoded = prompt_ids_of(tokenizer, prompts, source)
    texts = [_render_one(tokenizer, prompt, ids) for prompt, ids in zip(prompts, encoded, strict=True)]
    return Rendered(texts, max(map(len, encoded)))


def _render_one(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int]) -> str:
    for text in _candidates(tokenizer, prompt, ids):
        if ids_of_text(tokenizer, text) == ids:
            return text
    raise VbonError(
        f"prompt {shorten(prompt.prompt)}: no text gives its token ids back without special tokens, so the host would "
        "train on another prompt than the pool's; drop it, or train with TRL or vbon"
    )


def _candidates(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int]) -> Iterator[str]:
    yield text_of(tokenizer, prompt.prompt)
    yield text_of_ids(tokenizer, ids)
