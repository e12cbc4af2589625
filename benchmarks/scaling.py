"""How time grows with the number of prompts, M, completion length and model width; the fitted exponent of each.

An iteration of RLOO over prompts, length and width; sampling and scoring a pool, and making its CDF, over M.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.iteration import SAMPLES, make_task, reward, text_of
from benchmarks.measure import arguments, exponent, interleave, now, report
from benchmarks.models import EOS, PAD, gpt2, random_rows
from vbon.core.reward_cdf import RewardCDF
from vbon.models.batch import sequences
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.models.logprobs import policy_logprobs

Work = Callable[[], object]
WIDTHS = (128, 256, 512)


def iteration(num_prompts: int, length: int, width: int) -> Work:
    """Sample SAMPLES completions a prompt, score them, look them up, and take one pass of gradients over them."""
    model = gpt2(width)
    fuse_activations(model)
    prompts = random_rows(num_prompts, 4, 4)
    task = make_task(prompts)
    uniforms = torch.rand(num_prompts, SAMPLES, length, dtype=torch.float64)
    index = np.arange(num_prompts).repeat(SAMPLES)

    def run() -> None:
        rows = generate(model, prompts, uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD).rows()
        task.cdf.interval(index, reward([], [text_of(row) for row in rows]))
        batch = sequences([prompts[i] for i in index], rows, PAD)
        for start in range(0, len(rows), 64):
            part = batch.select(torch.arange(start, min(start + 64, len(rows))))
            policy_logprobs(model, part, 1.0).sum().backward()
        model.zero_grad()

    return run


def pool(num_samples: int) -> Work:
    model = gpt2()
    fuse_activations(model)
    prompts = random_rows(4, 4, 4)
    uniforms = torch.rand(4, num_samples, 16, dtype=torch.float64)

    def run() -> None:
        for part in uniforms.split(64, 1):
            rows = generate(model, prompts, part, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD).rows()
            scores = reward([], [text_of(row) for row in rows])
        RewardCDF(np.resize(scores, 4 * num_samples), np.full(4, num_samples)).pool_interval()

    return run


def sweep(what: str, sizes: tuple[int, ...], make: Callable[[int], Work], repeats: int) -> list[dict[str, Any]]:
    seconds = interleave({str(size): make(size) for size in sizes}, repeats, warm_up=1)
    medians = [sorted(times)[len(times) // 2] for times in seconds.values()]
    fitted = round(exponent(sizes, medians), 3)
    return [
        {"over": what, "size": size, "seconds": round(median, 4), "exponent": fitted}
        for size, median in zip(sizes, medians, strict=True)
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    started = now()
    scale, few = (8, 4) if args.tiny else (1, 32)
    rows = [
        *sweep("prompts", tuple(c // scale for c in (32, 64, 128)), lambda c: iteration(c, 16, 128), args.repeats),
        *sweep("M", tuple(c // scale for c in (128, 256, 512)), pool, args.repeats),
        *sweep(
            "length", tuple(c // scale for c in (8, 16, 32)), lambda c: iteration(32 // scale, c, 128), args.repeats
        ),
        *sweep("width", tuple(c // scale for c in WIDTHS), lambda c: iteration(few // 2, 16, c), args.repeats),
    ]
    report(rows, args)
    print(f"{now() - started:.0f} s")


if __name__ == "__main__":
    main()
