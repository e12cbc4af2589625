"""Batched, chunked divergences against plain forward passes of one row in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.enumerable import PAD, TASK

from vbon.evaluation.divergence import divergence, sequence_logprobs
from vbon.models.batch_size import LIMITS, Limit
from vbon.models.load import load_policy

FLOAT32 = 2e-5  # sums of at most three float32 terms of a few nats
TEMPERATURE = 0.7


def log_softmaxes(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / TEMPERATURE).log_softmax(-1)


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_against_plain_forward_passes(
    world: Path, completion_ids: list, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(LIMITS["divergence"], "cpu", Limit(rows_at_a_time * 3 * 8))  # three steps, eight tokens
    policy, ref_policy = load_policy(str(world / "policy")), load_policy(str(world / "model"))
    prompts = [TASK.prompt_ids[i] for i in (0, 3, 5)] * 14
    completions = [*completion_ids, [1], [2, 3]]
    expected = []
    for prompt, row in zip(prompts, completions, strict=True):
        log_p, log_q = log_softmaxes(policy, prompt, row), log_softmaxes(ref_policy, prompt, row)
        steps = range(len(row))
        kl, entropy = (log_p.exp() * (log_p - log_q)).sum(), -(log_p.exp() * log_p).sum()
        logprob = log_p[steps, row].sum()
        expected.append([(logprob - log_q[steps, row].sum()).item(), kl.item(), entropy.item(), logprob.item()])
    options = {"temperature": TEMPERATURE, "pad_token_id": PAD}
    measured = divergence(policy, ref_policy, prompts, completions, **options)
    logprobs = sequence_logprobs(policy, prompts, completions, **options)
    assert np.stack([*measured, logprobs], 1) == pytest.approx(np.array(expected), abs=FLOAT32)
    assert np.ptp(measured.kl) > 0.1
