"""Training time until a policy has 95 % of best-of-N's gain in reward, at no higher KL(π_θ‖π_ref) than best-of-N's.

vbon with and without a warm start from the pool, KL-RL, TRL's RLOO fed with vbon's reward: same model, prompts, pool,
rollouts, minibatches, learning rate and β = 1/(N−1) (KL-RL: the β whose optimum has best-of-N's KL, were rewards
normal). N = 8, M = 200. Reward and KL are measured on fresh samples every second iteration, off the clock.
"""

import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from benchmarks.iteration import reward, text_of, word_tokenizer
from benchmarks.measure import arguments, now, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.best_of_n import expectation, kl_from_reference
from vbon.core.reward_cdf import RewardCDF
from vbon.integrations.trl import VbonReward, rloo_config_kwargs
from vbon.models.fused import fuse_activations
from vbon.models.generate import generate
from vbon.pool.prompts import make_prompt
from vbon.training.offline import PoolData, offline_step
from vbon.training.online import make_learner, run_iteration
from vbon.training.rollout import Sampling, roll_out
from vbon.training.task import Task

N, NUM_SAMPLES, GOAL, RATE = 8, 200, 0.95, 1e-4
NUM_PROMPTS, SAMPLES, EPOCHS, MINIBATCH = 32, 8, 2, 64
EVERY, WARM_STEPS = 2, 20


def make_pool_task(model: Any, prompts: list[list[int]]) -> Task:
    """A pool of M samples of the model for every prompt, scored."""
    ids: list[list[int]] = []
    logprobs: list[float] = []
    for index, prompt in enumerate(prompts):
        uniforms = seeds.uniforms((1, NUM_SAMPLES, NEW_TOKENS), 0, index)
        out = generate(model, [prompt], uniforms, temperature=1.0, stop_token_ids=[EOS], pad_token_id=PAD)
        ids += out.rows()
        logprobs += out.logprobs.double().sum(1).tolist()
    rewards = reward([], [text_of(row) for row in ids])
    counts = np.full(len(prompts), NUM_SAMPLES)
    pool = SimpleNamespace(
        prompts=[make_prompt(text_of(prompt), {}) for prompt in prompts], rewards=rewards, has_completion_ids=True,
        completion_ids=ids, ref_logprobs=np.array(logprobs),
        prompt_index=np.repeat(np.arange(len(prompts)), NUM_SAMPLES),
        offsets=np.arange(len(prompts) + 1) * NUM_SAMPLES,
    )  # fmt: skip
    sampling = Sampling(1.0, NEW_TOKENS, (EOS,), PAD)
    cdf = RewardCDF(rewards, counts)
    return Task(pool, cdf, "random", prompts, word_tokenizer(), reward, sampling)  # type: ignore[arg-type]


def fused() -> Any:
    model = gpt2()
    fuse_activations(model)
    return model


class Clock:
    """Runs until the goal or the limit; its seconds do not count what it measures itself."""

    def __init__(self, task: Task, limit: float):
        self.task, self.limit, self.ref_policy = task, limit, fused()
        by_prompt = task.pool.rewards.reshape(len(task), -1)
        self.start_reward = float(by_prompt.mean())
        self.bon_gain = float(np.mean([expectation(row, row, N) for row in by_prompt])) - self.start_reward
        self.seconds, self.gain, self.kl, self.iterations = 0.0, 0.0, 0.0, 0
        self.first: tuple[float, float] | None = None
        """Seconds until the gain alone was there, and the KL then."""
        self._since = now()

    def resume(self) -> None:
        self._since = now()

    def stop(self, policy: Any) -> bool:
        """After an iteration: whether to end. Measures every EVERY-th time."""
        self.seconds += now() - self._since
        self.iterations += 1
        if self.iterations % EVERY == 0:
            self._measure(policy)
        self.resume()
        return self.reached or self.seconds > self.limit

    @property
    def reached(self) -> bool:
        return self.gain >= GOAL * self.bon_gain and self.kl <= kl_from_reference(N)

    @torch.no_grad()
    def _measure(self, policy: Any) -> None:
        uniforms = seeds.uniforms((len(self.task), 8, NEW_TOKENS), 1, 99)
        rolled = roll_out(
            policy, self.ref_policy, self.task.prompt_ids, torch.arange(len(self.task)), uniforms, self.task.sampling,
            self.task.score, lambda rewards, interval, n, kl_coef: SimpleNamespace(
                sequence_reward=rewards, kl_coef=1.0), N, None,
        )  # fmt: skip
        self.gain = float(rolled.rewards.mean()) - self.start_reward
        self.kl = float(rolled.log_ratio().mean())
        if self.first is None and self.gain >= GOAL * self.bon_gain:
            self.first = self.seconds, self.kl

    def row(self, name: str) -> dict[str, Any]:
        return {
            "contender": name, "seconds": round(self.seconds, 2), "iterations": self.iterations,
            "share of gain": round(self.gain / self.bon_gain, 3), "kl_policy_ref": round(self.kl, 3),
            "kl_bon_ref": round(float(kl_from_reference(N)), 3), "reached": self.reached,
            "seconds to gain at any KL": None if self.first is None else round(self.first[0], 2),
            "KL then": None if self.first is None else round(self.first[1], 3),
        }  # fmt: skip


def run_vbon(clock: Clock, *, warm_start: bool, **changes: Any) -> None:
    config = TrainConfig(**{
        "pool": "-", "model": "-", "reward": "-", "out": "-", "n": N, "algorithm": "rloo", "minibatch_size": MINIBATCH,
        "rollouts_per_iteration": SAMPLES * len(clock.task), "samples_per_prompt": SAMPLES, "num_epochs": EPOCHS,
        "learning_rate": RATE, "lr_schedule": "constant", "offline_steps": WARM_STEPS, "offline_learning_rate": 1e-3,
        "offline_batch_size": 128, **changes,
    })  # fmt: skip
    learner = make_learner(fused(), config, Accelerator(cpu=True))
    clock.resume()
    if warm_start:
        data = PoolData(clock.task, N)
        for step in range(WARM_STEPS):
            offline_step(learner, data, config, step)
        learner.optimizer.state.clear()
    iterations: Iterator[int] = iter(range(10**6))
    while not clock.stop(learner.policy):
        run_iteration(learner, clock.ref_policy, clock.task, config, next(iterations) + 1)


def run_trl(clock: Clock) -> None:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    rollouts = SAMPLES * len(clock.task)
    steps = EPOCHS * rollouts // MINIBATCH

    class Stop(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.resume()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step % steps == 0:
                model.eval()
                control.should_training_stop = clock.stop(model)
                model.train()

    by_prompt = clock.task.pool.rewards.reshape(len(clock.task), -1).tolist()
    rows = [
        {"prompt": text_of(ids), "ref_rewards": mine}
        for ids, mine in zip(clock.task.prompt_ids, by_prompt, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        gpt2().save_pretrained(f"{folder}/model")
        config = RLOOConfig(
            output_dir=folder, per_device_train_batch_size=MINIBATCH, steps_per_generation=rollouts // MINIBATCH,
            num_iterations=EPOCHS, num_generations=SAMPLES, max_completion_length=NEW_TOKENS, temperature=1.0,
            learning_rate=RATE, lr_scheduler_type="constant", max_steps=10**6, use_cpu=True, adam_epsilon=1e-5,
            gradient_checkpointing=False, bf16=False, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=False, **rloo_config_kwargs(N),
        )  # fmt: skip
        RLOOTrainer(
            model=f"{folder}/model", reward_funcs=VbonReward(reward, N), args=config,  # type: ignore[arg-type]
            train_dataset=Dataset.from_list(rows), processing_class=word_tokenizer(), callbacks=[Stop()],
        ).train()  # fmt: skip


def contenders(task: Task) -> dict[str, Callable[[Clock], None]]:
    spread = float(task.pool.rewards.reshape(len(task), -1).std(1).mean())
    kl_rl = {"objective": "reward", "kl_coef": spread / float(np.sqrt(2 * kl_from_reference(N))), "method": "kl-rl"}
    return {
        "vbon, warm start": lambda clock: run_vbon(clock, warm_start=True),
        "vbon": lambda clock: run_vbon(clock, warm_start=False),
        "TRL RLOO, vbon's reward": run_trl,
        "KL-RL": lambda clock: run_vbon(clock, warm_start=False, **kl_rl),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=float, default=50.0, help="seconds that a contender may train")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prompts = random_rows(8 if args.tiny else NUM_PROMPTS, 2, 8)
    task = make_pool_task(fused(), prompts)
    rows = []
    for name, run in contenders(task).items():
        clock = Clock(task, 0.1 if args.tiny else args.limit)
        run(clock)
        rows.append(clock.row(name))
        report(rows, args)


if __name__ == "__main__":
    main()
