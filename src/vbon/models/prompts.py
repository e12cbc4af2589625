"""The one way from a prompt (a string, or a list of chat messages) to token ids, and from completion ids to text."""

import warnings
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from vbon.errors import VbonError

Messages = list[dict[str, Any]]
PromptText = str | Messages

ANCHOR_TOKENS = 8
"""Least number of the prompt's last tokens that a completion is decoded with."""


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[PromptText]) -> list[list[int]]:
    """Token ids of each prompt: a text with the tokens that the tokenizer puts before it, messages by chat template.

    What the tokenizer appends to a text (an EOS token, say) is left off, since the completion continues the text.

    Raises:
        VbonError: a prompt has messages and there is no chat template, or it has no token and there is no BOS.
    """
    return [_encode_one(tokenizer, prompt) for prompt in prompts]


def decode(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> list[str]:
    """Text of each completion: what its ids add when they are decoded after its prompt's ids, special tokens left out.

    Decoded alone, a completion would lose the space before its first word with tokenizers of the Llama-2 family.

    Args:
        prompt_ids: B token id lists, the prompt of each completion.
        completion_ids: B token id lists.
    """
    anchors = {id(prompt): _anchor(tokenizer, list(prompt)) for prompt in {id(p): p for p in prompt_ids}.values()}
    rows = [(anchors[id(prompt)], list(ids)) for prompt, ids in zip(prompt_ids, completion_ids, strict=True)]
    texts = _texts(tokenizer, [[*anchor_ids, *ids] for (anchor_ids, _), ids in rows])
    return [text[_shared_length(text, before) :] for text, ((_, before), _) in zip(texts, rows, strict=True)]


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, for_completion: bool) -> str:
    """The messages through the tokenizer's chat template, special tokens written out (`_apply_template`)."""
    return str(_apply_template(tokenizer, messages, for_completion=for_completion, tokenize=False))


def loses_first_space(tokenizer: PreTrainedTokenizerBase, most: int = 256) -> bool:
    """Check if a token decoded alone lacks a space that it has behind another token, so that `decode` must see both."""
    special = set(tokenizer.all_special_ids)
    tokens = [token for token in range(len(tokenizer)) if token not in special]
    rows = [[token] for token in tokens[:: max(1, len(tokens) // most)]]
    return _texts(tokenizer, rows) != completion_texts(tokenizer, rows[-1], rows)


def ends_with_assistant(prompt: PromptText) -> bool:
    """Check if the prompt is a chat whose last message is the assistant's, which a completion continues."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1].get("role") == "assistant"


def with_completion(prompt: Messages, completion: str) -> Messages:
    """The conversation with the completion as the assistant's answer, or behind what the assistant already began."""
    if ends_with_assistant(prompt):
        return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + completion}]
    return [*prompt, {"role": "assistant", "content": completion}]


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: PromptText) -> str:
    """The prompt as one text: itself, or rendered with its special tokens."""
    return prompt if isinstance(prompt, str) else render_chat(tokenizer, prompt, for_completion=True)


def text_of_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A prompt's ids as text, special tokens written out."""
    return _decoded(tokenizer, [list(ids)], skip_special_tokens=False)[0]


def ids_of_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text as it stands, no special tokens added."""
    return _encoded(tokenizer, text, add_special_tokens=False)


def completion_texts(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], completion_ids: Sequence[Sequence[int]]
) -> list[str]:
    """`decode` for several completions of one prompt."""
    return decode(tokenizer, [prompt_ids] * len(completion_ids), completion_ids)


def ids_by_default(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text with all special tokens that the tokenizer adds, as servers and hosts read it."""
    return _encoded(tokenizer, text)


def _encode_one(tokenizer: PreTrainedTokenizerBase, prompt: PromptText) -> list[int]:
    if isinstance(prompt, str):
        ids = _without_appended(tokenizer, prompt, ids_by_default(tokenizer, prompt))
    else:
        ids = list(_apply_template(tokenizer, prompt, for_completion=True, tokenize=True, return_dict=False))
    if not ids and tokenizer.bos_token_id is None:
        raise VbonError("an empty prompt needs a BOS token, and the policy's tokenizer has none; drop the row")
    return ids or [tokenizer.bos_token_id]


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, for_completion: bool, **options: Any
) -> Any:
    """The messages through the chat template, as text or token ids.

    Args:
        messages: one conversation.
        for_completion: whether an answer is to follow. The template then opens the assistant's turn; where the last
            message is the assistant's already, its turn stays open and the completion continues it.
        options: passed to transformers' `apply_chat_template`.

    Raises:
        VbonError: the tokenizer has no chat template, or the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise VbonError("a prompt is a list of chat messages, but the tokenizer has no chat template")
    continues = for_completion and ends_with_assistant(messages)
    opens = for_completion and not continues
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=opens, continue_final_message=continues, **options
        )
    except Exception as error:  # a template is a program, and says in its own way what it does not take
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VbonError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} refuses these messages: {reason}"
        ) from error


def _without_appended(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[int]:
    """`ids` of a text without the special tokens that the tokenizer put behind it."""
    own = ids_of_text(tokenizer, text)
    special, end = set(tokenizer.all_special_ids), len(ids)
    while end > len(own) and ids[end - 1] in special and ids[end - len(own) : end] != own:
        end -= 1
    if not own:  # nothing but what was added: BOS begins the completion, any other token would end the text
        end = next((i for i, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))
    if end < len(ids):
        appended = " ".join(tokenizer.convert_ids_to_tokens(ids[end:]))
        warnings.warn(
            f"the tokenizer adds {appended} behind every text; vbon leaves it off prompts, which the completion "
            "continues",
            stacklevel=2,
        )
    return ids[:end]


def _anchor(tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> tuple[list[int], str]:
    """(the last tokens of a prompt, their text): enough of them to hold some text, all of the prompt where none do."""
    size = ANCHOR_TOKENS
    while size < len(prompt):
        [text] = _texts(tokenizer, [prompt[-size:]])
        if text.strip():
            return prompt[-size:], text
        size *= 2
    return prompt, _texts(tokenizer, [prompt])[0]


def _shared_length(text: str, before: str) -> int:
    """Characters at the start of `text` that are those of `before`: all of it, unless it ended within a character."""
    if text.startswith(before):
        return len(before)
    return next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), min(len(text), len(before)))


def _texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    return _decoded(tokenizer, rows, skip_special_tokens=True)


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    try:
        return list(tokenizer(text, verbose=False, **options)["input_ids"])
    except Exception as error:  # the tokenizers' bare Exception, for an unknown word without an <unk> say
        raise VbonError(_refusal(tokenizer, error, "cannot read a text")) from error


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
    try:
        return tokenizer.batch_decode(rows, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
    except Exception as error:
        raise VbonError(_refusal(tokenizer, error, "cannot decode its tokens")) from error


def _refusal(tokenizer: PreTrainedTokenizerBase, error: Exception, what: str) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{tokenizer.name_or_path or 'the tokenizer'}: its tokenizer {what} ({reason}); is it damaged?"
