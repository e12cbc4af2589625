"""Configs of the verbs that make and read pools: collect, import, rescore, inspect, export."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vbon.config import types
from vbon.config.fields import check_fields, refuse
from vbon.errors import VbonError

AtLeastTwo = Annotated[int, types.at_least(2)]
EngineName = Literal["transformers", "vllm", "openai", "ray"]
_SERVER = re.compile(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Settings of `vbon collect`, which samples from the reference model and scores the samples."""

    GROUPS = (
        ("common", "num_samples temperature max_new_tokens limit batch_size engine"),
        ("prompts and completions", "prompt_column columns drop_long_prompts stop_token_ids seed samples_per_shard"),
        (
            "reward",
            "reward_batch_size reward_concurrency reward_dtype reward_timeout opponents judge_orders max_comparisons",
        ),
        ("machine", "device dtype trust_remote_code"),
        ("other engines", "num_workers base_url served_model concurrency request_timeout"),
    )

    model: types.Model
    """Reference model: a directory or a hub id."""
    reward: types.RewardSpec
    prompts: types.Prompts
    out: types.Directory
    """Directory of the pool. Repeat the command to continue a pool that was interrupted."""
    num_samples: types.Count = 64
    """Samples per prompt (M). Raise it for a large N: M of about 25·N is enough to train and to evaluate."""
    temperature: types.Positive = 1.0
    """Sampling temperature. Set it to the one that you serve with: training on this pool keeps it."""
    max_new_tokens: types.Count = 64
    """Longest completion, in tokens. Raise it if `vbon inspect` reports unfinished completions."""
    stop_token_ids: tuple[types.StopTokens, ...] = ()
    batch_size: types.Count | None = None
    """Completions sampled at a time. Default: as many as memory holds, on a CPU at most 256."""
    samples_per_shard: types.Count = 4096
    """Completions stored in one file. Lower it to lose less in a crash, or to share work among more Ray workers."""
    prompt_column: types.PromptColumn = "prompt"
    columns: tuple[types.Columns, ...] = ()
    drop_long_prompts: bool = False
    """Leave out prompts that, with --max-new-tokens, exceed the model's context. Without it they are an error."""
    limit: types.PromptLimit | None = None
    seed: types.NonNegative = 0
    """Seed of the samples."""
    device: types.Device = "auto"
    dtype: types.Dtype = "float32"
    reward_batch_size: types.RewardBatch = 64
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    opponents: types.Opponents = 16
    judge_orders: types.JudgeOrders = "both"
    max_comparisons: types.MaxComparisons | None = None
    reward_timeout: types.RewardTimeout = 60.0
    trust_remote_code: types.TrustRemoteCode = False
    engine: EngineName = "transformers"
    """Sampler. transformers and vllm load the model here, openai asks a server, ray uses the workers of a cluster."""
    num_workers: types.Workers | None = None
    """Processes of --engine ray. Default: one per GPU of the cluster, or one per CPU if it has no GPU."""
    base_url: str | None = None
    """Address of the server for --engine openai, for example http://127.0.0.1:8000/v1."""
    served_model: str | None = None
    """Name of the model on the server. Default: --model."""
    concurrency: types.Workers = 8
    """Requests to the server at the same time."""
    request_timeout: types.Positive = 300.0
    """Seconds to wait for the server's answer to one request."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        if (self.engine == "openai") != (self.base_url is not None):
            raise VbonError("--base-url and --engine openai go together: give both or neither")
        if self.base_url is not None and not _SERVER.fullmatch(self.base_url):
            raise VbonError(
                "--base-url must be an address such as http://127.0.0.1:8000/v1; pass a token as VBON_API_TOKEN"
            )
        if self.engine != "ray" and self.num_workers is not None:
            raise VbonError("--num-workers needs --engine ray; leave it out")
        if self.engine == "ray" and ":" in self.device:
            raise refuse("device", repr(self.device), "auto, cpu or cuda: Ray gives each worker its own GPU")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings of `vbon import`, which turns samples that were scored elsewhere into a pool."""

    file: types.File = field(metadata={"positional": "FILE"})
    """JSON Lines, JSON or Parquet: rows of prompt, text and reward; of prompt, responses and rewards; or with a column
    ref_rewards."""
    out: types.Directory
    """Directory of the pool."""
    declare: tuple[str, ...] = ()
    """KEY=VALUE: how the samples were made. Keys: temperature, max_new_tokens, stop, model, tokenizer, reward; and
    columns and text, which say how to read the file. A key that is not declared is unknown to training."""
    seed: types.NonNegative = 0
    """Seed that is recorded with the pool."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        for entry in self.declare:
            key, equals, _ = entry.partition("=")
            if not (key and equals):
                raise VbonError(f"--declare {entry!r} is not KEY=VALUE, as in --declare temperature=1.0")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Settings of `vbon inspect`, which shows a pool and predicts best-of-N for each N."""

    GROUPS = (
        ("common", "n tilt tail judges seed"),
        ("judges", "reward_batch_size reward_dtype reward_timeout reward_concurrency device trust_remote_code"),
    )

    pool: types.Directory = field(metadata={"positional": "POOL"})
    """Directory of the pool."""
    n: tuple[AtLeastTwo, ...] = ()
    """Values of N to predict for. Default: 2, 4, 8, … up to the number of samples per prompt."""
    tilt: types.Tilt = "best"
    tail: types.Tail = "counts"
    judges: tuple[types.RewardSpec, ...] = field(default=(), metadata={"flag": "judge", "repeat": True})
    """Another reward, by which best-of-N of the pool's reward is scored for each N. It shows where a larger N begins
    to harm. May be repeated."""
    seed: types.NonNegative = 0
    """Seed of the bootstrap intervals."""
    reward_batch_size: types.RewardBatch = 64
    reward_timeout: types.RewardTimeout = 60.0
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    device: types.Device = "auto"
    trust_remote_code: types.TrustRemoteCode = False

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        kind, _, k = self.tilt.partition(":")
        if kind == "kth" and (not self.n or min(self.n) < int(k)):
            raise VbonError(f"--tilt {self.tilt} needs --n with values of at least {k}")
        if kind != "best" and self.judges:
            raise VbonError(f"--judge scores best-of-N only; leave out --tilt {self.tilt} or --judge")
        if self.tail != "counts" and (kind != "best" or self.judges):
            other = "--judge" if self.judges else f"--tilt {self.tilt}"
            raise VbonError(f"--tail {self.tail} predicts the reward of best-of-N only; leave it or {other} out")


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Settings of `vbon rescore`, which scores the samples of a pool with another reward."""

    GROUPS = (
        ("common", "reward_batch_size reward_dtype reward_timeout reward_concurrency"),
        ("machine", "device trust_remote_code"),
    )

    pool: types.Directory = field(metadata={"positional": "POOL"})
    """Directory of the pool whose samples are scored again. It is not changed."""
    reward: types.RewardSpec
    out: types.Directory
    """Directory of the new pool. Repeat the command to continue after an interruption."""
    reward_batch_size: types.RewardBatch = 64
    reward_timeout: types.RewardTimeout = 60.0
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    device: types.Device = "auto"
    trust_remote_code: types.TrustRemoteCode = False

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of `vbon export`, which writes best-of-N of a pool as training data for another trainer."""

    pool: types.Directory = field(metadata={"positional": "POOL"})
    """Directory of the pool."""
    best_of: AtLeastTwo
    """N, a whole number of at most the pool's samples per prompt."""
    out: types.File
    """JSON Lines file to write. It must not exist yet."""
    format: Literal["sft", "dpo"] = "sft"
    """sft: rows of prompt and completion; each completion is drawn as the best of N samples of its prompt, without
    replacement. dpo: rows of prompt, chosen and rejected; these are the best and the worst of N distinct samples."""
    draws: types.Count = 1
    """Draws per prompt. The draws of sft are spread evenly over the best-of-N weights of the prompt's samples; those
    of dpo are independent sets."""
    every_sample: bool = False
    """Draw nothing: write every sample whose best-of-N weight is not 0 once, with its weight in a column `weight`.
    The weights of a prompt sum to 1. For trainers that weight their rows; only with --format sft."""
    seed: types.NonNegative = 0
    """Seed of the draws. A prompt's draws depend on the seed and the prompt alone."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        if self.every_sample and self.format != "sft":
            raise VbonError("--every-sample needs --format sft: weights belong to single completions, not to pairs")
        if self.every_sample and self.draws != 1:
            raise VbonError("--every-sample draws nothing; leave --draws out")
