"""Configs of the verbs that make and read pools: collect, import, inspect."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import checks
from vbon.errors import VbonError

Dtype = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["transformers", "vllm", "openai", "ray"]


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """`vbon collect`: draw samples from the reference model, score them, keep them as a pool."""

    model: str
    """Reference model: a local directory or a hub id."""
    reward: str
    """Reward: a classifier (PATH#LABEL picks a logit), module:function, file.py:function, http://…, or builtin:NAME."""
    prompts: str
    """Prompts: a JSONL, Parquet, CSV or text file, or a hub dataset id."""
    out: str
    """Directory of the pool. Run the same command again to resume one that was interrupted."""
    num_samples: int = 64
    """Samples per prompt (M). At least 25·N is wanted to evaluate at N."""
    temperature: float = 1.0
    """Sampling temperature; a policy trained on this pool is defined at the same one."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a completion, in addition to the end-of-sequence ids of the model and of its tokenizer."""
    batch_size: int | None = None
    """Completions sampled at a time; default: what memory holds, at most 256 on a CPU. A resumed pool keeps its own."""
    samples_per_shard: int = 4096
    """Completions stored together: what a crash may lose, and what a worker of --engine ray makes at a time."""
    prompt_column: str = "prompt"
    """Column that holds the prompt: a string or a list of chat messages."""
    limit: int | None = None
    """Read only this many prompts."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER. auto is cuda where there is a CUDA device, otherwise cpu (never mps)."""
    dtype: Dtype = "float32"
    """Floating-point type of the model's weights."""
    reward_batch_size: int = 64
    """Completions scored at a time."""
    reward_timeout: float = 60.0
    """Seconds to wait for one batch of a Python function or one HTTP request; a classifier has no limit."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""
    engine: EngineName = "transformers"
    """What samples: the model in this process, vLLM in it, an OpenAI-style server, or the workers of a Ray cluster."""
    num_workers: int | None = None
    """Processes that sample for --engine ray; default: one for each GPU of the cluster, or else for each CPU."""
    base_url: str | None = None
    """Address of the server for --engine openai, as in http://127.0.0.1:8000/v1."""
    served_model: str | None = None
    """What the server calls the model; default: --model."""
    concurrency: int = 8
    """Requests to the server at a time."""
    request_timeout: float = 300.0
    """Seconds to wait for the server's answer to one request."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "model", "reward", "prompts", "out", "prompt_column", "served_model")
        checks.check_at_least(self, 1, "num_samples", "max_new_tokens", "batch_size", "limit", "reward_batch_size")
        checks.check_at_least(self, 1, "concurrency", "num_workers", "samples_per_shard")
        checks.check_at_most(self, checks.MOST_WORKERS, "concurrency", "num_workers")
        checks.check_above(self, 0, "temperature", "reward_timeout", "request_timeout")
        checks.check_server(self)
        checks.check_at_least(self, 0, "seed")
        checks.check_each_at_least(self, 0, "stop_token_ids")
        checks.check_device(self)
        checks.check_workers(self)


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """`vbon import`: turn samples that were scored elsewhere into a pool."""

    file: str = field(metadata={"positional": "FILE"})
    """A JSONL, JSON or Parquet file with rows of (prompt, text, reward), rows of (prompt, responses, rewards),
    or a column ref_rewards."""
    out: str
    """Directory of the pool."""
    declare: tuple[str, ...] = ()
    """KEY=VALUE: how the samples were made (temperature, max_new_tokens, stop, model, tokenizer, reward)
    or how to read the file (columns, text). What is not declared stays unknown."""
    seed: int = 0
    """Recorded with the pool."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "file", "out")
        checks.check_at_least(self, 0, "seed")
        for entry in self.declare:
            key, equals, _ = entry.partition("=")
            if not (key and equals):
                raise VbonError(f"--declare {entry!r} is not KEY=VALUE, as in --declare temperature=1.0")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """`vbon inspect`: what a pool holds, and what best-of-N would buy for each N."""

    pool: str = field(metadata={"positional": "POOL"})
    """Directory of the pool."""
    n: tuple[int, ...] = ()
    """Values of N to predict for; default: 2, 4, 8, … up to the samples per prompt."""
    seed: int = 0
    """Seed of the bootstrap intervals."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "pool")
        checks.check_each_at_least(self, 2, "n")
        checks.check_at_least(self, 0, "seed")
