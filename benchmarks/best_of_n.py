"""One sample against best-of-N, scoring included: a full batch (throughput) and one prompt at a time (latency)."""

from typing import Any

import torch

from benchmarks.iteration import reward, text_of
from benchmarks.measure import arguments, interleave, ratio, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate


def measure(batch: int, n: int, repeats: int) -> list[dict[str, Any]]:
    """`batch` completions at a time on both sides: of as many prompts, or of batch/N prompts the best of N each."""
    model = gpt2()
    fuse_activations(model)
    prompts = random_rows(batch, 2, 8)

    def sample(count: int, per_prompt: int) -> list[list[int]]:
        uniforms = torch.rand(count, per_prompt, NEW_TOKENS, dtype=torch.float64)
        return generate(
            model, prompts[:count], uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD
        ).rows()  # fmt: skip

    def best(count: int) -> None:
        scores = reward([], [text_of(row) for row in sample(count, n)])
        scores.reshape(count, n).argmax(1)

    groups = max(1, batch // n)
    seconds = interleave(
        {"full": lambda: sample(batch, 1), "full, best of N": lambda: best(groups),
         "one": lambda: sample(1, 1), "one, best of N": lambda: best(1)}, repeats,
    )  # fmt: skip
    throughput = ratio(seconds["full, best of N"], seconds["full"]) * batch / groups
    latency = ratio(seconds["one, best of N"], seconds["one"])
    return [
        {"n": n, "mode": "full batch", "cost of best-of-N / one sample": round(throughput, 3),
         "over N": round(throughput / n, 3)},
        {"n": n, "mode": "one prompt", "cost of best-of-N / one sample": round(latency, 3), "over N": None},
    ]  # fmt: skip


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    batch, ns = (8, (2,)) if args.tiny else (256, (2, 4, 8, 16, 32, 64))
    report([row for n in ns for row in measure(batch, n, args.repeats)], args)


if __name__ == "__main__":
    main()
