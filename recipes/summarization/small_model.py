"""The small preset's reference: a byte-level tokenizer and a GPT-2, fine-tuned from nothing by TRL's SFTTrainer."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from papers import Paper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

END, PAD = "<|endoftext|>", "<|pad|>"


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
    tokenizer = train_tokenizer([row["prompt"] + row["completion"] for row in rows], config)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(model_config(tokenizer, config))
    aside = out.with_name(out.name + ".partial")
    settings = SFTConfig(
        output_dir=str(aside / "trainer"), max_steps=config.steps, per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate, lr_scheduler_type="cosine", warmup_steps=min(50, config.steps // 4),
        max_length=config.window, completion_only_loss=False, save_strategy="no", report_to="none", seed=0, bf16=False,
        gradient_checkpointing=False, logging_steps=100,
    )  # fmt: skip
    SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    shutil.rmtree(aside, ignore_errors=True)
    model.cpu().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(out)


def train_tokenizer(texts: Sequence[str], config: ModelConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text encodes, whatever it was trained on."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=config.window
    )


def model_config(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> GPT2Config:
    """GPT-2 of the preset's sizes, without dropout; its tanh-GELU as one kernel."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=config.window, n_embd=config.width, n_layer=config.layers,
        n_head=config.heads, activation_function="gelu_pytorch_tanh", bos_token_id=end, eos_token_id=end,
        pad_token_id=pad, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
