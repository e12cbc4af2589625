"""Configs of the verbs that come after training: evaluate, generate, report, demo."""

from dataclasses import dataclass, field

from vbon.config import types
from vbon.config.fields import check_fields
from vbon.errors import VbonError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of `vbon evaluate`, which compares runs with the reference and with true best-of-N."""

    GROUPS = (
        ("common", "n samples_per_prompt limit judges throughput dial tail"),
        ("inputs", "prompts prompt_column model reward allow_mismatch seed"),
        ("several rewards", "combine_with combine_rewards combine"),
        (
            "machine",
            "batch_size reward_batch_size reward_concurrency reward_dtype reward_timeout device dtype num_threads "
            "trust_remote_code",
        ),
    )

    runs: tuple[types.Directory, ...] = field(metadata={"positional": "RUN"})
    """Runs, or any model directories, to evaluate."""
    pool: types.Directory
    """Pool of reference samples for held-out prompts, which no run was trained on."""
    out: types.Directory
    """Directory of the evaluation. An evaluation with the same settings that is there is replaced."""
    prompts: types.File | None = None
    """Evaluate on the prompts in this file, which must all be in the pool. Default: the pool's prompts."""
    prompt_column: types.PromptColumn = "prompt"
    n: types.BestOf | None = None
    """N of best-of-N. Default: the N that the run was trained for."""
    samples_per_prompt: types.Count = 20
    """Completions that each policy samples per prompt. Raise it for narrower intervals."""
    model: types.Model | None = None
    """Reference model. Default: the one that made the pool."""
    reward: types.RewardSpec | None = None
    """Reward. Default: the one that scored the pool."""
    combine_with: types.CombineWith = field(default=(), metadata={"repeat": True})
    combine_rewards: types.CombineRewards = field(default=(), metadata={"flag": "combine-reward", "repeat": True})
    combine: types.Combine = "mean"
    judges: tuple[types.RewardSpec, ...] = field(default=(), metadata={"flag": "judge", "repeat": True})
    """Another reward, which was not trained on, to check for reward hacking. May be repeated."""
    limit: types.PromptLimit | None = None
    """Evaluate on only this many prompts, for a quick trial."""
    batch_size: types.Count = 256
    """Completions sampled at a time. Lower it if memory runs out."""
    reward_batch_size: types.RewardBatch = 64
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    reward_timeout: types.RewardTimeout = 60.0
    dial: tuple[types.BestOf, ...] = ()
    """Also measure each run with N turned to these values after training (`vbon generate --dial`), each against
    best-of-N of that value. Every run must then be one that was trained towards best-of-N."""
    tail: types.Tail = "counts"
    throughput: bool = True
    """Also measure how fast the policies and best-of-N sample on this machine."""
    allow_mismatch: tuple[types.AllowedMismatch, ...] = field(default=(), metadata={"repeat": True})
    device: types.Device = "auto"
    dtype: types.Dtype = "float32"
    num_threads: types.Threads | None = None
    seed: types.NonNegative = 0
    """Seed of the samples and of the bootstrap intervals."""
    trust_remote_code: types.TrustRemoteCode = False

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        if not self.runs:
            raise VbonError("evaluate needs at least one RUN, as in: vbon evaluate runs/n8 --pool heldout --out eval")
        check_fields(self)
        conflicts, message = types.combining_conflict(self)
        if conflicts:
            raise VbonError(message)
        if self.tail != "counts" and self.combine_with:
            raise VbonError(f"--tail {self.tail} extrapolates one reward; leave it or --combine-with out")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of `vbon generate`, which samples from a model or takes the best of N of its samples."""

    GROUPS = (
        ("common", "out num_samples best_of reward dial temperature max_new_tokens limit"),
        ("prompts and completions", "prompt_column columns stop_token_ids seed"),
        (
            "machine",
            "batch_size reward_batch_size reward_concurrency reward_dtype reward_timeout device dtype "
            "trust_remote_code",
        ),
    )

    model: types.Model
    """Model: a run, a model directory or a hub id."""
    prompts: types.Prompts
    best_of: types.Count | None = None
    """Sample this many for each completion and keep the one with the highest reward. Needs --reward."""
    reward: types.RewardSpec | None = None
    """Reward, spelled as for `vbon collect`. Without --best-of it is only reported."""
    dial: types.BestOf | None = None
    """Sample from a run as if it had been trained for this N: token logits are mixed with those of its reference. It
    costs a forward pass of both models per token. Only for a run that was trained towards best-of-N."""
    num_samples: types.Count = 1
    """Completions per prompt."""
    out: types.File | None = None
    """JSON Lines file to write. Default: standard output."""
    temperature: types.Positive | None = None
    """Sampling temperature. Default: that of the model's generation_config.json."""
    max_new_tokens: types.Count | None = None
    """Longest completion, in tokens. Default: that of the model's generation_config.json."""
    stop_token_ids: tuple[types.StopTokens, ...] = ()
    prompt_column: types.PromptColumn = "prompt"
    columns: tuple[types.Columns, ...] = ()
    limit: types.PromptLimit | None = None
    batch_size: types.Count = 256
    """Completions sampled at a time. Lower it if memory runs out."""
    reward_batch_size: types.RewardBatch = 64
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    reward_timeout: types.RewardTimeout = 60.0
    device: types.Device = "auto"
    dtype: types.Dtype = "float32"
    seed: types.NonNegative = 0
    """Seed of the samples."""
    trust_remote_code: types.TrustRemoteCode = False

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        if self.best_of is not None and self.reward is None:
            raise VbonError("--best-of needs --reward, which chooses the best")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `vbon report`, which writes one self-contained HTML page about runs and evaluations."""

    dirs: tuple[types.Directory, ...] = field(metadata={"positional": "DIR"})
    """Directories of runs and evaluations."""
    out: types.File = "report.html"
    """HTML file to write."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        if not self.dirs:
            raise VbonError("report needs at least one DIR, as in: vbon report runs/n8 eval --out report.html")
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of `vbon demo`, which runs every step on a small corpus of its own, without a network."""

    out: types.Directory = "runs/demo"
    """Directory for everything that the demo makes. Repeat the command to continue."""
    seed: types.NonNegative = 0
    """Seed of the corpus, the models and the samples."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
