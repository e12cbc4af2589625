"""Ragged rows and rectangles, held to plain lists."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vbon.models.batch import pad_left, pad_right, position_ids, sequences

tokens = st.lists(st.integers(1, 99), min_size=1, max_size=5)
pairs = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6)


def _rows(ids, mask):
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


@given(st.lists(tokens, min_size=1, max_size=6))
def test_padding_keeps_rows_and_sides(rows):
    for pad, edge in ((pad_left, -1), (pad_right, 0)):
        ids, mask = pad(rows, 0)
        assert _rows(ids, mask) == rows
        assert mask[:, edge].all()
        assert ids.shape[1] == max(map(len, rows))
        assert (ids[~mask] == 0).all()


@given(pairs, st.data())
def test_select_keeps_the_rows_and_no_empty_column(rows, data):
    prompts, completions = zip(*rows, strict=True)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    batch = sequences(prompts, completions, 0).select(torch.tensor(chosen))
    assert _rows(batch.prompt_ids, batch.prompt_mask) == [prompts[i] for i in chosen]
    assert _rows(batch.completion_ids, batch.completion_mask) == [completions[i] for i in chosen]
    assert batch.prompt_mask[:, 0].any()
    assert batch.completion_mask[:, -1].any()
    assert batch.lengths().tolist() == [len(prompts[i]) + len(completions[i]) for i in chosen]


@given(pairs)
def test_without_gaps_is_prompt_then_completion_less_the_last_token(rows):
    prompts, completions = zip(*rows, strict=True)
    ids, first = sequences(prompts, completions, 0).without_gaps()
    for row, start, prompt, completion in zip(ids.tolist(), first.tolist(), prompts, completions, strict=True):
        whole = (prompt + completion)[: ids.shape[1]]
        assert row[: len(whole)] == whole
        assert row[start] == prompt[-1]
    assert ids.shape[1] == max(len(p) + len(c) for p, c in rows) - 1


@given(st.lists(tokens, min_size=1, max_size=6))
def test_positions_count_real_tokens(rows):
    mask = pad_left(rows, 0)[1]
    assert _rows(position_ids(mask), mask) == [list(range(len(row))) for row in rows]
