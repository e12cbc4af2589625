"""The small preset's reference: a byte-level tokenizer and a GPT-2, fine-tuned from nothing by TRL's SFTTrainer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from papers import Paper
from transformers import GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from vbon.demo import small_models
from vbon.demo.small_models import gpt2_config, save, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and training of a small GPT-2. With `model`, a hub id or directory, nothing is trained: that is used."""

    model: str | None = None
    vocabulary: int = 2048
    width: int = 160
    layers: int = 4
    heads: int = 4
    window: int = 128
    batch_size: int = 32
    steps: int = 800
    learning_rate: float = 2e-3


def train_reference(papers: Sequence[Paper], config: ModelConfig, out: Path) -> None:
    """Abstract, cue, summary, end: next-token training on all of it. `out` appears whole or not at all."""
    rows = [{"prompt": p.prompt, "completion": " " + one} for p in papers for one in p.summaries]
    sizes = small_models.ModelConfig(**asdict(config))
    tokenizer = train_tokenizer([row["prompt"] + row["completion"] for row in rows], sizes)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, sizes))
    aside = out.with_name(out.name + ".partial")
    settings = SFTConfig(
        output_dir=str(aside / "trainer"), max_steps=config.steps, per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate, lr_scheduler_type="cosine", warmup_steps=min(50, config.steps // 4),
        max_length=config.window, completion_only_loss=False, save_strategy="no", report_to="none", seed=0, bf16=False,
        gradient_checkpointing=False, logging_steps=100,
    )  # fmt: skip
    SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    save(model.cpu(), tokenizer, out)
