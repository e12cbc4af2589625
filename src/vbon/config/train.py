"""Config of `vbon train`."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import checks
from vbon.config.methods import DEFAULTS, METHODS, MethodName, method_of, resolved
from vbon.config.pool import Dtype
from vbon.errors import VbonError

Objective = Literal["auto", "vbon", "vbon-bound", "reward", "quantile", "bond"]
Algorithm = Literal["auto", "ppo", "rloo", "grpo", "offline"]
OfflineLoss = Literal["auto", "weighted-sft", "sft", "regression", "listwise", "dpo", "bonbon"]
KlEstimator = Literal["auto", "k1", "k3", "full"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`vbon train`: train a policy towards best-of-N of the reference model that made the pool."""

    pool: str
    """Pool of scored reference samples (`vbon collect` or `vbon import`)."""
    model: str
    """Reference model, which is also where training starts: a local directory or a hub id."""
    reward: str
    """Reward, spelled as for `vbon collect`; it must be the one that scored the pool."""
    n: float
    """N of best-of-N: any real number greater than 1."""
    out: str
    """Directory of the run: a plain model directory, with logs and checkpoints under vbon/."""
    method: MethodName | None = None
    """The method by name, which chooses objective, algorithm and offline loss; default: vbon.
    best-of-n trains nothing and is an error here."""
    objective: Objective = "auto"
    """vbon: −KL(π_θ‖π_bon). vbon-bound: the paper's (N−1)·log F. reward: the reward itself. quantile: its rank."""
    algorithm: Algorithm = "auto"
    """ppo: a critic. rloo: a leave-one-out baseline. grpo: the KL in the loss. offline: pool samples, no rollouts."""
    warm_start: Literal["auto", "none", "offline", "critic"] = "auto"
    """On the pool's samples, first. offline: the policy, by the objective's own weights. critic: ppo's critic alone,
    for long and varied completions (with a gae-lambda of 0.5). auto: offline for the objectives that lead to
    best-of-N, where the pool has enough samples and their token ids; otherwise none."""
    tie_rule: Literal["random", "order"] = "random"
    """How equal rewards are ranked: broken at random, or by a fixed order of the completions."""
    refine_tail: bool = False
    """Let the policy's samples refine the upper tail of each prompt's F, for N near M and past it."""
    kl_coef: float | None = None
    """KL coefficient of kl-rl, quantile and dpo; default 1/(N−1), where the other methods fix it."""
    prompts: str | None = None
    """Train on the pool's prompts that are also in this file; default: all of them."""

    rounds: int = 1
    """Train this often, each time from a fresh pool of the last result: N compounds to N^rounds, also past M."""
    num_iterations: int = 150
    """Iterations of: roll out, score, update."""
    max_seconds: float | None = None
    """Stop after the first iteration, or step on the pool, past so many seconds of rollouts and updates."""
    rollouts_per_iteration: int = 256
    """Completions sampled in each iteration."""
    samples_per_prompt: int = 8
    """Completions of one prompt among them; rloo compares these with each other."""
    num_epochs: int = 2
    """Passes over the rollouts of an iteration."""
    minibatch_size: int = 64
    """Completions per optimiser step."""
    learning_rate: float | None = None
    """Learning rate of the policy; default by its hidden size: 8e-4 at 32, 1e-4 at 128, from there 0.0128 / size."""
    critic: Literal["separate", "shared"] = "separate"
    """ppo's critic: separate has a trunk of its own; shared is a head on the policy's: one forward pass for both."""
    critic_layers: int | None = None
    """Layers of a separate critic, the model's first so many; default: half of them, at half the cost."""
    critic_learning_rate: float | None = None
    """Learning rate of the critic, or of its head where it is shared (ppo); default: the policy's."""
    lr_schedule: Literal["linear", "constant", "cosine"] = "linear"
    """How the learning rate falls: to 0 linearly or as a cosine, or not at all."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    clip_range: float = 0.2
    """The probability ratio of a token is clipped to 1 ± this."""
    value_clip_range: float = 0.2
    """The critic moves by no more than this from its value at the rollout."""
    value_coef: float = 1.0
    """Weight of the critic's loss."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation; 1 is Monte Carlo."""
    kl_estimator: KlEstimator = "auto"
    """k1: log-ratio of the sampled token; ends nearer (docs/experiments.md). full: over the vocabulary. k3: grpo's."""
    refresh_kl: bool = True
    """Take the KL part of each advantage at the current policy in every minibatch, not once at the rollout."""
    advantage_clip: float = 10.0
    """Advantages, in nats (divided by the KL coefficient), are bounded by ± this."""
    whiten_advantages: bool = False
    """Scale advantages to unit variance in every minibatch, as common PPO does, instead of keeping them in nats."""

    offline_loss: OfflineLoss = "auto"
    """Loss on the pool's samples, for `algorithm offline` and `warm-start offline`."""
    offline_steps: int | None = None
    """Optimiser steps on the pool's samples; default: 200, but at most 8 passes over the samples that weigh
    (with --warm-start critic: at most 2 passes over all samples)."""
    offline_learning_rate: float | None = None
    """Learning rate of these steps; default: 0.128 / hidden size."""
    offline_batch_size: int = 256
    """Completions in each of these steps."""

    validation_fraction: float = 0.1
    """Share of the prompts kept out of training, to choose the checkpoint and to see a plateau."""
    validation_every: int = 25
    """Iterations between two validations."""
    checkpoint_every: int = 50
    """Iterations between two checkpoints."""
    keep_checkpoints: int = 2
    """Latest checkpoints to keep."""
    resume: bool = False
    """Go on from the last checkpoint in the run's directory."""

    temperature: float | None = None
    """Sampling temperature; default: the pool's."""
    max_new_tokens: int | None = None
    """Longest completion, in tokens; default: the pool's."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a completion, in place of the pool's; default: the pool's, otherwise the model's."""
    reward_batch_size: int = 64
    """Completions scored at a time."""
    reward_timeout: float = 60.0
    """Seconds to wait for one batch of a Python function or one HTTP request; a classifier has no limit."""
    allow_mismatch: tuple[str, ...] = field(default=(), metadata={"repeat": True})
    """Train although this field of the pool's fingerprint differs (repeatable)."""

    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all weights. Needs the extra `peft`."""
    lora_alpha: float = 16.0
    """Scale of the adapters."""
    lora_target_modules: tuple[str, ...] = ()
    """Modules that get adapters; default: peft's choice for the architecture."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER. auto is cuda where there is a CUDA device, otherwise cpu (never mps)."""
    dtype: Dtype = "float32"
    """Floating-point type of the weights."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16: products in bfloat16 (autocast), while weights, moments and losses stay float32. auto: as `accelerate
    launch` says, otherwise no."""
    num_threads: int | None = None
    """CPU threads; default: torch's choice."""
    seed: int = 0
    """Seed of everything that is drawn."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where curves go besides vbon/metrics.jsonl; tensorboard (extra `tracking`) only where it is installed."""
    push_to_hub: str | None = None
    """Upload the finished run to this hub repository, OWNER/NAME, private where it is new; checkpoints stay here."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""

    def __post_init__(self) -> None:
        """Fill in what is `auto`, so that a config says what runs."""
        for name, value in resolved(self._choices(), self.method).items():
            object.__setattr__(self, name, value)

    def _choices(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in DEFAULTS}

    @property
    def method_name(self) -> MethodName:
        """The method that this is, named or not."""
        return self.method or method_of(self._choices()) or "vbon"

    @property
    def targets_best_of_n(self) -> bool:
        """Whether the method leads to best-of-N or close to it; the others have optima of their own."""
        return METHODS[self.method_name].optimum in ("best-of-n", "near best-of-n")

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        _check_ranges(self)
        _check_method(self)
        _check_objective(self)
        _check_rollouts(self)


_POSITIVE = (
    "temperature",
    "learning_rate",
    "critic_learning_rate",
    "offline_learning_rate",
    "max_grad_norm",
    "clip_range",
    "value_clip_range",
    "advantage_clip",
    "lora_alpha",
    "reward_timeout",
    "max_seconds",
)
_COUNTS = (
    "rounds",
    "num_iterations",
    "rollouts_per_iteration",
    "samples_per_prompt",
    "num_epochs",
    "minibatch_size",
    "offline_steps",
    "offline_batch_size",
    "validation_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_new_tokens",
    "reward_batch_size",
    "num_threads",
    "critic_layers",
)


def _check_ranges(config: TrainConfig) -> None:
    checks.check_text(config, "pool", "model", "reward", "out", "prompts")
    checks.check_above(config, 1, "n")
    checks.check_above(config, 0, *_POSITIVE)
    checks.check_at_least(config, 1, *_COUNTS)
    checks.check_at_most(config, checks.MOST_WORKERS, "num_threads")
    checks.check_at_least(config, 0, "seed", "lora_rank", "value_coef", "kl_coef")
    checks.check_fraction(config, "validation_fraction")
    checks.check_each_at_least(config, 0, "stop_token_ids")
    checks.check_device(config)
    checks.check_repository(config, "push_to_hub")
    if not 0 <= config.gae_lambda <= 1:
        raise checks.refuse("gae_lambda", config.gae_lambda, "between 0 and 1")


def _check_method(config: TrainConfig) -> None:
    if config.method is None:
        return
    if not METHODS[config.method].trained:
        raise VbonError(f"--method {config.method} trains nothing: sample it with vbon generate --best-of {config.n:g}")
    for name, allowed in METHODS[config.method].choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise VbonError(
                f"--method {config.method} does not go with {checks.flag(name)} {value}: "
                f"it takes {' or '.join(allowed)}; leave one of the two out"
            )


def _check_objective(config: TrainConfig) -> None:
    named = f"--method {config.method}" if config.method else f"--objective {config.objective}"
    if config.algorithm == "offline" and config.objective != "vbon":
        raise VbonError(f"--algorithm offline trains --objective vbon only, not {config.objective}")
    if config.refine_tail and (config.algorithm == "offline" or config.tie_rule == "order"):
        raise VbonError("--refine-tail needs rollouts and --tie-rule random: leave it, or the other, out")
    if config.algorithm == "offline" and config.warm_start == "offline":
        raise VbonError("--warm-start offline does not go with --algorithm offline, which is that already")
    if config.warm_start == "critic" and config.critic == "shared":
        raise VbonError("--warm-start critic fits a critic of its own: leave --critic shared out")
    if config.critic_layers is not None and (config.critic == "shared" or config.algorithm != "ppo"):
        raise VbonError("--critic-layers cuts the separate critic of --algorithm ppo: leave it out")
    if config.warm_start == "critic" and not (config.algorithm == "ppo" and config.targets_best_of_n):
        raise VbonError(
            "--warm-start critic fits the critic of --algorithm ppo to best-of-N: it goes with nothing else"
        )
    if method_of({name: getattr(config, name) for name in DEFAULTS}) is None:
        raise VbonError(
            f"--objective {config.objective}, --algorithm {config.algorithm}, --offline-loss {config.offline_loss} and "
            f"--kl-estimator {config.kl_estimator} are no method together; choose one by --method"
        )
    method = METHODS[config.method_name]
    if config.kl_coef is not None and method.knob != "kl_coef":
        raise VbonError(
            f"--kl-coef does not go with {named}, which fixes it at 1/(N-1): "
            "leave it out and choose --n, or use --method kl-rl"
        )
    if method.whole_n and config.n % 1:
        raise VbonError(f"--n is {config.n}, but {config.method_name} takes whole sets of N from the pool: an integer")


def _check_rollouts(config: TrainConfig) -> None:
    if config.algorithm == "offline":
        return
    if config.rollouts_per_iteration % config.samples_per_prompt:
        raise VbonError(
            f"--rollouts-per-iteration {config.rollouts_per_iteration} is not a multiple of "
            f"--samples-per-prompt {config.samples_per_prompt}"
        )
    if config.algorithm in ("rloo", "grpo") and config.samples_per_prompt < 2:
        raise VbonError(
            f"--algorithm {config.algorithm} compares samples of one prompt: --samples-per-prompt must be at least 2"
        )
