"""A tiny GPT-2 with a byte-level tokenizer, and pools written by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.pool import Fingerprint, PoolWriter, Prompt, make_prompt
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids

CONTEXT = 24


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """258 tokens (bytes, <eos> = 256, <pad> = 257), context of 24, EOS likely enough to be drawn."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<eos>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=CONTEXT,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=256,
            eos_token_id=256,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pool_prompts(count: int) -> list[Prompt]:
    return [make_prompt(f"prompt {index}", {"answer": index}) for index in range(count)]


def pool_samples(prompt: Prompt, num_samples: int, seed: int = 0) -> PromptSamples:
    rng = np.random.default_rng([seed, int(prompt.prompt_id, 16)])
    ids = [rng.integers(0, 256, rng.integers(1, 6)).tolist() for _ in range(num_samples)]
    return PromptSamples(
        prompt=prompt,
        completions=[" ".join(map(str, row)) for row in ids],
        completion_ids=ids,
        rewards=rng.normal(size=num_samples),
        ref_logprobs=rng.normal(size=num_samples).tolist(),
        finished=(rng.random(num_samples) < 0.5).tolist(),
    )


def pool_manifest(prompts: list[Prompt], num_samples: int) -> Manifest:
    return Manifest(
        fingerprint=Fingerprint(model="m", temperature=1.0, max_new_tokens=4, stop=(0, 7)),
        created_by="test",
        num_prompts=len(prompts),
        prompts_sha256=hash_prompt_ids(prompts),
        num_samples=num_samples,
        seed=0,
    )


@pytest.fixture
def write_pool(tmp_path: Path) -> Callable[..., tuple[Path, list[PromptSamples]]]:
    """write_pool(num_prompts, num_samples, per_shard=2) → (folder, what it holds)."""

    def write(
        num_prompts: int, num_samples: int, per_shard: int = 2, name: str = "pool"
    ) -> tuple[Path, list[PromptSamples]]:
        prompts = pool_prompts(num_prompts)
        samples = [pool_samples(prompt, num_samples) for prompt in prompts]
        with PoolWriter.create(tmp_path / name, pool_manifest(prompts, num_samples)) as writer:
            for index, first in enumerate(range(0, num_prompts, per_shard)):
                writer.write_shard(index, samples[first : first + per_shard])
            writer.finish()
        return tmp_path / name, samples

    return write
