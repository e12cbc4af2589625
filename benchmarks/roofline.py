"""What share of the machine each stage reaches: FLOP/s against a plain matrix product, bytes/s against a plain copy.

FLOPs of matrix products are counted by torch (FlopCounterMode). Sampling is also set against memory: the least it must
move is the weights once a token and the keys and values that it has written, read again at every token.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import arguments, interleave, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.models.batch import sequences
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.models.logprobs import policy_logprobs

PROMPT = 4


def flops_of(call: Any) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return int(counter.get_total_flops())


def measure(width: int, rows: int, repeats: int) -> list[dict[str, Any]]:
    model = gpt2(width)
    fuse_activations(model)
    prompts = random_rows(rows, PROMPT, PROMPT)
    uniforms = torch.rand(rows, 1, NEW_TOKENS, dtype=torch.float64)
    batch = sequences(prompts, random_rows(rows, NEW_TOKENS, NEW_TOKENS, seed=1), PAD)
    square, vector = torch.randn(1024, 1024), torch.randn(2**24)
    target = torch.empty_like(vector)
    tokens = rows * (PROMPT + NEW_TOKENS)  # the shapes of this model's own widest product
    left, right = torch.randn(tokens, width), torch.randn(width, 4 * width)

    def update() -> None:
        policy_logprobs(model, batch, 1.0).sum().backward()
        model.zero_grad()

    calls = {
        "matmul 1024³": lambda: square @ square,
        "matmul of the model's shapes": lambda: left @ right,
        "copy 64 MB": lambda: target.copy_(vector),
        "sampling": lambda: generate(model, prompts, uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD),
        "update": update,
    }
    seconds = {name: sorted(times)[len(times) // 2] for name, times in interleave(calls, repeats).items()}
    flops = {name: flops_of(call) for name, call in calls.items()}
    weights = sum(p.numel() for p in model.parameters()) * 4
    cache_token = 2 * width * model.config.n_layer * 4 * rows
    moved = {
        "copy 64 MB": 2 * vector.numel() * 4,
        "sampling": NEW_TOKENS * weights + sum(PROMPT + t for t in range(NEW_TOKENS)) * cache_token,
    }
    peak = flops["matmul 1024³"] / seconds["matmul 1024³"]
    copy = moved["copy 64 MB"] / seconds["copy 64 MB"]
    return [
        {
            "width": width,
            "rows": rows,
            "what": name,
            "seconds": round(second, 5),
            "GFLOP/s": round(flops[name] / second / 1e9, 2),
            "of matmul": round(flops[name] / second / peak, 3),
            "GB/s": round(moved.get(name, 0) / second / 1e9, 2),
            "of copy": round(moved.get(name, 0) / second / copy, 3),
        }
        for name, second in seconds.items()
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    sizes = ((32, 4),) if args.tiny else ((128, 128), (512, 64))
    report([row for width, rows in sizes for row in measure(width, rows, args.repeats)], args)


if __name__ == "__main__":
    main()
