"""Sampling and the update at GPT-2-small size (124 M parameters, vocabulary 50,257) on a GPU, in float32 and bfloat16.

One stage a call (`--stage`), each well within ten minutes. Without a GPU it says so and measures nothing;
`--tiny --device cpu` runs the same code small.
"""

import copy
import sys
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.measure import arguments, interleave, report, rows_of
from benchmarks.models import EOS, PAD, random_rows
from vbon.models.batch import pad_left, sequences
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.models.logprobs import policy_logprobs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPTS, SAMPLES, STEPS = 64, 8, 40


def models(dtype: torch.dtype, device: str, *, tiny: bool) -> tuple[Any, Any]:
    """The model as transformers has it and as vbon loads it."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512} if tiny else {}
    config = GPT2Config(
        **sizes, n_positions=256, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    )  # fmt: skip
    plain = torch.nn.Module.to(GPT2LMHeadModel(config).eval(), device=device, dtype=dtype)
    ours = copy.deepcopy(plain)
    fuse_activations(ours)
    return plain, ours


def timed(calls: dict[str, Any], device: str, repeats: int) -> dict[str, list[float]]:
    """`interleave`, each call waiting until the device has done it."""

    def finished(call: Any) -> None:
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return interleave({name: lambda call=call: finished(call) for name, call in calls.items()}, repeats)  # type: ignore[misc]


def sampling(plain: Any, ours: Any, device: str, count: int) -> dict[str, Any]:
    prompts = random_rows(count, 2, 8)
    uniforms = torch.rand(count, SAMPLES, STEPS, dtype=torch.float64)
    ids, mask = (part.to(device) for part in pad_left([row for row in prompts for _ in range(SAMPLES)], PAD))
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": STEPS, "pad_token_id": PAD}
    return {
        "vbon": lambda: generate(ours, prompts, uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD),
        "transformers": lambda: plain.generate(input_ids=ids, attention_mask=mask.long(), eos_token_id=EOS, **settings),
    }


def update(plain: Any, ours: Any, device: str, count: int) -> dict[str, Any]:
    batch = sequences(random_rows(count, 2, 17), random_rows(count, STEPS, STEPS, seed=1), PAD).to(device)
    ids = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
    mask = torch.cat([batch.prompt_mask, batch.completion_mask], 1).long()
    labels = ids.masked_fill(mask == 0, -100)

    def theirs() -> None:
        plain(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        plain.zero_grad()

    def mine() -> None:
        policy_logprobs(ours, batch, 1.0).mean().backward()
        ours.zero_grad()

    return {"vbon": mine, "transformers": theirs}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stage", choices=("sampling", "update", "all"), default="all")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: no CUDA device on this machine", file=sys.stderr)
        return
    count = 2 if args.tiny else PROMPTS
    rows = []
    for dtype in DTYPES:
        pair = models(DTYPES[dtype], args.device, tiny=args.tiny)
        for stage in (sampling, update):
            if args.stage in (stage.__name__, "all"):
                seconds = timed(stage(*pair, args.device, count), args.device, args.repeats)
                work = count * (SAMPLES if stage is sampling else 1)
                rows += [
                    {"stage": stage.__name__, "dtype": dtype, **row} for row in rows_of(seconds, "vbon", work=work)
                ]
    report(rows, args)


if __name__ == "__main__":
    main()
