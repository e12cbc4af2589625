"""Types of config fields. A type carries the rules for its values, and the help text of a setting that verbs share.

`batch_size: types.Count | None = None` declares a number of at least 1. `device: types.Device = "auto"` also takes its
help from here. A string under a field of a config is that field's own help and comes first.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

LARGEST = 2**32 - 1
"""The largest whole number that every field takes: no count exceeds it, and every library accepts it as a seed."""
MAX_WORKERS = 1024
"""The largest number of threads or processes: with far more, a process ends before it can report an error."""


@dataclass(frozen=True)
class Rule:
    """A condition on a value. `want` completes the sentence "--flag is VALUE, but must be …"."""

    holds: Callable[[Any], bool]
    want: str


@dataclass(frozen=True)
class Help:
    """The help text of a shared setting, and the placeholder of its value, as in `--pool DIR`."""

    text: str = ""
    placeholder: str | None = None


def at_least(minimum: int) -> Rule:
    return Rule(lambda value: value >= minimum, f"at least {minimum}")


def at_most(maximum: int) -> Rule:
    return Rule(lambda value: value <= maximum, f"at most {maximum}")


def above(bound: int) -> Rule:
    return Rule(lambda value: value > bound, f"greater than {bound}")


def matching(pattern: str, want: str) -> Rule:
    return Rule(lambda value: re.fullmatch(pattern, value) is not None, want)


Count = Annotated[int, at_least(1)]
NonNegative = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
Probability = Annotated[float, Rule(lambda value: 0 <= value <= 1, "between 0 and 1")]
Share = Annotated[float, Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")]
BestOf = Annotated[float, above(1)]
Weight = Annotated[float, at_least(0)]
Repository = Annotated[
    str, matching(r"[\w.-]+/[\w.-]+", "a hub repository, OWNER/NAME"), Help(placeholder="OWNER/NAME")
]
Workers = Annotated[Count, at_most(MAX_WORKERS)]
Directory = Annotated[str, Help(placeholder="DIR")]
File = Annotated[str, Help(placeholder="FILE")]

Tilt = Annotated[
    str,
    matching(
        r"best|worst|poisson|capped:0*\.\d*[1-9]\d*|kth:[1-9]\d*",
        "best, worst, poisson, capped:QUANTILE (between 0 and 1) or kth:K",
    ),
    Help(
        "Density of the reward's rank towards which the reference is tilted. best: best-of-N. worst: worst-of-N, for "
        "red teaming. poisson: the best of 1 + Poisson(N-1) samples. capped:Q: best-of-N whose density is constant "
        "above the quantile Q, against an exploited reward. kth:K: the K-th best of N.",
        "best|worst|poisson|capped:Q|kth:K",
    ),
]

Tail = Annotated[
    Literal["counts", "exponential"],
    Help(
        "Ranks above the largest rewards of the pool. counts: as many samples as there are below. exponential: an "
        "exponential tail above the √M-th largest reward, for N close to M or above it. Only for rewards without "
        "ties, where it is no longer true that a monotone map of the reward changes nothing."
    ),
]

# Settings that several verbs share.
Model = Annotated[str, Help("Model: a directory (also of adapters), a hub id or a GGUF file.", "MODEL")]
RewardSpec = Annotated[
    str,
    Help(
        "Reward: a classifier (a directory or a hub id; PATH#LABEL picks one of several logits), file.py:function, "
        "module:function, http://…, or builtin:NAME.",
        "REWARD",
    ),
]
Prompts = Annotated[str, Help("Prompts: a JSONL, Parquet, CSV or text file, or a hub dataset id.", "FILE")]
PromptColumn = Annotated[
    str, Help("Column of --prompts that holds the prompt: a string or a list of chat messages.", "NAME")
]
Columns = Annotated[str, Help("Other columns of --prompts to keep and pass to the reward. Default: all.", "NAME")]
PromptLimit = Annotated[Count, Help("Read only this many prompts, for a quick trial.")]
StopTokens = Annotated[
    NonNegative,
    Help("Token ids that end a completion, in addition to the end-of-sequence ids of model and tokenizer.", "ID"),
]
CombineWith = Annotated[
    tuple[str, ...],
    Help("Pool of the same samples under another reward. Ranks are combined with --pool's. May be repeated.", "DIR"),
]
CombineRewards = Annotated[
    tuple[str, ...],
    Help("Reward of each --combine-with, in their order. Default: the one recorded in that pool.", "REWARD"),
]
Combine = Annotated[
    Literal["mean", "worst", "lexicographic"],
    Help(
        "Rank of a completion under several rewards: the mean or the worst of its ranks; or all in order, "
        "so that a later one decides between equals."
    ),
]
RewardBatch = Annotated[Count, Help("Completions scored at a time. Lower it if a reward model runs out of memory.")]
RewardConcurrency = Annotated[
    Workers, Help("HTTP requests to the reward at the same time. Set it to what its server handles in parallel.")
]
RewardTimeout = Annotated[
    float,
    above(0),
    Help(
        "Seconds to wait for one batch of a Python function or one HTTP request. Raise it if the reward is slow. A "
        "classifier has no limit.",
        "SECONDS",
    ),
]
Opponents = Annotated[
    Count,
    Help("Samples that a completion meets under a pairwise reward, k. More opponents make finer ranks and cost more."),
]
JudgeOrders = Annotated[
    Literal["both", "one"],
    Help("Ask a pairwise judge in both orders, so that a preference for the first place cancels, or in one, for half."),
]
MaxComparisons = Annotated[
    Count, Help("Stop after this many questions to a pairwise judge. They are kept: the same command continues.")
]
Device = Annotated[
    str,
    matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:NUMBER"),
    Help("auto, cpu, cuda or cuda:NUMBER. auto is a GPU where CUDA finds one, otherwise the CPU.", "NAME"),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    Help("Floating-point type of the weights. bfloat16 halves the memory that they need."),
]
RewardDtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    Help("Floating-point type of a reward model's weights. bfloat16 halves their memory, and more rewards tie."),
]
Threads = Annotated[Workers, Help("CPU threads. Default: torch's choice. Lower it if the machine is shared.")]
TrustRemoteCode = Annotated[
    bool, Help("Run Python code that comes with a model. Only for models whose code you have read.")
]
AllowedMismatch = Annotated[
    str,
    Help(
        "Continue although this field differs from the pool's: model, tokenizer, chat_template, temperature, "
        "max_new_tokens, stop or reward. May be repeated.",
        "FIELD",
    ),
]


def combining_conflict(config: Any) -> tuple[bool, str]:
    """Whether the flags that combine rewards do not fit each other, and the error."""
    given, pools = len(config.combine_rewards), len(config.combine_with)
    if pools and any((spec or "").startswith("pairwise:") for spec in (config.reward, *config.combine_rewards)):
        return True, "--combine-with: a pairwise reward cannot be combined; it ranks among k opponents, not all samples"
    return (
        given not in (0, pools),
        f"--combine-reward is given {given} times for {pools} of --combine-with; name the reward of each pool, or none",
    )
