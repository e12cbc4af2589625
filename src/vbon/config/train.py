"""Config of `vbon train`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vbon.config import types
from vbon.config.fields import check_fields, flag
from vbon.config.methods import DEFAULTS, METHODS, MethodName, method_of, resolved
from vbon.errors import VbonError

Objective = Literal["auto", "vbon", "vbon-bound", "reward", "quantile", "bond"]
Algorithm = Literal["auto", "ppo", "rloo", "residual", "grpo", "offline"]
OfflineLoss = Literal["auto", "weighted-sft", "sft", "regression", "listwise", "dpo", "bonbon"]
KlEstimator = Literal["auto", "k1", "k3", "full"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of `vbon train`, which trains a policy towards best-of-N of the model that made the pool."""

    GROUPS = (
        ("common", "method algorithm warm_start gae_lambda num_iterations learning_rate lora_rank mixed_precision"),
        ("objective", "objective tilt tie_rule tail refine_tail kl_coef kl_estimator refresh_kl rounds"),
        ("several rewards", "combine_with combine_rewards combine"),
        ("rollouts", "rollouts_per_iteration samples_per_prompt prompts temperature max_new_tokens stop_token_ids"),
        (
            "updates",
            "num_epochs minibatch_size buffer_iterations lr_schedule max_grad_norm clip_range advantage_clip "
            "whiten_advantages",
        ),
        ("critic of ppo", "critic critic_layers critic_learning_rate value_clip_range value_coef"),
        ("training on the pool", "offline_loss offline_steps offline_learning_rate offline_batch_size"),
        (
            "validation and checkpoints",
            "validation_fraction validation_every checkpoint_every keep_checkpoints max_seconds seed",
        ),
        (
            "reward and pool",
            "model reward reward_batch_size reward_concurrency reward_dtype reward_timeout opponents judge_orders "
            "max_comparisons allow_mismatch",
        ),
        ("LoRA", "lora_alpha lora_target_modules adapter_only"),
        ("search for a fault", "save_rollouts replay"),
        (
            "machine and tracking",
            "device dtype gradient_checkpointing num_threads tracker push_to_hub trust_remote_code dry_run",
        ),
    )

    pool: types.Directory
    """Pool of scored reference samples, made by `vbon collect` or `vbon import`."""
    model: types.Model | None = None
    """Reference model, where training starts. Default: the one that made the pool."""
    reward: types.RewardSpec | None = None
    """Reward that scored the pool, spelled as for `vbon collect`. Default: as the pool says."""
    n: types.BestOf
    """N of best-of-N: any number greater than 1. A larger N moves the policy further from the reference."""
    out: types.Directory
    """Directory of the run: a model directory, with logs and checkpoints under vbon/. Run the same command again to
    continue a run that was interrupted."""
    method: Annotated[MethodName, types.Help(placeholder="METHOD")] | None = None
    """Training method, from the list below. Change it to compare methods. Default: vbon."""
    objective: Objective = "auto"
    """Quantity to maximise; --method sets it. vbon: −KL(π_θ‖π_bon). vbon-bound: the paper's (N−1)·log F. reward: the
    reward. quantile: its rank. bond: the objective of BOND."""
    algorithm: Algorithm = "auto"
    """ppo uses a critic, rloo a leave-one-out baseline, grpo a KL term in the loss; residual fits log π_θ/π_ref to
    log W on the rollouts of many iterations; offline learns from the pool and needs no rollouts. Choose ppo for long
    or varied completions. auto: as --method says; otherwise residual if completions recur in the pool, else rloo."""
    warm_start: Literal["auto", "none", "offline", "critic"] = "auto"
    """Part to fit to the pool before the first rollout. offline: the policy, good for short, repetitive completions.
    critic: only the critic of ppo, good for ordinary text with --gae-lambda 0.5. auto: offline if the method leads to
    best-of-N and the pool has enough samples with token ids."""
    combine_with: types.CombineWith = field(default=(), metadata={"repeat": True})
    combine_rewards: types.CombineRewards = field(default=(), metadata={"flag": "combine-reward", "repeat": True})
    combine: types.Combine = "mean"
    tilt: types.Tilt = "best"
    tie_rule: Literal["random", "order"] = "random"
    """Ranking of equal rewards: at random, or by a fixed order of the completions."""
    tail: types.Tail = "counts"
    refine_tail: bool = False
    """Also estimate the top ranks from the policy's own samples. For a pool with M close to or below N. It costs a
    forward pass over the pool's samples per prompt and iteration."""
    kl_coef: types.Positive | None = None
    """KL coefficient of the methods kl-rl, quantile and dpo. Default: 1/(N−1), which every other method fixes."""
    prompts: types.File | None = None
    """Train only on the pool's prompts that are also in this file, in a column `prompt`. Default: all."""

    rounds: types.Count = 1
    """Repeat collecting and training this often, each round from the last result. N compounds to N^rounds, also beyond
    the pool's M."""
    num_iterations: types.Count = 150
    """Iterations of sampling, scoring and updating. Raise it if the validation objective still improves at the end: the
    same command with a larger number extends a finished run."""
    max_seconds: types.Positive | None = None
    """Time limit of rollouts and updates; validation and checkpoints do not count. The run finishes its iteration,
    then validates and saves. The same command with a larger limit continues it."""
    rollouts_per_iteration: types.Count = 256
    """Completions sampled per iteration, as many at a time as memory holds."""
    samples_per_prompt: types.Count = 8
    """Completions that share a prompt. It must divide --rollouts-per-iteration; rloo compares them with each other."""
    num_epochs: types.Count = 2
    """Passes over the rollouts of an iteration."""
    minibatch_size: types.Count = 64
    """Completions per optimiser step, in as many forward and backward passes as memory asks for."""
    buffer_iterations: types.Count = 20
    """Iterations whose rollouts --algorithm residual trains on, the present one among them."""
    learning_rate: types.Positive | None = None
    """Learning rate of the policy. Default: 0.0128 / hidden size, for example 1.7e-5 at 768; larger for models narrower
    than 128, and three times that with --algorithm residual. The default is meant for training all weights; LoRA
    usually needs a larger one."""
    critic: Literal["separate", "shared"] = "separate"
    """Critic of ppo. separate: a network of its own. shared: a head on the policy, cheaper and less accurate."""
    critic_layers: types.Count | None = None
    """Layers of a separate critic, counted from the input of the model. Default: half of them, at half the cost."""
    critic_learning_rate: types.Positive | None = None
    """Learning rate of the critic, or of its head if it is shared. Default: the policy's."""
    lr_schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Decay of the learning rate over --num-iterations: to 0 linearly, to 0 as a cosine, or none. A run that is
    extended continues on the schedule of the larger number, so its learning rate rises once, where it is extended."""
    max_grad_norm: types.Positive = 1.0
    """Largest norm of the gradients, which are scaled down to it."""
    clip_range: types.Positive = 0.2
    """Clip a token's probability ratio to 1 ± this."""
    value_clip_range: types.Positive = 0.2
    """Clip the change of the critic's values since the rollout to ± this."""
    value_coef: types.Weight = 1.0
    """Weight of the critic's loss."""
    gae_lambda: types.Probability = 0.95
    """λ of generalised advantage estimation, for ppo; 1 is Monte Carlo. Use 0.5 with --warm-start critic."""
    kl_estimator: KlEstimator = "auto"
    """Estimator of the KL per token. k1: from the sampled token. full: over the vocabulary, which was slower and
    less accurate in our experiments. k3: for grpo. auto: k1, or k3 for grpo."""
    refresh_kl: bool = True
    """Recompute the KL term with the current policy in every minibatch. Turn it off for textbook PPO."""
    advantage_clip: types.Positive = 10.0
    """Clip advantages to ± this many nats."""
    whiten_advantages: bool = False
    """Scale advantages to unit variance in every minibatch, as is common in PPO, instead of keeping them in nats."""

    offline_loss: OfflineLoss = "auto"
    """Loss on the pool's samples, for --algorithm offline and --warm-start offline; --method sets it. auto:
    weighted-sft."""
    offline_steps: types.Count | None = None
    """Optimiser steps on the pool. Default: 200, but at most 8 passes over the samples with weight (2 passes over all
    samples with --warm-start critic)."""
    offline_learning_rate: types.Positive | None = None
    """Learning rate of these steps. Default: 0.128 / hidden size."""
    offline_batch_size: types.Count = 256
    """Completions per step on the pool."""

    validation_fraction: types.Share = 0.1
    """Share of the prompts that is held out to choose the final checkpoint: the latest within one standard error of the
    best."""
    validation_every: types.Count = 25
    """Iterations between two validations."""
    checkpoint_every: types.Count = 50
    """Iterations between two checkpoints."""
    keep_checkpoints: types.Count = 2
    """Number of latest checkpoints to keep."""

    save_rollouts: bool = False
    """Write the rollouts of every iteration to vbon/rollouts before the update. --replay also needs the checkpoint of
    that moment: add --checkpoint-every 1 and enough --keep-checkpoints."""
    replay: types.File | None = None
    """Train nothing: repeat the update of these rollouts, from the checkpoint of their iteration in --out, and compare
    the weights with the run's. Other settings than the run's show what they change."""

    temperature: types.Positive | None = None
    """Sampling temperature. Only for imported pools without one. Default: the pool's."""
    max_new_tokens: types.Count | None = None
    """Longest completion, in tokens. Only for imported pools without one. Default: the pool's."""
    stop_token_ids: tuple[types.NonNegative, ...] = ()
    """Further token ids that end a completion, as in vbon collect. Default: the pool's, otherwise the model's."""
    reward_batch_size: types.RewardBatch = 64
    reward_concurrency: types.RewardConcurrency = 4
    reward_dtype: types.RewardDtype = "float32"
    opponents: types.Opponents = 16
    judge_orders: types.JudgeOrders = "both"
    max_comparisons: types.MaxComparisons | None = None
    reward_timeout: types.RewardTimeout = 60.0
    allow_mismatch: tuple[types.AllowedMismatch, ...] = field(default=(), metadata={"repeat": True})
    """Train although this field differs from the pool's: model, tokenizer, chat_template, temperature, max_new_tokens,
    stop or reward; or although the pool fails the rank_test. May be repeated."""

    gradient_checkpointing: bool = False
    """Keep only the inputs of layers for the gradient, and compute the rest again: about a third more time for much
    longer micro-batches. Set it if training runs out of memory although micro-batches are down to single rows."""
    lora_rank: types.NonNegative = 0
    """Rank of LoRA adapters; 0 trains all weights. Set it, for example to 16, if the optimiser does not fit in memory.
    Needs peft."""
    lora_alpha: types.Positive = 16.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    lora_target_modules: tuple[str, ...] = ()
    """Modules that get adapters. Default: peft's choice for the architecture."""
    adapter_only: bool = False
    """Save the adapters alone, a few megabytes, instead of the model with them merged into its weights. Every verb
    takes the run's directory as a model, as long as its reference is where it was."""

    device: types.Device = "auto"
    dtype: types.Dtype = "float32"
    """Floating-point type of the weights. Keep float32 to train all weights: bfloat16 rounds small updates to zero."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16 computes matrix products in bfloat16 and keeps weights in float32. auto: the setting of `accelerate launch`,
    otherwise no."""
    num_threads: types.Threads | None = None
    seed: types.NonNegative = 0
    """Seed of everything random in the run."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Destination of the curves besides vbon/metrics.jsonl. tensorboard is skipped if it is not installed."""
    push_to_hub: types.Repository | None = None
    """Upload the finished run, without checkpoints, to this hub repository. A new repository is private."""
    trust_remote_code: types.TrustRemoteCode = False
    dry_run: bool = False
    """Show what the run will hold in memory and on the disk, and the flags that help if it does not fit; load no
    weights, train nothing."""

    def __post_init__(self) -> None:
        """Replace each `auto` that a method decides, so that the config names what runs."""
        for name, value in resolved(self._choices(), self.method).items():
            object.__setattr__(self, name, value)

    def _choices(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in DEFAULTS}

    @property
    def method_name(self) -> MethodName:
        """The name of the method, whether it was given or follows from the other fields."""
        return self.method or method_of(self._choices()) or "vbon"

    @property
    def targets_best_of_n(self) -> bool:
        """True if the optimum of the method is best-of-N or close to it."""
        return METHODS[self.method_name].optimum in ("best-of-n", "near best-of-n")

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        _check_method(self)
        for is_wrong, message in _conflicts(self):
            if is_wrong:
                raise VbonError(message)


def _check_method(config: TrainConfig) -> None:
    if config.method is None:
        return
    if not METHODS[config.method].trained:
        raise VbonError(f"--method {config.method} trains nothing; use vbon generate --best-of {config.n:g}")
    for name, allowed in METHODS[config.method].choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise VbonError(
                f"--method {config.method} needs {flag(name)} {' or '.join(allowed)}, not {value}; leave one flag out"
            )


def _conflicts_of_combining(config: TrainConfig) -> Iterator[tuple[bool, str]]:
    other_ranks = config.refine_tail or config.tail != "counts" or config.tie_rule == "order"
    reads_one = other_ranks or config.rounds > 1 or config.objective == "reward"
    without = (
        "leave --tail, --refine-tail, --tie-rule order, --rounds and an objective that reads the reward itself out"
    )
    yield (
        (config.reward or "").startswith("pairwise:") and reads_one,
        f"--reward pairwise: has no number for a completion alone: {without}",
    )
    yield types.combining_conflict(config)
    yield bool(config.combine_with) and reads_one, f"--combine-with ranks by several rewards: {without}"


def _conflicts(config: TrainConfig) -> Iterator[tuple[bool, str]]:
    """Combinations of flags that cannot run: the condition, and the error."""
    offline, ppo = config.algorithm == "offline", config.algorithm == "ppo"
    critic_start, shared = config.warm_start == "critic", config.critic == "shared"
    named = f"--method {config.method}" if config.method else f"--objective {config.objective}"
    method = METHODS[config.method_name]
    rollouts, per_prompt = config.rollouts_per_iteration, config.samples_per_prompt
    yield from _conflicts_of_combining(config)
    yield from _tilt_conflicts(config)
    yield (
        bool(config.save_rollouts or config.replay) and (offline or config.rounds > 1 or config.kl_estimator == "full"),
        "--save-rollouts and --replay need rollouts, one round and a --kl-estimator other than full",
    )
    yield (
        config.tail != "counts" and (config.refine_tail or config.tie_rule == "order" or config.tilt == "worst"),
        f"--tail {config.tail} needs --tie-rule random, a --tilt that looks at the top, and no --refine-tail",
    )
    yield (
        config.tail != "counts" and (config.objective == "reward" or method.whole_n),
        f"--tail {config.tail} changes ranks, which --method {config.method_name} does not read; leave it out",
    )
    yield config.adapter_only and not config.lora_rank, "--adapter-only needs --lora-rank; leave it out"
    yield config.adapter_only and config.rounds > 1, "--rounds trains on whole models; leave out --adapter-only"
    yield offline and config.objective != "vbon", f"--algorithm offline needs --objective vbon, not {config.objective}"
    yield (
        config.refine_tail and (offline or config.tie_rule == "order"),
        "--refine-tail needs rollouts and --tie-rule random; leave one flag out",
    )
    if config.algorithm == "residual":
        yield from residual_conflicts(config)
    yield (offline and config.warm_start == "offline", "--warm-start offline repeats --algorithm offline; leave it out")
    yield critic_start and shared, "--warm-start critic needs --critic separate; leave --critic shared out"
    yield (
        config.critic_layers is not None and (shared or not ppo),
        "--critic-layers needs --algorithm ppo with a separate critic; leave it out",
    )
    yield (
        critic_start and not (ppo and config.targets_best_of_n),
        "--warm-start critic needs --algorithm ppo and a method that leads to best-of-N",
    )
    yield (
        method_of(config._choices()) is None,
        f"no method combines --objective {config.objective}, --algorithm {config.algorithm}, --offline-loss "
        f"{config.offline_loss} and --kl-estimator {config.kl_estimator}; use --method",
    )
    yield (
        config.kl_coef is not None and method.knob != "kl_coef",
        f"--kl-coef does not apply to {named}, which fixes it at 1/(N-1); leave it out, or use --method kl-rl",
    )
    yield (
        config.rounds > 1 and not config.targets_best_of_n,
        f"--rounds needs a method that leads to best-of-N, not --method {config.method_name}: a round samples the last "
        "one's policy as best-of-N",
    )
    yield (
        method.whole_n and config.n % 1 != 0,
        f"--n is {config.n}, but --method {config.method_name} needs a whole number",
    )
    yield (
        not offline and rollouts % per_prompt != 0,
        f"--rollouts-per-iteration {rollouts} must be a multiple of --samples-per-prompt {per_prompt}",
    )
    yield (
        config.algorithm in ("auto", "rloo", "grpo") and per_prompt < 2,
        f"--samples-per-prompt must be at least 2: --algorithm {config.algorithm} compares samples of one prompt",
    )


def residual_conflicts(config: TrainConfig) -> Iterator[tuple[bool, str]]:
    """Flags that mean nothing to --algorithm residual: the condition, and the error."""
    yield (
        config.refine_tail,
        "--refine-tail changes ranks of earlier rollouts, which --algorithm residual trains on; use --algorithm rloo",
    )
    yield (
        config.whiten_advantages or config.kl_estimator != "k1" or config.critic == "shared",
        "--algorithm residual has no advantages to whiten, no --kl-estimator and no --critic; leave these flags out",
    )


def _tilt_conflicts(config: TrainConfig) -> Iterator[tuple[bool, str]]:
    """Combinations of --tilt that mean nothing."""
    kind, _, parameter = config.tilt.partition(":")
    other, method = kind != "best", METHODS[config.method_name]
    yield (
        other and (config.objective != "vbon" or method.whole_n),
        f"--tilt {config.tilt} needs --objective vbon and a method that does not draw whole sets of N, not --method "
        f"{config.method_name}",
    )
    yield (
        kind == "kth" and (config.n % 1 != 0 or int(parameter) > config.n),
        f"--tilt {config.tilt} needs a whole --n of at least {parameter}, not {config.n:g}",
    )
    yield other and config.rounds > 1, f"--rounds compounds best-of-N only; leave out --tilt {config.tilt} or --rounds"
