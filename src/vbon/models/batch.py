"""Padding of token ids for model calls: prompts are padded on the left, completions on the right."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Completions(NamedTuple):
    """B completions of at most T tokens; `mask` is True up to and including the stop token.

    ids int64 (B, T); mask bool (B, T); logprobs float32 (B, T), at the sampling temperature, 0 outside the mask;
    finished bool (B,), True where the last token is a stop token; values float32 (B, T), V before each token and 0
    outside the mask, or None where there was no value head.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor
    values: Tensor | None = None

    def rows(self) -> list[list[int]]:
        """Return the token ids of each completion, including its stop token."""
        lengths = self.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.ids.tolist(), lengths, strict=True)]


class Sequences(NamedTuple):
    """Prompts and their completions as a model takes them: [left-padded prompt | right-padded completion].

    prompt_ids int64 (B, P), prompt_mask bool (B, P), completion_ids int64 (B, T), completion_mask bool (B, T).
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor

    def select(self, rows: Tensor) -> "Sequences":
        """Select rows, and drop the columns that are padding in all of them, which saves compute."""
        prompt_mask, completion_mask = self.prompt_mask[rows], self.completion_mask[rows]
        start = prompt_mask.shape[1] - int(prompt_mask.sum(1).max())
        stop = int(completion_mask.sum(1).max())
        return Sequences(
            self.prompt_ids[rows][:, start:],
            prompt_mask[:, start:],
            self.completion_ids[rows][:, :stop],
            completion_mask[:, :stop],
        )

    def lengths(self) -> Tensor:
        """Count the real tokens of each row, int64 (B,)."""
        return self.prompt_mask.sum(1) + self.completion_mask.sum(1)

    def without_gaps(self) -> tuple[Tensor, Tensor]:
        """Join prompt and completion without a gap, padded on the right only, and leave out the last token.

        The last token predicts nothing. Returns ids int64 (B, S), and int64 (B,), the column that predicts y_0.
        """
        ids = torch.cat([self.prompt_ids, self.completion_ids], 1)
        prompt_lengths = self.prompt_mask.sum(1)
        width = int(self.lengths().max()) - 1
        columns = torch.arange(width, device=ids.device) + (self.prompt_ids.shape[1] - prompt_lengths)[:, None]
        return ids.gather(1, columns.clamp_max(ids.shape[1] - 1)), prompt_lengths - 1

    def to(self, device: torch.device | str) -> "Sequences":
        """Move all tensors to a device."""
        return Sequences(*(tensor.to(device) for tensor in self))


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the left: ids int64 (B, P) and mask bool (B, P), with the real tokens at the right end."""
    ids, mask = pad_right([row[::-1] for row in rows], pad_token_id)
    return ids.flip(1), mask.flip(1)


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the right: ids int64 (B, T) and mask bool (B, T), with the real tokens at the left end."""
    width = max((len(row) for row in rows), default=0)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width)[None] < lengths[:, None]
    ids = torch.full((len(rows), width), pad_token_id)
    ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return ids, mask


def sequences(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_token_id: int) -> Sequences:
    """Build a batch whose row i is prompt i followed by completion i."""
    return Sequences(*pad_left(prompts, pad_token_id), *pad_right(completions, pad_token_id))


def position_ids(attention_mask: Tensor) -> Tensor:
    """Compute positions that count real tokens only, 0 on left padding: (B, S) → int64 (B, S)."""
    return (attention_mask.long().cumsum(1) - 1).clamp_min(0)
