"""The benchmarks at the sizes of GPT-2 (124 M parameters and more, vocabulary 50,257) on a GPU, float32 and bfloat16.

Sampling and the update against transformers, an iteration against the bare floor, one sample against best-of-N; with
the peak of the GPU's memory. One stage a call (`--stage`), each well within ten minutes at `--size small`. Without a
GPU it says so and measures nothing; `--tiny --device cpu` runs the same code small.
"""

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import best_of_n, iteration
from benchmarks.measure import arguments, interleave, report, rows_of
from benchmarks.models import EOS, PAD, SIZES, gpt2_of, random_rows
from vbon.models.batch import pad_left, sequences
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.models.logprobs import policy_logprobs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPTS, SAMPLES, STEPS = 64, 8, 40
Make = Callable[[], Any]
Calls = dict[str, Callable[[], Any]]


def sampling(make: Make, *, tiny: bool) -> tuple[Calls, int]:
    """Contenders, and the completions of a call: vbon's with log-probabilities, transformers' without."""
    plain, ours, count = make(), with_fused(make()), 2 if tiny else PROMPTS
    prompts = random_rows(count, 2, 8)
    uniforms = torch.rand(count, SAMPLES, STEPS, dtype=torch.float64)
    ids, mask = (part.to(plain.device) for part in pad_left([row for row in prompts for _ in range(SAMPLES)], PAD))
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": STEPS, "pad_token_id": PAD}
    return {
        "vbon": lambda: generate(ours, prompts, uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD),
        "transformers": lambda: plain.generate(input_ids=ids, attention_mask=mask.long(), eos_token_id=EOS, **settings),
    }, count * SAMPLES


def update(make: Make, *, tiny: bool) -> tuple[Calls, int]:
    """Contenders, and the rows of a call: forward and backward of as many completions."""
    plain, ours, count = make(), with_fused(make()), 2 if tiny else PROMPTS
    batch = sequences(random_rows(count, 2, 17), random_rows(count, STEPS, STEPS, seed=1), PAD).to(plain.device)
    ids = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
    mask = torch.cat([batch.prompt_mask, batch.completion_mask], 1).long()
    labels = ids.masked_fill(mask == 0, -100)

    def theirs() -> None:
        plain(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        plain.zero_grad()

    def mine() -> None:
        policy_logprobs(ours, batch, 1.0).mean().backward()
        ours.zero_grad()

    return {"vbon": mine, "transformers": theirs}, count


def whole_iteration(make: Make, *, tiny: bool) -> tuple[Calls, int]:
    """Contenders, and the rollouts of a call, as `benchmarks.iteration` has them."""
    prompts = random_rows(4 if tiny else iteration.NUM_PROMPTS, 2, 8)
    return {
        "vbon": iteration.vbon_iteration(prompts, make),
        "vbon PPO": iteration.vbon_iteration(prompts, make, algorithm="ppo"),
        "vbon PPO, shared trunk": iteration.vbon_iteration(prompts, make, algorithm="ppo", critic="shared"),
        "bare floor": iteration.floor_iteration(prompts, make),
    }, iteration.SAMPLES * len(prompts)


STAGES = {"sampling": sampling, "update": update, "iteration": whole_iteration}
BEST_OF_N = "best-of-n"


def with_fused(model: Any) -> Any:
    """The model as vbon loads it."""
    fused = copy.deepcopy(model)
    fuse_activations(fused)
    return fused


def measured(stage: str, make: Make, device: str, repeats: int, *, tiny: bool) -> list[dict[str, Any]]:
    """Rows of one stage, each call waiting until the device has done it."""
    if stage == BEST_OF_N:
        batch, several = (8, (2,)) if tiny else (512, (4, 16, 64))
        return [row for n in several for row in best_of_n.measure(batch, n, repeats, make, STEPS)]
    calls, work = STAGES[stage](make, tiny=tiny)

    def finished(call: Callable[[], Any]) -> None:
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds = interleave(
        {name: partial(finished, call) for name, call in calls.items()}, repeats, warm_up=0 if tiny else 2
    )
    rows = rows_of(seconds, "vbon", work)
    return [row | peak(calls[row["contender"]], device) for row in rows]


def peak(call: Callable[[], Any], device: str) -> dict[str, Any]:
    """GiB that a call adds to what lies on the GPU when it begins, at the highest; nothing on a CPU."""
    if not device.startswith("cuda"):
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize()
    return {"peak GiB": round((torch.cuda.max_memory_allocated(device) - start) / 2**30, 2)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:NUMBER or cpu")
    parser.add_argument("--size", choices=SIZES, default="small", help="124, 355 or 774 million parameters")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES), help="types of the weights")
    parser.add_argument("--stage", choices=(*STAGES, BEST_OF_N, "all"), default="all", help="one stage, or all")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: no CUDA device on this machine", file=sys.stderr)
        return
    stages = (*STAGES, BEST_OF_N) if args.stage == "all" else (args.stage,)
    rows = [
        {"stage": stage, "size": "tiny" if args.tiny else args.size, "dtype": dtype, **row}
        for stage in stages
        for dtype in args.dtype
        for row in measured(
            stage,
            partial(gpt2_of, args.size, DTYPES[dtype], args.device, tiny=args.tiny),
            args.device,
            args.repeats,
            tiny=args.tiny,
        )
    ]
    report(rows, args)


if __name__ == "__main__":
    main()
