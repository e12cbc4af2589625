"""Sampling with log-probabilities kept, against transformers' generate (without them) at equal batch."""

import copy
from typing import Any

import torch

from benchmarks.measure import arguments, interleave, report, rows_of
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.models.batch import pad_left
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate

SAMPLES_PER_PROMPT = 4


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Both sides draw `batch` completions; transformers on the model as it loads, and on vbon's with fused GELU."""
    plain = gpt2()
    fused = copy.deepcopy(plain)
    fuse_activations(fused)
    prompts = random_rows(batch // SAMPLES_PER_PROMPT, 2, 8)
    uniforms = torch.rand(len(prompts), SAMPLES_PER_PROMPT, NEW_TOKENS, dtype=torch.float64)
    ids, mask = pad_left([prompt for prompt in prompts for _ in range(SAMPLES_PER_PROMPT)], PAD)

    def ours() -> object:
        return generate(fused, prompts, uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD)

    def theirs(model: Any) -> object:
        return model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )

    seconds = interleave(
        {"vbon": ours, "transformers": lambda: theirs(plain), "transformers, fused GELU": lambda: theirs(fused)},
        repeats,
    )
    return [{"batch": batch, **row} for row in rows_of(seconds, "vbon", work=batch)]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    report([row for batch in ((4,) if args.tiny else (32, 128, 512)) for row in measure(batch, args.repeats)], args)


if __name__ == "__main__":
    main()
