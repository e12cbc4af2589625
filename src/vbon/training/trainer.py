"""VBoNTrainer: a policy, its reference, a reward and a pool in; the run's result and a model folder out."""

from typing import Any

from accelerate import Accelerator
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vbon.config.train import TrainConfig
from vbon.core.best_of_n import kl_floor, kl_from_reference
from vbon.core.objectives import OBJECTIVES
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.prompts import decode, encode
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward
from vbon.training import checkpoint, watch
from vbon.training.metrics import MetricsLog
from vbon.training.offline import PoolData, offline_step
from vbon.training.online import Learner, make_learner, run_iteration
from vbon.training.progress import Progress
from vbon.training.rollout import Rollouts, Sampling
from vbon.training.run_folder import RunFolder, describe, save_model
from vbon.training.task import Task, check_rank_test, pool_rank_test
from vbon.training.validation import validate

SAMPLES_SHOWN = 4


class VBoNTrainer:
    """Trains `policy` towards best-of-N of `ref_policy` by the pool's ranks of `reward`.

    Args:
        policy: what is trained, in place; at the start usually equal to `ref_policy`.
        ref_policy: the model that made the pool; never changed.
        reward: the reward that scored the pool.
        pool: M scored samples of `ref_policy` for each training prompt.
        config: as on the command line; `config.out` is where the run goes.
        tokenizer: default: the one of `config.model`.
        accelerator: default: a new one, on `config.device`.

    Raises:
        VbonError: a prompt longer than the context, a run in the way, a pool that fresh samples do not fit.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        ref_policy: PreTrainedModel,
        reward: Reward,
        pool: ReferencePool,
        config: TrainConfig,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        accelerator: Accelerator | None = None,
    ):
        config.validate()
        self.config = config
        self.accelerator = accelerator or Accelerator(cpu=config.device == "cpu")
        tokenizer = tokenizer or load.load_tokenizer(config.model)
        training, validation = split_pool(pool, config)
        sampling = sampling_of(policy, tokenizer, pool, config)
        self.task = make_task(training, tokenizer, reward, sampling, config.tie_rule, policy)
        self.validation = make_task(validation, tokenizer, reward, sampling, config.tie_rule, policy)
        self.policy, self.ref_policy = policy, ref_policy.eval().requires_grad_(False)
        self.folder = RunFolder(config.out)
        self.allowed_mismatches: list[str] = []
        self._console = Console(stderr=True, quiet=not self.accelerator.is_main_process)

    def train(self) -> dict[str, Any]:
        """Run to the end (or resume), save the best policy as a model folder, return the result.

        On Ctrl-C the last checkpoint stays, and KeyboardInterrupt says how to continue.
        """
        config = self.config
        self.folder.open(config)
        learner = make_learner(self.policy, config, self.accelerator)
        state = self._restore(learner)
        log = MetricsLog(self.folder.metrics, keep_before=state["iteration"] if config.resume else None)
        if state["iteration"] == 0:
            self._check_start(state)
        try:
            with Progress(self._console, "iterations", self._num_steps()) as progress:
                self._run(learner, state, log, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{self.folder.path}: stopped at iteration {state['iteration']}; the same command with --resume continues"
            ) from None
        return self._finish(learner, state)

    # The run -----------------------------------------------------------------------------------------------------

    def _run(self, learner: Learner, state: dict[str, Any], log: MetricsLog, progress: Progress) -> None:
        config = self.config
        progress.advance(state["iteration"])
        if state["iteration"] == 0:
            if "offline" in (config.algorithm, config.warm_start):
                self._train_offline(learner, state, log, progress)
            self._validate(learner, state, log)
        while config.algorithm != "offline" and state["iteration"] < config.num_iterations:
            iteration = state["iteration"]
            try:
                metrics, rollouts = run_iteration(learner, self.ref_policy, self.task, config, iteration)
            except FloatingPointError as error:
                raise VbonError(
                    f"{error} in iteration {iteration + 1}; the last good checkpoint is in {self.folder.checkpoints}. "
                    "A smaller --learning-rate helps"
                ) from None
            state["iteration"] = iteration + 1
            log.write({"iteration": iteration + 1, **metrics})
            self._watch(state, metrics)
            progress.advance(1, rho=metrics["sequence_reward"], kl=metrics["kl_policy_ref"])
            self._at_milestones(learner, state, log, rollouts)

    def _train_offline(self, learner: Learner, state: dict[str, Any], log: MetricsLog, progress: Progress) -> None:
        data = PoolData(self.task, self.config.n)
        if self.config.offline_loss != "weighted-sft":
            data.fill_ref_logprobs(self.ref_policy)
        for step in range(self.config.offline_steps):
            metrics = offline_step(learner, data, self.config, step)
            log.write({"iteration": 0, "offline_step": step + 1, **metrics})
            progress.advance(1)
        if self.config.algorithm != "offline":  # the online phase has its own moments and step sizes
            learner.optimizer.state.clear()

    def _at_milestones(self, learner: Learner, state: dict[str, Any], log: MetricsLog, rollouts: Rollouts) -> None:
        iteration, last = state["iteration"], state["iteration"] == self.config.num_iterations
        if iteration % self.config.validation_every == 0 or last:
            self._validate(learner, state, log)
            self._keep_samples(iteration, rollouts)
        if iteration % self.config.checkpoint_every == 0 or last:
            self._checkpoint(learner, state)

    def _validate(self, learner: Learner, state: dict[str, Any], log: MetricsLog) -> None:
        """Measure on validation prompts; keep the latest policy within one standard error of the best objective.

        The objective is the method's own, E[ρ] − β·KL: the reward itself decides nothing.
        """
        config = self.config
        policy = self.accelerator.unwrap_model(learner.policy)
        measured = validate(
            policy,
            self.ref_policy,
            self.validation,
            OBJECTIVES[config.objective],
            config.n,
            config.kl_coef,
            config.seed,
        )
        row = {"iteration": state["iteration"], **{f"validation/{key}": value for key, value in measured.items()}}
        log.write(row)
        state["validations"].append(row)
        top = max(state["validations"], key=lambda one: one["validation/objective"])
        if measured["objective"] >= top["validation/objective"] - top["validation/objective_se"]:
            state["best"] = row
            if self.accelerator.is_main_process:
                checkpoint.save(self.folder.checkpoints / checkpoint.BEST, {"policy": policy}, None, row)
        self._console.print(_validation_line(row))
        self._say(state, "plateau", watch.plateau(state["validations"]))

    def _checkpoint(self, learner: Learner, state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            where = checkpoint.step_folder(self.folder.checkpoints, state["iteration"])
            checkpoint.save(where, learner.modules(), learner.optimizer, state)
            checkpoint.keep_last(self.folder.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _restore(self, learner: Learner) -> dict[str, Any]:
        found = checkpoint.latest(self.folder.checkpoints) if self.config.resume else None
        if found is not None:
            return checkpoint.load(found, learner.modules(), learner.optimizer)
        return {"iteration": 0, "best": None, "validations": [], "recent": [], "said": []}

    def _finish(self, learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
        """Save the best policy as the run's model; the last one is the last checkpoint."""
        policy = self.accelerator.unwrap_model(learner.policy)
        best = self.folder.checkpoints / checkpoint.BEST
        checkpoint.load(best, {"policy": policy}, None)
        result = {
            "iterations": state["iteration"],
            "best_iteration": state["best"]["iteration"],
            **{key: value for key, value in state["best"].items() if key.startswith("validation/")},
            "kl_policy_bon_floor": kl_floor(int(self.validation.cdf.num_samples.min()), self.config.n),
            "kl_bon_ref": kl_from_reference(self.config.n),
        }
        if self.accelerator.is_main_process:
            save_model(self.folder.path, policy, self.task.tokenizer, self.task)
            describe(self.folder, self.config, self.task, self.allowed_mismatches, result)
        return {"out": str(self.folder.path), **result}

    # What is said on the way -------------------------------------------------------------------------------------

    def _check_start(self, state: dict[str, Any]) -> None:
        """The step-0 rank test, and what is known to go wrong with this M and N."""
        result = pool_rank_test(self.policy, self.task, self.config.seed)
        self._console.print(f"rank test of the pool: χ² p = {result.p_value:.3g}")
        check_rank_test(result, self.task.pool, allowed="rank_test" in self.config.allow_mismatch)
        smallest = int(self.task.cdf.num_samples.min())
        for line in watch.before_start(self.config.n, smallest, self._is_vbon):
            self._say(state, "noisy_cdf", line)

    def _watch(self, state: dict[str, Any], metrics: dict[str, float]) -> None:
        keys = ("kl_policy_ref", "entropy", "eos_rate")
        recent: list[dict[str, float]] = state["recent"]
        recent.append({key: metrics[key] for key in keys})
        del recent[watch.WINDOW : -watch.WINDOW]
        for name, line in watch.signs(recent, self.config.n, self._is_vbon).items():
            self._say(state, name, line)

    def _say(self, state: dict[str, Any], name: str, line: str | None) -> None:
        """Each warning once a run."""
        if line is not None and name not in state["said"]:
            state["said"].append(name)
            self._console.print(f"[yellow]warning:[/yellow] {line}")

    def _keep_samples(self, iteration: int, rollouts: Rollouts) -> None:
        rows = rollouts.sequences.completion_ids[:SAMPLES_SHOWN]
        mask = rollouts.mask[:SAMPLES_SHOWN]
        texts = decode(self.task.tokenizer, [r[m].tolist() for r, m in zip(rows, mask, strict=True)])
        log = MetricsLog.appending(self.folder.samples)
        for i, text in enumerate(texts):
            prompt = self.task.prompts[int(rollouts.prompt_index[i])].prompt
            log.write(
                {"iteration": iteration, "prompt": prompt, "completion": text, "reward": float(rollouts.rewards[i])}
            )

    @property
    def _is_vbon(self) -> bool:
        return self.config.objective.startswith("vbon")

    def _num_steps(self) -> int:
        offline = self.config.offline_steps if "offline" in (self.config.algorithm, self.config.warm_start) else 0
        return offline + (0 if self.config.algorithm == "offline" else self.config.num_iterations)


def split_pool(pool: ReferencePool, config: TrainConfig) -> tuple[ReferencePool, ReferencePool]:
    """(training, validation) prompts by id hash; a pool too small to split is both, with fresh samples to tell."""
    validation, training = pool.split(config.validation_fraction, config.seed)
    return (pool, pool) if not len(validation) or not len(training) else (training, validation)


def sampling_of(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pool: ReferencePool, config: TrainConfig
) -> Sampling:
    """How completions are drawn: flags first, else what the pool knows. Raises VbonError where neither says."""
    known = pool.fingerprint
    temperature = config.temperature or known.temperature
    length = config.max_new_tokens or known.max_new_tokens
    for flag, value in (("--temperature", temperature), ("--max-new-tokens", length)):
        if value is None:
            raise VbonError(f"{flag} is needed: the pool {pool.path} does not say how it was sampled")
    assert temperature is not None and length is not None
    stop = config.stop_token_ids or known.stop or load.stop_token_ids(policy, tokenizer)
    return Sampling(temperature, length, tuple(stop), load.pad_token_id(tokenizer))


def make_task(
    pool: ReferencePool,
    tokenizer: PreTrainedTokenizerBase,
    reward: Reward,
    sampling: Sampling,
    tie_rule: str,
    policy: PreTrainedModel,
) -> Task:
    """Prompts encoded and measured against the model's context. Raises VbonError for one that leaves no room."""
    prompt_ids = encode(tokenizer, [prompt.prompt for prompt in pool.prompts])
    context = load.context_length(policy)
    for prompt, ids in zip(pool.prompts, prompt_ids, strict=True):
        if context is not None and len(ids) + sampling.max_new_tokens > context:
            raise VbonError(
                f"{pool.path}: prompt {prompt.prompt_id} has {len(ids)} tokens; with {sampling.max_new_tokens} new "
                f"ones it exceeds the model's context of {context}"
            )
    return Task(pool, pool.cdf(tie_rule), tie_rule, prompt_ids, tokenizer, reward, sampling)


def _validation_line(row: dict[str, Any]) -> str:
    return (
        f"iteration {row['iteration']:>5}  validation: win rate {row['validation/win_rate']:.3f}  "
        f"KL to reference {row['validation/kl_policy_ref']:.3f}  KL to best-of-N {row['validation/kl_policy_bon']:.3f}"
    )
