"""Config of `vbon train`."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import checks
from vbon.config.pool import Dtype
from vbon.errors import VbonError

Objective = Literal["vbon", "vbon-bound", "reward", "quantile"]
Algorithm = Literal["ppo", "rloo", "offline"]


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
    objective: Objective = "vbon"
    """vbon: −KL(π_θ‖π_bon). vbon-bound: the paper's (N−1)·log F. reward: the reward itself. quantile: its rank."""
    algorithm: Algorithm = "rloo"
    """ppo: with a critic. rloo: leave-one-out baseline, no critic. offline: on the pool's samples, no rollouts."""
    warm_start: Literal["auto", "none", "offline"] = "auto"
    """offline: train on the pool's samples before the online iterations. auto: where the pool has enough of them."""
    tie_rule: Literal["random", "order"] = "random"
    """How equal rewards are ranked: broken at random, or by a fixed order of the completions."""
    kl_coef: float | None = None
    """KL coefficient for the objectives reward and quantile; default 1/(N−1). The vbon objectives fix it there."""
    prompts: str | None = None
    """Train on the pool's prompts that are also in this file; default: all of them."""

    num_iterations: int = 150
    """Iterations of: roll out, score, update."""
    rollouts_per_iteration: int = 256
    """Completions sampled in each iteration."""
    samples_per_prompt: int = 8
    """Completions of one prompt among them; rloo compares these with each other."""
    num_epochs: int = 2
    """Passes over the rollouts of an iteration."""
    minibatch_size: int = 64
    """Completions per optimiser step."""
    learning_rate: float | None = None
    """Learning rate of the policy; default: 0.0128 / hidden size, which is 1e-4 at 128 and 1.7e-5 at 768."""
    critic_learning_rate: float | None = None
    """Learning rate of the critic (ppo); default: the policy's."""
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
    kl_estimator: Literal["k1", "full"] = "k1"
    """k1: log-ratio of the sampled token; ends nearer (docs/experiments.md). full: KL over the vocabulary."""
    refresh_kl: bool = True
    """Take the KL part of each advantage at the current policy in every minibatch, not once at the rollout."""
    advantage_clip: float = 10.0
    """Advantages, in nats (divided by the KL coefficient), are bounded by ± this."""
    whiten_advantages: bool = False
    """Scale advantages to unit variance in every minibatch, as common PPO does, instead of keeping them in nats."""

    offline_loss: Literal["weighted-sft", "regression", "listwise"] = "weighted-sft"
    """Loss on the pool's samples, for `algorithm offline` and `warm-start offline`."""
    offline_steps: int | None = None
    """Optimiser steps on the pool's samples; default: 200, or 8 passes over the samples that weigh where fewer."""
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
    """Token ids that end a completion; default: the pool's."""
    reward_batch_size: int = 64
    """Completions scored at a time."""
    reward_timeout: float = 60.0
    """Seconds to wait for the reward of one batch."""
    allow_mismatch: tuple[str, ...] = field(default=(), metadata={"repeat": True})
    """Train although this field of the pool's fingerprint differs (repeatable)."""

    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all weights. Needs the extra `peft`."""
    lora_alpha: float = 16.0
    """Scale of the adapters."""
    lora_target_modules: tuple[str, ...] = ()
    """Modules that get adapters; default: peft's choice for the architecture."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER."""
    dtype: Dtype = "float32"
    """Floating-point type of the weights."""
    num_threads: int | None = None
    """CPU threads; default: torch's choice."""
    seed: int = 0
    """Seed of everything that is drawn."""
    tracker: Literal["tensorboard", "none"] = "tensorboard"
    """Where curves go besides vbon/metrics.jsonl; tensorboard is used where it is installed (extra `tracking`)."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""

    @property
    def targets_best_of_n(self) -> bool:
        """Whether the objective leads to best-of-N; the others have optima of their own."""
        return self.objective.startswith("vbon")

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        _check_ranges(self)
        _check_objective(self)
        _check_rollouts(self)


_POSITIVE = ("temperature", "learning_rate", "critic_learning_rate", "offline_learning_rate", "max_grad_norm",
             "clip_range", "value_clip_range", "advantage_clip", "lora_alpha", "reward_timeout")  # fmt: skip
_COUNTS = ("num_iterations", "rollouts_per_iteration", "samples_per_prompt", "num_epochs", "minibatch_size",
           "offline_steps", "offline_batch_size", "validation_every", "checkpoint_every", "keep_checkpoints",
           "max_new_tokens", "reward_batch_size", "num_threads")  # fmt: skip


def _check_ranges(config: TrainConfig) -> None:
    checks.check_text(config, "pool", "model", "reward", "out", "prompts")
    checks.check_above(config, 1, "n")
    checks.check_above(config, 0, *_POSITIVE)
    checks.check_at_least(config, 1, *_COUNTS)
    checks.check_at_least(config, 0, "seed", "lora_rank", "value_coef", "kl_coef")
    checks.check_fraction(config, "validation_fraction")
    checks.check_each_at_least(config, 0, "stop_token_ids")
    checks.check_device(config)
    if not 0 <= config.gae_lambda <= 1:
        raise checks.refuse("gae_lambda", config.gae_lambda, "between 0 and 1")


def _check_objective(config: TrainConfig) -> None:
    if config.kl_coef is not None and config.targets_best_of_n:
        raise VbonError(
            f"--kl-coef does not go with --objective {config.objective}, which fixes it at 1/(N-1): "
            "leave it out and choose --n, or use --objective reward"
        )
    if config.algorithm == "offline" and config.objective != "vbon":
        raise VbonError(f"--algorithm offline trains --objective vbon only, not {config.objective}")
    if config.algorithm == "offline" and config.warm_start == "offline":
        raise VbonError("--warm-start offline does not go with --algorithm offline, which is that already")


def _check_rollouts(config: TrainConfig) -> None:
    if config.algorithm == "offline":
        return
    if config.rollouts_per_iteration % config.samples_per_prompt:
        raise VbonError(
            f"--rollouts-per-iteration {config.rollouts_per_iteration} is not a multiple of "
            f"--samples-per-prompt {config.samples_per_prompt}"
        )
    if config.algorithm == "rloo" and config.samples_per_prompt < 2:
        raise VbonError("--algorithm rloo compares samples of one prompt: --samples-per-prompt must be at least 2")
