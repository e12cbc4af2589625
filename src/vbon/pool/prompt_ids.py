"""Token ids of a pool's prompts: those it was sampled with where it holds them, and what they must fit into.

A prompt encoded again may give other ids, by a chat template that prints the date for example: the pool, whose samples
followed the first ones, would then be of another prompt.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vbon.artifacts.files import replace_file
from vbon.artifacts.parquet_files import parquet_bytes, read_parquet
from vbon.errors import VbonError
from vbon.models.prompts import encode
from vbon.pool.prompts import Prompt, shorten

IDS_NAME = "prompt_ids.parquet"
"""The ids of all prompts, in a pool that is not complete: a collection that is continued follows them."""


class PromptTooLong(VbonError):
    """A prompt leaves no room for a completion. `fitting`: positions of the prompts that do."""

    def __init__(self, message: str, fitting: Sequence[int]):
        super().__init__(message)
        self.fitting = tuple(fitting)


class Room(NamedTuple):
    """Limits of a model's input; None where they are not known."""

    context: int | None
    """Most tokens of prompt and completion together."""
    vocabulary: int | None
    """Number of token ids that the model has embeddings for."""
    switch: int | None = None
    """Length beyond which the rotary embedding is another one (longrope), for all rows of a batch."""


def room_of(config: PretrainedConfig, vocabulary: int | None = None) -> Room:
    """Read the room of a model from its config. `vocabulary`: the rows of its embedding, where it is loaded."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]  # one, or one for each kind of layer
    switches = [
        kind.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) == "longrope"
    ]
    return Room(
        context=getattr(text, "max_position_embeddings", None),
        vocabulary=vocabulary or getattr(text, "vocab_size", None),
        switch=min((switch for switch in switches if switch), default=None),
    )


def prompt_ids_of(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
    """Return the token ids of every prompt: those that came with it, else by the tokenizer.

    Warns where the tokenizer now gives other ids than those that came with a prompt.

    Raises:
        VbonError: a prompt that came without ids cannot be encoded; the message names its row.
    """
    ids, changed = [], []
    for prompt in prompts:
        where = f"{source}:{prompt.row}" if prompt.row is not None else f"{source}: prompt {prompt.prompt_id}"
        if prompt.token_ids is None:
            ids.append(_encode_one(tokenizer, prompt, where))
            continue
        ids.append(list(prompt.token_ids))
        if _encoded_otherwise(tokenizer, prompt):
            changed.append(prompt)
    if changed:
        warnings.warn(
            f"{source}: the tokenizer now reads {len(changed)} of {len(prompts)} prompts as other tokens than they "
            f"were sampled with, {shorten(changed[0].prompt)} for one (a chat template that prints the date, another "
            "version); the pool's own are used",
            stacklevel=2,
        )
    return ids


def check_room(
    prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], max_new_tokens: int, room: Room, source: str
) -> None:
    """Check that a model takes these prompts with a completion each.

    Args:
        prompts: their rows or ids are named in the messages.
        prompt_ids: token ids of each prompt, as the model gets them.
        max_new_tokens: most tokens of a completion.
        room: limits of the model's input.
        source: file of the prompts, with which error messages begin.

    Raises:
        VbonError: a prompt is too long or holds an id that the model has no embedding for; or prompts lie on both sides
            of the length at which its rotary embedding switches.
    """
    _check_length(prompts, prompt_ids, max_new_tokens, room.context, source)
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        where = f"{source}:{prompt.row}" if prompt.row is not None else f"{source}: prompt {prompt.prompt_id}"
        check_vocabulary(ids, room.vocabulary, f"{where}: prompt {shorten(prompt.prompt)}")
    if room.switch is None:
        return
    beyond = [len(ids) > room.switch for ids in prompt_ids]
    across = [not far and len(ids) + max_new_tokens > room.switch for far, ids in zip(beyond, prompt_ids, strict=True)]
    if any(across) or (any(beyond) and not all(beyond)):
        raise VbonError(
            f"{source}: this model's rotary embedding (longrope) is another one beyond {room.switch} tokens, so that a "
            "completion would depend on the prompts beside it; keep every prompt with its completion on one side "
            "(shorter prompts or --max-new-tokens, or a file of long prompts alone)"
        )


def _check_length(
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    context: int | None,
    source: str,
) -> None:
    if context is None:
        return
    left = max(context - max_new_tokens, 0)
    fitting = [place for place, ids in enumerate(prompt_ids) if len(ids) <= left]
    if len(fitting) == len(prompts):
        return
    place = next(place for place, ids in enumerate(prompt_ids) if len(ids) > left)
    prompt, length, others = prompts[place], len(prompt_ids[place]), len(prompts) - len(fitting) - 1
    where = f"{source}:{prompt.row}" if prompt.row is not None else f"{source}: prompt {prompt.prompt_id}"
    too = f", and {others} more are too long" if others else ""
    raise PromptTooLong(
        f"{where}: prompt {shorten(prompt.prompt)} has {length} tokens; with {max_new_tokens} new ones it "
        f"exceeds the model's context of {context}, which leaves {left} beside --max-new-tokens {max_new_tokens}{too}; "
        "shorten or drop it",
        fitting,
    )


def check_vocabulary(ids: Sequence[int], vocabulary: int | None, where: str) -> None:
    """Raise VbonError beginning with `where` if one of the token ids is none of the model's."""
    if vocabulary is not None and len(ids) and not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = next(token for token in ids if not 0 <= token < vocabulary)
        raise VbonError(
            f"{where}: token {wrong} is none of the model's {vocabulary} (0 to {vocabulary - 1}); its tokenizer has "
            "more tokens than its embeddings: resize them, or take the tokenizer that belongs to the model"
        )


def with_token_ids(prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]]) -> list[Prompt]:
    """The prompts, each with its token ids."""
    pairs = zip(prompts, prompt_ids, strict=True)
    return [dataclasses.replace(prompt, token_ids=tuple(ids)) for prompt, ids in pairs]


def write_prompt_ids(folder: Path, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]]) -> None:
    """Keep the ids that an unfinished pool is sampled with."""
    columns = {
        "prompt_id": pa.array([prompt.prompt_id for prompt in prompts]),
        "prompt_ids": pa.array(list(prompt_ids), pa.list_(pa.int32())),
    }
    replace_file(folder / IDS_NAME, parquet_bytes(pa.table(columns)))


def read_prompt_ids(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read what `write_prompt_ids` wrote, prompt id → token ids; empty where nothing was written."""
    return {row["prompt_id"]: tuple(row["prompt_ids"]) for row in read_parquet(folder / IDS_NAME)}


def _encode_one(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, where: str) -> list[int]:
    try:
        return encode(tokenizer, [prompt.prompt])[0]
    except VbonError as error:
        raise VbonError(f"{where}: {error}") from None


def _encoded_otherwise(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> bool:
    try:
        return tuple(encode(tokenizer, [prompt.prompt])[0]) != prompt.token_ids
    except VbonError:
        return True
