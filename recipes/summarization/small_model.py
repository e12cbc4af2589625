"""The small preset's reference: a byte-level tokenizer and a GPT-2, fine-tuned from nothing by TRL's SFTTrainer."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from papers import Paper
from preset import ModelConfig
from transformers import GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from vbon.recipes import small_models
from vbon.recipes.fit import Schedule
from vbon.recipes.small_models import gpt2_config, save, train_tokenizer


def train_reference(papers: Sequence[Paper], config: ModelConfig, out: Path) -> None:
    """Abstract, cue, summary, end: next-token training on all of it. `out` appears whole or not at all."""
    rows = [{"prompt": p.prompt, "completion": " " + one} for p in papers for one in p.summaries]
    sizes = small_models.ModelConfig(**asdict(config))
    tokenizer = train_tokenizer([row["prompt"] + row["completion"] for row in rows], sizes)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, sizes))
    settings = SFTConfig(**trl_settings(config, out), max_length=config.window, completion_only_loss=False)
    SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    save(model.cpu(), tokenizer, out)


def trl_settings(schedule: Schedule, out: Path) -> dict[str, Any]:
    """Settings that TRL's trainers share: the schedule, a half cosine after a warm-up, no checkpoints, no reports."""
    return {
        "output_dir": str(out.with_name(out.name + ".partial") / "trainer"),
        "max_steps": schedule.steps,
        "per_device_train_batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(50, schedule.steps // 4),
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 100,
    }
