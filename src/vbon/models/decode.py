"""Next-token logits, token by token: one prefill for each prompt, and a cache that is widened once.

This departs from transformers' own cache, which copies all of its content at every token: new tokens are written in
place. Rows that are finished can be removed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from vbon.models.batch import pad_left, position_ids
from vbon.models.dial import Dial
from vbon.models.forward import head_input, takes


class ReservedLayer(DynamicLayer):
    """Keys and values of a full-attention layer with room for `room` more tokens, so that a new token moves no others.

    It is a subclass because transformers recognises a cache by its type.
    """

    def __init__(self, filled: DynamicLayer, repeats: int, room: int):
        super().__init__()
        assert filled.keys is not None and filled.values is not None
        self.dtype, self.device, self.is_initialized = filled.keys.dtype, filled.keys.device, True
        self._all_keys = _reserve(filled.keys, repeats, room)
        self._all_values = _reserve(filled.values, repeats, room)
        self._show(filled.keys.shape[-2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens, and return those of all tokens so far."""
        start, stop = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        self._all_keys[..., start:stop, :] = key_states
        self._all_values[..., start:stop, :] = value_states
        return self._show(stop)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the given rows."""
        length = self.get_seq_length()
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._all_keys[..., :length, :], self._all_values[..., :length, :]
        return self.keys, self.values


class CachedDecoder:
    """P prompts, each repeated K times, left-padded; `step` appends one token to every row that is still in the batch.

    `logits` (B, V) are those of the next token, and `hidden` (B, H) the states from which they are computed.
    """

    def __init__(self, model: nn.Module, mask: Tensor, first: "_Next", repeats: int, room: int):
        self._model = model
        self.logits, self.hidden = (tensor.repeat_interleave(repeats, 0) for tensor in first[:2])
        self._cache = _widened(first.cache, repeats, room)
        self._length = mask.shape[1]
        self._mask = torch.cat([mask.long(), mask.new_ones(len(mask), room, dtype=torch.int64)], 1)
        self._mask = self._mask.repeat_interleave(repeats, 0)
        self._position = mask.sum(1, keepdim=True).repeat_interleave(repeats, 0)

    def step(self, tokens: Tensor) -> None:
        """Append the tokens, int64 (B,), and compute the next logits."""
        self._length += 1
        inputs = _inputs(self._model, self._mask[:, : self._length], self._position)
        self.logits, self.hidden, _ = _next(
            self._model, tokens[:, None], past_key_values=self._cache, use_cache=True, **inputs
        )
        self._position = self._position + 1

    def keep(self, rows: Tensor) -> None:
        """Keep only the given rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]


class PlainDecoder:
    """The counterpart of `CachedDecoder` for a model without such a cache.

    It runs whole rows again at every token, and all prompts must have the same length.
    """

    def __init__(self, model: nn.Module, prompt_ids: Sequence[Sequence[int]], repeats: int):
        self._model = model
        self._ids = torch.tensor(prompt_ids, device=next(model.parameters()).device).repeat_interleave(repeats, 0)
        self._predict()

    def step(self, tokens: Tensor) -> None:
        """Append the tokens, int64 (B,), and compute the next logits."""
        self._ids = torch.cat([self._ids, tokens[:, None]], 1)
        self._predict()

    def keep(self, rows: Tensor) -> None:
        """Keep only the given rows."""
        self._ids = self._ids[rows]

    def _predict(self) -> None:
        self.logits, self.hidden, _ = _next(self._model, self._ids, attention_mask=torch.ones_like(self._ids))


class DialDecoder:
    """The counterpart of `CachedDecoder` for a `Dial`: both of its policies side by side."""

    logits: Tensor
    hidden: Tensor

    def __init__(self, dial: Dial, ref: "Decoder", policy: "Decoder"):
        self._dial, self._both = dial, (ref, policy)
        self._mix()

    def step(self, tokens: Tensor) -> None:
        """Append the tokens, int64 (B,), and compute the next logits."""
        for decoder in self._both:
            decoder.step(tokens)
        self._mix()

    def keep(self, rows: Tensor) -> None:
        """Keep only the given rows."""
        for decoder in self._both:
            decoder.keep(rows)

    def _mix(self) -> None:
        ref, policy = self._both
        self.logits, self.hidden = self._dial.mix(ref.logits, policy.logits), policy.hidden


Decoder = CachedDecoder | PlainDecoder | DialDecoder


def decoders(
    model: nn.Module, prompt_ids: Sequence[Sequence[int]], repeats: int, room: int
) -> Iterator[tuple[list[int], Decoder]]:
    """Yield decoders for the prompts: one for all, or one for each length where the model's cache cannot be repeated.

    The second case is that of recurrent and hybrid models, whose state does not distinguish padding from text.

    Args:
        model: a causal language model.
        prompt_ids: P lists of token ids, each of at least one.
        repeats: completions of each prompt, K.
        room: number of tokens that `step` may append.

    Yields:
        The positions of some prompts in `prompt_ids`, and their decoder.
    """
    if isinstance(model, Dial):
        both = (decoders(one, prompt_ids, repeats, room) for one in (model.ref_policy, model.policy))
        for (prompts, ref), (_, policy) in zip(*both, strict=True):
            yield prompts, DialDecoder(model, ref, policy)
        return
    device = next(model.parameters()).device
    ids, mask = (tensor.to(device) for tensor in pad_left(prompt_ids, 0))
    inputs = _inputs(model, mask.long(), position_ids(mask))
    first = _next(model, ids, use_cache=True, **inputs)
    if _can_repeat(first.cache):
        yield list(range(len(prompt_ids))), CachedDecoder(model, mask, first, repeats, room)
        return
    for prompts in _by_length(prompt_ids):
        yield prompts, PlainDecoder(model, [prompt_ids[index] for index in prompts], repeats)


class _Next(NamedTuple):
    """Logits (B, V) of the next token, the hidden states (B, H) from which they are computed, and the cache."""

    logits: Tensor
    hidden: Tensor
    cache: Any


def _next(model: nn.Module, ids: Tensor, **inputs: Any) -> _Next:
    with head_input(model, lambda hidden: hidden[:, -1:]) as kept:
        output = model(input_ids=ids, **inputs)
    return _Next(output.logits[:, -1], kept[0][:, -1], getattr(output, "past_key_values", None))


def _inputs(model: nn.Module, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
    inputs = {"attention_mask": mask}
    return inputs | {"position_ids": positions} if takes(model, "position_ids") else inputs


def _can_repeat(cache: object) -> bool:
    return isinstance(cache, Cache) and all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers)


def _by_length(prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    by_length = defaultdict(list)
    for index, ids in enumerate(prompt_ids):
        by_length[len(ids)].append(index)
    return list(by_length.values())


def _widened(cache: Cache, repeats: int, room: int) -> Cache:
    """Reserve room in every full-attention layer; other layers (sliding windows, recurrences) grow as usual."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length() > 0:
            cache.layers[index] = ReservedLayer(layer, repeats, room)
        elif repeats > 1:
            layer.batch_repeat_interleave(repeats)  # type: ignore[union-attr]  # as _can_repeat has made sure
    return cache


def _reserve(states: Tensor, repeats: int, room: int) -> Tensor:
    rows, length = states.shape[0], states.shape[-2]
    reserved = states.new_empty(rows, repeats, *states.shape[1:-2], length + room, states.shape[-1])
    reserved[..., :length, :] = states[:, None]
    return reserved.flatten(0, 1)
