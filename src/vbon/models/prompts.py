"""Conversion of prompts (a string, or a list of chat messages) to token ids, and of completions to text."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from vbon.errors import VbonError

PromptText = str | list[dict[str, str]]


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[PromptText]) -> list[list[int]]:
    """Encode each prompt, with the special tokens that the tokenizer adds; chat messages go through its chat template.

    Raises:
        VbonError: a prompt has messages and there is no chat template, or it has no token and there is no BOS.
    """
    return [_encode_one(tokenizer, prompt) for prompt in prompts]


def decode(tokenizer: PreTrainedTokenizerBase, completion_ids: Iterable[Sequence[int]]) -> list[str]:
    """Decode each completion without special tokens; spaces stay exactly as generated."""
    rows = [list(ids) for ids in completion_ids]
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _encode_one(tokenizer: PreTrainedTokenizerBase, prompt: PromptText) -> list[int]:
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
    elif not tokenizer.chat_template:
        raise VbonError("a prompt is a list of chat messages, but the policy's tokenizer has no chat template")
    else:
        ids = _through_template(tokenizer, prompt)
    if not ids and tokenizer.bos_token_id is None:
        raise VbonError("an empty prompt needs a BOS token, and the policy's tokenizer has none; drop the row")
    return ids or [tokenizer.bos_token_id]


def _through_template(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    try:
        return list(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        )
    except Exception as error:  # a template is a program, and says in its own way what it does not take
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VbonError(f"the policy's chat template refuses these messages: {reason}") from error
