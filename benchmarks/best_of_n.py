"""One sample against best-of-N, scoring included: a full batch (throughput) and one prompt at a time (latency).

Best-of-N scores by one of two rewards: one that costs nothing, and a classifier of the policy's size, which reads
prompt and completion once. The N samples of a prompt share its prefill, which single samples of N prompts cannot: with
P prompt tokens and T new ones the cost without scoring is at most N·(T − 1 + P/N)/(T − 1 + P) (`shared prefill`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from benchmarks.iteration import reward, text_of
from benchmarks.measure import arguments, interleave, ratio, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.core.masked import last_token
from vbon.models.batch import sequences
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.models.value_head import Critic

Rows = list[list[int]]
Scorer = Callable[[Rows, Rows], Any]


def free(prompts: Rows, completions: Rows) -> Any:
    return reward([], [text_of(row) for row in completions])


def classifier(model: Any) -> Scorer:
    """A number from the trunk's last hidden state, as a reward model has it."""
    network = Critic(model)

    @torch.no_grad()
    def score(prompts: Rows, completions: Rows) -> Any:
        batch = sequences(prompts, completions, PAD).to(model.device)
        return network(batch).gather(1, last_token(batch.completion_mask)[:, None])[:, 0].cpu().numpy()

    return score


def measure(
    batch: int, n: int, repeats: int, make: Callable[[], GPT2LMHeadModel] = gpt2, new_tokens: int = NEW_TOKENS
) -> list[dict[str, Any]]:
    """`batch` completions at a time on both sides: of as many prompts, or of batch/N prompts the best of N each.

    `make`: the model, on the device where it is to run.
    """
    model = make()
    fuse_activations(model)
    prompts = random_rows(batch, 2, 8)
    scorers = {"free": free, "classifier": classifier(model)}

    def sample(count: int, per_prompt: int) -> Rows:
        uniforms = torch.rand(count, per_prompt, new_tokens, dtype=torch.float64)
        return generate(
            model, prompts[:count], uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD
        ).rows()

    def best(count: int, score: Scorer) -> Callable[[], object]:
        repeated = [prompt for prompt in prompts[:count] for _ in range(n)]
        return lambda: np.asarray(score(repeated, sample(count, n))).reshape(count, n).argmax(1)

    groups = max(1, batch // n)
    calls: dict[str, Callable[[], object]] = {
        "full batch": lambda: sample(batch, 1),
        "one prompt": lambda: sample(1, 1),
    }
    for name, score in scorers.items():
        calls |= {f"full batch, {name}": best(groups, score), f"one prompt, {name}": best(1, score)}
    seconds = interleave(calls, repeats)
    new, read = new_tokens - 1, float(np.mean([len(prompt) for prompt in prompts]))
    shared = (new + read / n) / (new + read)
    rows: list[dict[str, Any]] = []
    for mode, per_prompt in (("full batch", batch / groups), ("one prompt", 1)):
        for name in scorers:
            cost = ratio(seconds[f"{mode}, {name}"], seconds[mode]) * per_prompt
            full = mode == "full batch"
            rows.append(
                {
                    "n": n,
                    "mode": mode,
                    "reward": name,
                    "cost of best-of-N / one sample": round(cost, 3),
                    "over N": round(cost / n, 3) if full else None,
                    "shared prefill": round(shared, 3) if full and name == "free" else None,
                }
            )
    return rows


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    batch, ns = (8, (2,)) if args.tiny else (256, (2, 4, 8, 16, 32, 64))
    report([row for n in ns for row in measure(batch, n, args.repeats)], args)


if __name__ == "__main__":
    main()
