"""One optimiser step on a minibatch of 64 completions: where its time went, one saving after another.

Every contender computes the same loss and gradient; `vbon` is what training does.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import arguments, interleave, report, rows_of
from benchmarks.models import NEW_TOKENS, PAD, gpt2, random_rows
from vbon.models.batch import Sequences, position_ids, sequences
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.fused import fuse_activations
from vbon.models.logprobs import policy_logprobs, token_logprobs

ROWS = 64


def left_padded(model: nn.Module, batch: Sequences) -> Tensor:
    """The usual way: whole rows in one rectangle, prompts padded at the left, completions at the right."""
    mask = torch.cat([batch.prompt_mask, batch.completion_mask], 1)
    output = model(
        input_ids=torch.cat([batch.prompt_ids, batch.completion_ids], 1),
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=NEW_TOKENS + 1,
    )
    return token_logprobs(output.logits[:, :-1], batch.completion_ids, 1.0)


def ours(model: nn.Module, batch: Sequences) -> Tensor:
    return policy_logprobs(model, batch, 1.0)


def one_call(model: nn.Module, batch: Sequences) -> Tensor:
    limits = LIMITS["forward"]
    usual, limits["cpu"] = limits["cpu"], Limit(10**9)
    try:
        return ours(model, batch)
    finally:
        limits["cpu"] = usual


def step(model: nn.Module, batch: Sequences, logprobs: Callable[[nn.Module, Sequences], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def run() -> None:
        (-(logprobs(model, batch) * batch.completion_mask).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = 4 if args.tiny else ROWS
    batch = sequences(random_rows(rows, 2, 17), random_rows(rows, NEW_TOKENS, NEW_TOKENS, seed=1), PAD)
    plain = gpt2()
    fused: Any = copy.deepcopy(plain)
    fuse_activations(fused)
    contenders = {
        "vbon": step(copy.deepcopy(fused), batch, ours),
        "one call, padded at the right": step(copy.deepcopy(fused), batch, one_call),
        "padded at both ends": step(copy.deepcopy(fused), batch, left_padded),
        "and GELU as written": step(plain, batch, left_padded),
    }
    report(rows_of(interleave(contenders, args.repeats), "vbon", work=rows), args)


if __name__ == "__main__":
    main()
