"""The memory table of docs/guides/large-models.md, computed from configs: `python -m benchmarks.memory_table`.

`--write` puts it into the guide. No row is measured: the sizes are those of public models, on GPUs of 80 GB,
for completions of 512 tokens after prompts of 512.
"""

import argparse
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from vbon.config.train import TrainConfig
from vbon.models.memory_plan import GIGABYTE, Item, MemoryPlan, Work, training_plan
from vbon.models.network_size import empty_model, size_of
from vbon.models.plan_lines import CUDA_CONTEXT
from vbon.training.parallel.adapters import with_adapters

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "large-models.md"
BEGIN, END = "<!-- table: python -m benchmarks.memory_table --write -->\n", "<!-- end of table -->\n"
GPU = 80 * GIGABYTE
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
CONFIGS: dict[str, PretrainedConfig] = {
    "1 B (Llama 3.2)": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        tie_word_embeddings=True,
        **HEADS,
    ),
    "3 B (Llama 3.2)": LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        tie_word_embeddings=True,
        num_attention_heads=24,
        num_key_value_heads=8,
    ),
    "7 B (Qwen 2.5)": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        tie_word_embeddings=False,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "14 B (Qwen 2.5)": Qwen2Config(
        vocab_size=152_064,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=48,
        tie_word_embeddings=False,
        num_attention_heads=40,
        num_key_value_heads=8,
    ),
}
LORA = {"lora_rank": 16, "dtype": "bfloat16", "gradient_checkpointing": True}
SETTINGS: dict[str, tuple[dict[str, Any], int, bool]] = {
    "full, float32, 1 GPU": ({"gradient_checkpointing": True}, 1, False),
    "full, float32, 8 GPUs (FSDP)": ({"gradient_checkpointing": True}, 8, True),
    "LoRA 16, bfloat16, 1 GPU": (LORA, 1, False),
    "LoRA 16, bfloat16, 8 GPUs": (LORA, 8, False),
}


def plan(model: PretrainedConfig, changes: dict[str, Any], processes: int, in_shards: bool) -> MemoryPlan:  # noqa: FBT001
    """Plan a run of 256 rollouts with minibatches of 64, of rloo, on GPUs of 80 GB."""
    config = TrainConfig(pool="-", model="-", reward="-", out="-", n=8, algorithm="rloo", **changes)
    policy = with_adapters(empty_model(model, dtype=config.dtype), config)
    work = Work(
        device="cuda",
        longest=1024,
        rollouts=config.rollouts_per_iteration // processes,
        minibatch=config.minibatch_size // processes,
        processes=processes,
        in_shards=in_shards,
        beside=(Item("context of the GPU", CUDA_CONTEXT),),
    )
    return training_plan(size_of(policy, checkpointed=config.gradient_checkpointing), work, GPU)


def table() -> str:
    """Make the table: what is held all the time and the peak, in GB for each GPU."""
    lines = ["| model | training | held all the time | peak | of 80 GB | |", "|---|---|--:|--:|---|---|"]
    for name, model in CONFIGS.items():
        for setting, how in SETTINGS.items():
            made = plan(model, *how)
            held = sum(item.bytes for item in made.always)
            fits = "fits" if made.peak <= GPU else "does not fit"
            lines.append(
                f"| {name} | {setting} | {held / GIGABYTE:.0f} | {made.peak / GIGABYTE:.0f} | {fits} | computed |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into the guide")
    args = parser.parse_args()
    made = table()
    print(made)
    if args.write:
        text = GUIDE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        GUIDE.write_text(before + BEGIN + made + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
