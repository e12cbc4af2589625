"""Configs of the verbs that come after training: evaluate, generate, report, demo."""

from dataclasses import dataclass, field

from vbon.config import checks
from vbon.config.pool import Dtype
from vbon.errors import VbonError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """`vbon evaluate`: measure runs against the reference and against true best-of-N, on a held-out pool."""

    runs: tuple[str, ...] = field(metadata={"positional": "RUN"})
    """Runs, or any model directories, to evaluate."""
    pool: str
    """Held-out pool of reference samples; its prompts must not have been trained on."""
    out: str
    """Directory of the evaluation; one of the same settings there is replaced."""
    prompts: str | None = None
    """Evaluate on the prompts in this file, which must all be in the pool; default: the pool's."""
    prompt_column: str = "prompt"
    """Column of that file which holds the prompt."""
    n: float | None = None
    """N of best-of-N; default: the run's."""
    samples_per_prompt: int = 20
    """Completions drawn from each policy for each prompt."""
    model: str | None = None
    """Reference model; default: the one that made the pool."""
    reward: str | None = None
    """Reward; default: the one that scored the pool."""
    judges: tuple[str, ...] = field(default=(), metadata={"flag": "judge", "repeat": True})
    """A further reward, never trained on, to hold the policies against (repeatable)."""
    limit: int | None = None
    """Evaluate on only this many prompts."""
    batch_size: int = 256
    """Completions sampled at a time."""
    reward_batch_size: int = 64
    """Completions scored at a time."""
    reward_timeout: float = 60.0
    """Seconds to wait for one batch of a Python function or one HTTP request; a classifier has no limit."""
    throughput: bool = True
    """Also time the policies against best-of-N on this machine."""
    allow_mismatch: tuple[str, ...] = field(default=(), metadata={"repeat": True})
    """Evaluate although this field of the pool's fingerprint differs (repeatable)."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER. auto is cuda where there is a CUDA device, otherwise cpu (never mps)."""
    dtype: Dtype = "float32"
    """Floating-point type of the weights."""
    num_threads: int | None = None
    """CPU threads; default: torch's choice."""
    seed: int = 0
    """Seed of the samples and of the bootstrap intervals."""
    trust_remote_code: bool = False
    """Run Python code that comes with the models. Only for models whose code you have read."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        if not self.runs:
            raise VbonError("evaluate needs at least one RUN, as in: vbon evaluate runs/n8 --pool heldout --out eval")
        checks.check_text(self, "pool", "out", "model", "reward", "prompts", "prompt_column")
        checks.check_above(self, 1, "n")
        checks.check_above(self, 0, "reward_timeout")
        checks.check_at_least(self, 1, "samples_per_prompt", "limit", "batch_size", "reward_batch_size", "num_threads")
        checks.check_at_most(self, checks.MOST_WORKERS, "num_threads")
        checks.check_at_least(self, 0, "seed")
        checks.check_device(self)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """`vbon generate`: sample from a model, or take the best of N of its samples."""

    model: str
    """Model: a run, a local directory or a hub id."""
    prompts: str
    """Prompts: a JSONL, Parquet, CSV or text file, or a hub dataset id."""
    best_of: int | None = None
    """Draw this many for each completion and keep the one with the highest reward; needs --reward."""
    reward: str | None = None
    """Reward, spelled as for `vbon collect`; without --best-of it is only reported."""
    num_samples: int = 1
    """Completions per prompt."""
    out: str | None = None
    """JSONL file to write; default: standard output."""
    temperature: float | None = None
    """Sampling temperature; default: the model's generation_config.json."""
    max_new_tokens: int | None = None
    """Longest completion, in tokens; default: the model's generation_config.json."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a completion, in addition to the end-of-sequence ids of the model and of its tokenizer."""
    prompt_column: str = "prompt"
    """Column that holds the prompt: a string or a list of chat messages."""
    limit: int | None = None
    """Read only this many prompts."""
    batch_size: int = 256
    """Completions sampled at a time."""
    reward_batch_size: int = 64
    """Completions scored at a time."""
    reward_timeout: float = 60.0
    """Seconds to wait for one batch of a Python function or one HTTP request; a classifier has no limit."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER. auto is cuda where there is a CUDA device, otherwise cpu (never mps)."""
    dtype: Dtype = "float32"
    """Floating-point type of the weights."""
    seed: int = 0
    """Seed of the samples."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "model", "prompts", "reward", "out", "prompt_column")
        checks.check_above(self, 0, "temperature", "reward_timeout")
        checks.check_at_least(
            self, 1, "best_of", "num_samples", "max_new_tokens", "limit", "batch_size", "reward_batch_size"
        )
        checks.check_at_least(self, 0, "seed")
        checks.check_each_at_least(self, 0, "stop_token_ids")
        checks.check_device(self)
        if self.best_of is not None and self.reward is None:
            raise VbonError("--best-of needs --reward, which chooses the best")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """`vbon report`: one self-contained HTML page from runs and evaluations."""

    dirs: tuple[str, ...] = field(metadata={"positional": "DIR"})
    """Directories of runs and evaluations."""
    out: str = "report.html"
    """HTML file to write."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        if not self.dirs:
            raise VbonError("report needs at least one DIR, as in: vbon report runs/n8 eval --out report.html")
        checks.check_text(self, "out")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """`vbon demo`: every stage with small models on a review corpus of its own; it downloads nothing."""

    out: str = "runs/demo"
    """Directory for everything that the demo makes."""
    seed: int = 0
    """Seed of the corpus, the models and the samples."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "out")
        checks.check_at_least(self, 0, "seed")
