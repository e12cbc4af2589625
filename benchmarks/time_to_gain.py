"""Training time until a policy has 95 % of best-of-N's gain in reward, at no higher KL(π_θ‖π_ref) than best-of-N's.

vbon by RLOO, with and without a warm start of the policy from the pool, and by PPO with a warm start of its critic;
KL-RL; TRL's RLOO fed with vbon's reward: same model, prompts, pool, rollouts and minibatches; N = 8, M = 200. A linear
schedule has to know its end, so each contender trains for 20 and for 40 iterations, with the same small search for all:
two learning rates, and N − 1 or N − 2 as what is aimed at, since noise costs KL (β = 1/(aim − 1); KL-RL: the β whose
optimum has best-of-aim's KL, were rewards normal). Its time is that of the shortest run that is there at its end, on
fresh samples, off the clock. The search is not counted, for any. It takes half an hour: with `--tries FILE` it can
be stopped, and goes on there.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from benchmarks.iteration import reward, text_of, word_tokenizer
from benchmarks.measure import arguments, now, report
from benchmarks.models import EOS, NEW_TOKENS, PAD, gpt2, random_rows
from vbon.artifacts.run import read_rows
from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.best_of_n import expectation, kl_from_reference
from vbon.core.reward_cdf import RewardCDF
from vbon.integrations.trl import VbonReward, rloo_config_kwargs
from vbon.models.fused import fuse_activations
from vbon.models.generate import Sampling, generate
from vbon.pool.prompts import make_prompt
from vbon.training.critic_start import critic_step
from vbon.training.offline import offline_step
from vbon.training.online import run_iteration
from vbon.training.parallel.learner import make_learner
from vbon.training.pool_data import PoolData
from vbon.training.rollout import roll_out
from vbon.training.task import Task

N, NUM_SAMPLES, GOAL = 8, 200, 0.95
NUM_PROMPTS, SAMPLES, EPOCHS, MINIBATCH = 32, 8, 2, 64
ITERATIONS, AIMS, RATES = (20, 40), (N - 1, N - 2), (1e-4, 3e-4)
WARM_STEPS = {"offline": 20, "critic": 60}
MEASURED = 32


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
        prompts=[make_prompt(text_of(prompt), {}) for prompt in prompts],
        rewards=rewards,
        has_completion_ids=True,
        completion_ids=ids,
        ref_logprobs=np.array(logprobs),
        prompt_index=np.repeat(np.arange(len(prompts)), NUM_SAMPLES),
        offsets=np.arange(len(prompts) + 1) * NUM_SAMPLES,
    )
    sampling = Sampling(1.0, NEW_TOKENS, (EOS,), PAD)
    cdf = RewardCDF(rewards, counts)
    return Task(pool, cdf, "random", prompts, word_tokenizer(), reward, sampling)  # type: ignore[arg-type]


def fused() -> Any:
    model = gpt2()
    fuse_activations(model)
    return model


@dataclass(frozen=True)
class Try:
    """One point of the search."""

    iterations: int
    aim: int
    rate: float


class Clock:
    """Seconds of one training, and where it ended; what is measured does not count."""

    def __init__(self, task: Task):
        self.task, self.ref_policy = task, fused()
        by_prompt = task.pool.rewards.reshape(len(task), -1)
        self.start_reward = float(by_prompt.mean())
        self.bon_gain = float(np.mean([expectation(row, row, N) for row in by_prompt])) - self.start_reward
        self.seconds, self._since = 0.0, now()

    def resume(self) -> None:
        self._since = now()

    @torch.no_grad()
    def stop(self, policy: Any) -> None:
        """After the last iteration: share of best-of-N's gain, and KL(π_θ‖π_ref) in nats, over fresh samples."""
        self.seconds += now() - self._since
        uniforms = seeds.uniforms((len(self.task), MEASURED, NEW_TOKENS), 1, 99)
        rolled = roll_out(
            policy,
            self.ref_policy,
            self.task,
            torch.arange(len(self.task)),
            uniforms,
            lambda rewards, interval: SimpleNamespace(sequence_reward=rewards, kl_coef=1.0),
        )
        self.share = (float(rolled.rewards.mean()) - self.start_reward) / self.bon_gain
        self.kl = float(rolled.log_ratio().mean())

    def row(self, name: str, tried: Try) -> dict[str, Any]:
        return {
            "contender": name,
            **asdict(tried),
            "seconds": round(self.seconds, 2),
            "share of gain": round(self.share, 3),
            "kl_policy_ref": round(self.kl, 3),
            "kl_bon_ref": round(float(kl_from_reference(N)), 3),
            "reached": self.share >= GOAL and self.kl <= kl_from_reference(N),
        }


def run_vbon(clock: Clock, tried: Try, *, warm_start: Literal["none", "offline", "critic"], **changes: Any) -> None:
    steps = WARM_STEPS.get(warm_start, 0)
    config = TrainConfig(
        **{
            "pool": "-",
            "model": "-",
            "reward": "-",
            "out": "-",
            "n": tried.aim,
            "algorithm": "rloo",
            "minibatch_size": MINIBATCH,
            "num_iterations": tried.iterations,
            "learning_rate": tried.rate,
            "rollouts_per_iteration": SAMPLES * len(clock.task),
            "samples_per_prompt": SAMPLES,
            "num_epochs": EPOCHS,
            "warm_start": warm_start,
            "offline_steps": steps,
            "offline_learning_rate": 1e-3,
            "offline_batch_size": 128,
            **changes,
        }
    )
    learner = make_learner(fused(), config, Accelerator(cpu=True))
    clock.resume()
    if steps:
        data = PoolData(clock.task, tried.aim)
        one_step = critic_step if warm_start == "critic" else offline_step
        for step in range(steps):
            one_step(learner, data, config, step)
        learner.optimizer.reset()
    for iteration in range(tried.iterations):
        run_iteration(learner, clock.ref_policy, clock.task, config, iteration)
    clock.stop(learner.policy)


def run_trl(clock: Clock, tried: Try) -> None:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    rollouts = SAMPLES * len(clock.task)
    steps = EPOCHS * rollouts // MINIBATCH

    class Timed(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.resume()

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            clock.stop(model.eval())

    by_prompt = clock.task.pool.rewards.reshape(len(clock.task), -1).tolist()
    rows = [
        {"prompt": text_of(ids), "ref_rewards": mine}
        for ids, mine in zip(clock.task.prompt_ids, by_prompt, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        gpt2().save_pretrained(f"{folder}/model")
        config = RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=MINIBATCH,
            steps_per_generation=rollouts // MINIBATCH,
            num_iterations=EPOCHS,
            num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS,
            temperature=1.0,
            learning_rate=tried.rate,
            lr_scheduler_type="linear",
            max_steps=steps * tried.iterations,
            use_cpu=True,
            adam_epsilon=1e-5,
            gradient_checkpointing=False,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **rloo_config_kwargs(tried.aim),
        )
        RLOOTrainer(
            model=f"{folder}/model",
            reward_funcs=VbonReward(reward, tried.aim),
            args=config,  # type: ignore[arg-type]
            train_dataset=Dataset.from_list(rows),
            processing_class=word_tokenizer(),
            callbacks=[Timed()],
        ).train()


def run_kl_rl(clock: Clock, tried: Try) -> None:
    spread = float(clock.task.pool.rewards.reshape(len(clock.task), -1).std(1).mean())
    kl_coef = spread / float(np.sqrt(2 * kl_from_reference(tried.aim)))
    run_vbon(clock, tried, warm_start="none", objective="reward", kl_coef=kl_coef, method="kl-rl")


CONTENDERS: dict[str, Callable[[Clock, Try], None]] = {
    "vbon PPO, warm start of the critic": partial(
        run_vbon, warm_start="critic", algorithm="ppo", gae_lambda=0.5, critic_layers=1
    ),
    "vbon, warm start": partial(run_vbon, warm_start="offline"),
    "vbon": partial(run_vbon, warm_start="none"),
    "KL-RL": run_kl_rl,
    "TRL RLOO, vbon's reward": run_trl,
}


class Tries:
    """What was tried, a row each, on disk as soon as it is there; rows of an earlier call are not made again."""

    def __init__(self, path: Path | None):
        self._path = path
        self.rows: list[dict[str, Any]] = [] if path is None else read_rows(path)

    def row(self, name: str, tried: Try, task: Task) -> dict[str, Any]:
        for row in self.rows:
            if row["contender"] == name and Try(row["iterations"], row["aim"], row["rate"]) == tried:
                return row
        clock = Clock(task)
        CONTENDERS[name](clock, tried)
        self.rows.append(clock.row(name, tried))
        print(self.rows[-1], file=sys.stderr, flush=True)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
        return self.rows[-1]


def search(name: str, task: Task, iterations: Sequence[int], tries: Tries) -> Iterator[dict[str, Any]]:
    """A row of each try, shortest first; nothing longer is tried where one was there."""
    for length in iterations:
        rows = [tries.row(name, Try(length, aim, rate), task) for aim, rate in itertools.product(AIMS, RATES)]
        yield from rows
        if any(row["reached"] for row in rows):
            return


def summary(tries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contender: its shortest run that was there, and how many times longer that took than vbon's fastest."""
    rows = []
    for name in dict.fromkeys(row["contender"] for row in tries):
        there = [row for row in tries if row["contender"] == name and row["reached"]]
        none = dict.fromkeys(tries[0]) | {"contender": name, "reached": False}
        rows.append(min(there, key=lambda row: row["seconds"]) if there else none)
    ours = [row["seconds"] for row in rows if row["contender"].startswith("vbon") and row["reached"]]
    return [
        row | {"time / vbon": round(row["seconds"] / min(ours), 2) if ours and row["reached"] else None} for row in rows
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tries", type=Path, help="JSONL of what was tried: rows that are there are not made again")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    task = make_pool_task(fused(), random_rows(8 if args.tiny else NUM_PROMPTS, 2, 8))
    tries = Tries(args.tries)
    rows = [row for name in CONTENDERS for row in search(name, task, (1,) if args.tiny else ITERATIONS, tries)]
    report(summary(rows), args, tries=rows)


if __name__ == "__main__":
    main()
