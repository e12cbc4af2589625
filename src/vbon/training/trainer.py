"""VBoNTrainer: a policy, its reference, a reward and a pool in; the run's result and a model folder out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vbon.artifacts.run import Provenance, RunFolder, settings_of
from vbon.config.train import TrainConfig
from vbon.core.rank_tilts import kl_from_reference
from vbon.core.tail_cdf import kl_floor
from vbon.errors import Paused, VbonError
from vbon.models import load
from vbon.pool.combined_rewards import Criterion, tried
from vbon.pool.names import name_of
from vbon.pool.store import ReferencePool
from vbon.progress import ProgressBar
from vbon.rewards import Reward
from vbon.training.critic_start import critic_step
from vbon.training.defaults import with_defaults
from vbon.training.health import HealthCheck, share_rounded_away
from vbon.training.offline import best_of_n_loss, check_sets, data_of, method_objective, offline_step
from vbon.training.online import PoolLoss, check_shares, run_iteration, sample_rollouts
from vbon.training.output import checkpoint
from vbon.training.output.export import exported
from vbon.training.output.model_card import model_card
from vbon.training.output.model_folder import run_record, save_model
from vbon.training.output.run_checkpoints import RunCheckpoints
from vbon.training.output.run_log import RunLog, sample_rows
from vbon.training.output.state import RunState
from vbon.training.parallel.accelerator import at_precision, make_accelerator, of_main_process
from vbon.training.parallel.learner import make_learner
from vbon.training.pool_data import PoolData
from vbon.training.refinement import Refinement
from vbon.training.replay import replay, replay_line, save_rollouts
from vbon.training.rollout import Rollouts
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.task import (
    RANK_TEST,
    check_rank_test,
    make_task,
    objective_of,
    pool_rank_test,
    sampling_of,
    sources_of,
    split_pool,
    target_of,
)
from vbon.training.validation import gives_finite_logprobs, kept_line, validate, validation_line


class VBoNTrainer:
    """Trains `policy` towards best-of-N of `ref_policy` by the pool's ranks of `reward`.

    A run in `config.out` that was started with the same settings is continued, from its last checkpoint; one that is
    finished is left as it is, or extended where `config` asks for more iterations.

    Args:
        policy: what is trained, in place; at the start usually equal to `ref_policy`.
        ref_policy: the model that made the pool; never changed.
        reward: the reward that scored the pool.
        pool: M scored samples of `ref_policy` for each training prompt.
        config: as on the command line; `config.out` is where the run goes.
        tokenizer: default: the one of `config.model`, or of the model that the pool records.
        accelerator: default: a new one, on `config.device`.
        provenance: what the run is made with, for its record; default: unknown.
        others: further rewards of the pool's samples, in pools of their own; `config.combine` says how their ranks are
            combined with the first one's.
        should_pause: is called between two steps, by the main process; where it returns True, the run saves a
            checkpoint and `train` raises Paused. Default: never.

    Raises:
        VbonError: a prompt longer than the context, rollouts that the processes cannot share equally, a run that was
            started with other settings, or has done more iterations than `config` asks for.
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
        provenance: Provenance | None = None,
        others: Sequence[Criterion] = (),
        should_pause: Callable[[], bool] | None = None,
    ):
        config.validate()
        self._given = settings_of(config)
        self.config = config = with_defaults(config, policy, pool)
        self.folder = RunFolder(config.out)
        self._sources = sources_of(pool, reward, provenance, others)
        if config.replay is None:  # an update may be repeated with other settings
            self.folder.check(config, self._sources)
        self.accelerator = accelerator or make_accelerator(config)
        check_shares(config, self.accelerator.num_processes)
        if self.accelerator.num_processes > 1 and (config.save_rollouts or config.replay):
            raise VbonError("--save-rollouts and --replay need one process, which has all rollouts of an iteration")
        check_sets(pool, config)
        tokenizer = tokenizer or load.load_tokenizer(name_of(pool, "model", config.model))
        training, validation = split_pool(pool, config)
        self._validates_on_training_prompts = validation is training
        sampling = sampling_of(policy, tokenizer, pool, config)
        first, *others = tried([Criterion(pool, reward), *others], tokenizer, config)
        self.task, self.validation = (
            make_task(
                part,
                tokenizer,
                reward,
                sampling,
                config.tie_rule,
                policy,
                resolution=first.resolution,
                others=others,
                combine=config.combine,
                tail=config.tail,
            )
            for part in (training, validation)
        )
        self.policy = policy
        self.ref_policy = at_precision(ref_policy.eval().requires_grad_(False), self.accelerator)
        self.provenance = provenance or Provenance()
        self._should_pause = should_pause
        self._console = Console(stderr=True, quiet=not self.accelerator.is_main_process)
        self._learner = make_learner(policy, config, self.accelerator)
        self._refinement = self._refined() if config.refine_tail else None
        self._buffer = self._empty_buffer() if config.algorithm == "residual" else None
        kept = {"refinement": self._refinement, "rollouts": self._buffer}
        beside = {name: module for name, module in kept.items() if module is not None}
        self._checkpoints = RunCheckpoints(self.folder.checkpoints, self._learner, beside, config.keep_checkpoints)
        self._state = self._restore()
        vbon_objective = config.targets_best_of_n
        self._health = HealthCheck(self._console, self._state, target_of(config), vbon_objective=vbon_objective)
        self._log = RunLog(self.folder, self.accelerator, config)

    def train(self) -> dict[str, Any]:
        """Run to the end, save the best policy as a model folder, return the result; `policy` is that policy then.

        On Ctrl-C the last checkpoint stays, and the same call continues from there.

        Raises:
            Paused: `should_pause` asked for it, and there is a checkpoint of the last step.
            VbonError: a pool that fresh samples do not fit, weights that are no longer finite, another process that
                writes this run. What was saved before stays.
        """
        if not self._has_work():
            self.policy = load.load_policy(
                str(self.folder.path),
                dtype=self.config.dtype,
                device=self.accelerator.device,
                trust_remote_code=self.config.trust_remote_code,
            )
            return self.folder.result()
        self._open()
        try:
            done = self._state.offline_step + self._state.iteration
            with ProgressBar("iterations", self._num_steps(), done=done, console=self._console) as progress:
                self._run(progress)
            return self._finish()
        except (KeyboardInterrupt, Paused) as stop:
            where = f"{self.folder.path}: stopped at iteration {self._state.iteration}"
            raise type(stop)(f"{where}; run the same command to continue") from None
        except FloatingPointError as error:
            last = checkpoint.latest(self.folder.checkpoints) or self.folder.checkpoints
            raise VbonError(
                f"{error}; the last good checkpoint is in {last}. A smaller --learning-rate helps"
            ) from None
        finally:
            self._log.close()
            self.folder.close()

    def replay(self, file: str) -> dict[str, Any]:
        """Repeat one update of the run with saved rollouts (`training.replay.replay`); the run stays as it is."""
        pool_loss = self._pool_loss()

        def update(iteration: int, sample: Callable[..., Rollouts]) -> dict[str, float]:
            parts = (self._learner, self.ref_policy, self.task, self.config, iteration, pool_loss, sample, self._buffer)
            return run_iteration(*parts)[0]

        device = self.accelerator.device
        result = replay(Path(file), self.task, self.folder, self._checkpoints, device, update)
        self._console.print(replay_line(result), soft_wrap=True, markup=False, highlight=False)
        return result

    # The run -----------------------------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        """Whether the run is not finished, or finished and `config` asks for more of it."""
        return not self.folder.is_finished or self.folder.read_record().can_go_further(self.config)

    def _open(self) -> None:
        """Check the pool of a run that has not begun to train, before anything is written; then open its folder."""
        if not self._state.validations:
            self._check_pool()
        self.accelerator.wait_for_everyone()  # all have looked at the folder before one writes there
        if self.accelerator.is_main_process:
            self.folder.open(self.config, self._sources)
            self._checkpoints.prune(self._state)  # a kill between saving and pruning leaves what nothing else removes
        try:
            self._log.open(self._state)
        except BaseException:
            self.folder.close()
            raise

    def _run(self, progress: ProgressBar) -> None:
        config, state = self.config, self._state
        # A run that ran out of time in its first phase is validated, and continues there where it now has more time.
        if not state.validations or (state.offline_step < self._num_offline_steps and not self._out_of_time()):
            if self._trains_offline:
                self._train_offline(progress)
            self._validate()
            self._checkpoints.save(checkpoint.ONLINE, 0, state)
        pool_loss = self._pool_loss()
        progress.begin("iterations", config.num_iterations - state.iteration)
        while config.algorithm != "offline" and not self._is_last():
            if self._refinement is not None:
                self._refinement.before(self._learner, state.iteration)
            metrics, rollouts = run_iteration(
                self._learner,
                self.ref_policy,
                self.task,
                config,
                state.iteration,
                pool_loss,
                self._sample,
                self._buffer,
            )
            if self._refinement is not None:
                self._refinement.after(self._learner, rollouts)
            state.iteration += 1
            self._log.write({"iteration": state.iteration, **metrics})
            self._health.after_iteration(metrics)
            progress.advance()
            progress.show(f"ρ {metrics['sequence_reward']:+.3f}  KL {metrics['kl_policy_ref']:.2f}")
            self._at_milestones(rollouts)
        if state.validations[-1]["iteration"] < state.iteration:  # less is asked for than when the run was started
            self._validate()
            self._checkpoints.save(checkpoint.ONLINE, state.iteration, state)

    def _train_offline(self, progress: ProgressBar) -> None:
        config, state = self.config, self._state
        take_step = critic_step if config.warm_start == "critic" else offline_step
        data = data_of(self.task, config, self.ref_policy)
        progress.begin("steps on the pool", self._num_offline_steps - state.offline_step)
        while state.offline_step < self._num_offline_steps and not self._out_of_time():
            metrics = take_step(self._learner, data, config, state.offline_step)
            state.offline_step += 1
            self._log.write({"iteration": 0, "offline_step": state.offline_step, **metrics})
            progress.advance()
            pauses = self._pauses()
            if state.offline_step % config.checkpoint_every == 0 or pauses:
                self._checkpoints.save(checkpoint.OFFLINE, state.offline_step, state)
            if pauses:
                raise Paused
        if config.algorithm != "offline" and state.offline_step == self._num_offline_steps:
            # The online phase has its own moments and step sizes.
            self._learner.optimizer.reset()

    def _pool_loss(self) -> PoolLoss | None:
        if self.config.objective != "bond":
            return None
        return best_of_n_loss(self._learner, data_of(self.task, self.config, self.ref_policy), self.config)

    def _sample(self, *arguments: Any) -> Rollouts:
        """Sample the rollouts of an iteration, and save them before the update if --save-rollouts is given."""
        rollouts = sample_rollouts(*arguments)
        if self.config.save_rollouts:
            save_rollouts(self.folder.own / "rollouts", rollouts, self.task, self._state.iteration)
        return rollouts

    def _at_milestones(self, rollouts: Rollouts) -> None:
        iteration, last = self._state.iteration, self._is_last()
        pauses = not last and self._pauses()
        if iteration % self.config.validation_every == 0 or last:
            for row in sample_rows(rollouts, self.task, iteration):
                self._log.write_sample(row)
            self._validate()
        if iteration % self.config.checkpoint_every == 0 or last or pauses:
            self._require_finite(rollouts)
            self._checkpoints.save(checkpoint.ONLINE, iteration, self._state)
        if pauses:
            raise Paused

    def _is_last(self) -> bool:
        return self._state.iteration >= self.config.num_iterations or self._out_of_time()

    def _pauses(self) -> bool:
        """Whether to pause here; all processes do as the main one is asked to."""
        return self._should_pause is not None and bool(of_main_process(self._should_pause()))

    def _out_of_time(self) -> bool:
        """Whether the seconds that the run may take are spent, by the main process's clock: all must stop together."""
        limit = self.config.max_seconds
        return limit is not None and bool(of_main_process(self._log.seconds) >= limit)

    def _validate(self) -> None:
        """Measure on validation prompts; keep the latest policy within one standard error of the best objective.

        The objective is the method's own, mostly E[ρ] − β·KL: the reward itself decides nothing. Where F̂ is refined
        the latest one is kept, since the same objective says more the later it is taken.
        """
        state, measured = self._state, self._measure()
        row = {"iteration": state.iteration, **{f"validation/{key}": value for key, value in measured.items()}}
        self._log.write(row)
        state.validations.append(row)
        top = max(state.validations, key=lambda one: one["validation/objective"])
        close = measured["objective"] >= top["validation/objective"] - top["validation/objective_se"]
        if close or self._refinement is not None:
            state.best = row
            self._checkpoints.save_best(state)
        self._console.print(validation_line(row))
        self._health.after_validation()

    def _measure(self) -> dict[str, float]:
        """Validation metrics, the main process's everywhere: all must decide alike."""
        config, policy = self.config, self._learner.module("policy")
        measured = validate(
            policy, self.ref_policy, self.validation, objective_of(config), n=target_of(config), seed=config.seed
        )
        if config.algorithm == "offline" or config.objective == "bond":
            measured |= method_objective(measured, policy, data_of(self.validation, config, self.ref_policy), config)
        if not abs(measured["objective"]) < float("inf"):
            raise self._not_finite()
        return dict(of_main_process(measured))

    def _require_finite(self, rollouts: Rollouts) -> None:
        """Refuse weights that no longer give log-probabilities: they must not become the last checkpoint."""
        if not gives_finite_logprobs(self._learner.module("policy"), rollouts, self.task.sampling.temperature):
            raise self._not_finite()

    def _not_finite(self) -> FloatingPointError:
        return FloatingPointError(
            f"after iteration {self._state.iteration} the policy gives no finite log-probabilities"
        )

    def _restore(self) -> RunState:
        """Fill the networks and the optimizer from the last checkpoint; return where the run stands by it.

        Raises:
            VbonError: the run has done more iterations than are asked for, or more are asked for of a finished run
                whose checkpoints are gone.
        """
        folder, asked = self.folder, self.config.num_iterations
        state = self._checkpoints.restore()
        if state is None:
            if folder.is_finished and self._has_work():
                raise VbonError(f"{folder.checkpoints}: holds no checkpoint to continue from; choose another --out")
            return RunState()
        if state.iteration > asked:
            raise VbonError(
                f"--num-iterations {asked}: {folder.path} has done {state.iteration} iterations; "
                "ask for as many or more, or choose another --out"
            )
        return state

    def _empty_buffer(self) -> RolloutBuffer:
        config = self.config
        capacity = config.buffer_iterations * config.rollouts_per_iteration
        return RolloutBuffer(self.task, capacity, config.samples_per_prompt, config.advantage_clip)

    def _refined(self) -> Refinement:
        """Ranks that the policy's samples will refine, also for validation where that is on the same prompts."""
        data = PoolData(self.task, target_of(self.config))
        data.fill_ref_logprobs(self.ref_policy)
        refinement = Refinement(data, self.config)
        if self.validation.pool is self.task.pool:
            self.validation = refinement.task
        self.task = refinement.task
        return refinement

    def _finish(self) -> dict[str, Any]:
        """Save the best policy as the run's model; the last one is the last checkpoint."""
        state, policy = self._state, self._checkpoints.load_best(self._state)
        assert state.best is not None
        failed = (RANK_TEST,) if state.failed_rank_test else ()
        made = Provenance(self.provenance.fingerprint, (*self.provenance.allowed_mismatches, *failed))
        num_samples = int(self.validation.cdf.num_samples.min())
        result = {
            "iterations": state.iteration,
            "num_processes": self.accelerator.num_processes,
            "best_iteration": state.best["iteration"],
            "is_reference": self._is_reference(),
            "validated_on_training_prompts": self._validates_on_training_prompts,
            "out_of_time": self._out_of_time(),
            **{key: value for key, value in state.best.items() if key.startswith("validation/")},
            "kl_policy_bon_floor": kl_floor(num_samples, target_of(self.config), self.config.tail),
            "kl_bon_ref": kl_from_reference(target_of(self.config)),
        }
        if self.config.adapter_only and self.accelerator.is_main_process:
            save_model(self.folder.path, policy, self.task.tokenizer, self.task)
        self.policy = exported(policy, self.validation, self.config)
        if self.accelerator.is_main_process:
            if not self.config.adapter_only:
                save_model(self.folder.path, self.policy, self.task.tokenizer, self.task)
            self.folder.write_card(model_card(self.config, self.task, made.allowed_mismatches, result))
            record = run_record(self.config, self._given, self.task, self.validation, made, result)
            self.folder.write_record(record)
        self.accelerator.wait_for_everyone()
        self._console.print(kept_line(result, str(self.folder.path)), soft_wrap=True, markup=False)
        return {"out": str(self.folder.path), **result}

    def _is_reference(self) -> bool:
        """Whether the saved policy has taken no step."""
        assert self._state.best is not None
        steps = self._state.offline_step if self.config.warm_start != "critic" else 0
        return self._state.best["iteration"] == 0 and steps == 0

    # What is looked at on the way --------------------------------------------------------------------------------

    def _check_pool(self) -> None:
        """The step-0 rank test, and what is known to go wrong with this M and N."""
        if self._validates_on_training_prompts:
            self._console.print(
                f"[yellow]warning:[/yellow] {len(self.task)} prompts are too few to hold some out, so that validation "
                "is on training prompts; a larger --validation-fraction or more prompts help"
            )
        result = pool_rank_test(self.ref_policy, self.task, self.config.seed)
        self._console.print(f"rank test of the pool: χ² p = {result.p_value:.3g}")
        allowed = RANK_TEST in self.config.allow_mismatch
        self._state.failed_rank_test = not check_rank_test(result, self.task.pool, allowed=allowed)
        self._health.before_start(int(self.task.cdf.num_samples.min()))
        offline = self.config.algorithm == "offline"
        rate = self.config.offline_learning_rate if offline else self.config.learning_rate
        assert rate is not None  # filled by `with_defaults`
        self._health.before_steps(share_rounded_away(self.policy, rate), rate)

    @property
    def _trains_offline(self) -> bool:
        return self.config.algorithm == "offline" or self.config.warm_start in ("offline", "critic")

    @property
    def _num_offline_steps(self) -> int:
        return self.config.offline_steps or 0 if self._trains_offline else 0

    def _num_steps(self) -> int:
        online = 0 if self.config.algorithm == "offline" else self.config.num_iterations
        return online + self._num_offline_steps
