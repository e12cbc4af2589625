"""One iteration against TRL's RLOOTrainer and a bare floor: same model, prompts, reward and settings.

vbon's RLOO, and its PPO with a critic of its own, of half the layers (the default) and of all, and with one on the
policy's trunk, which TRL has no counterpart of.

128 rollouts (32 prompts × 4), 16 new tokens, 4 epochs in minibatches of 32. The floor is what any such iteration must
do, written plainly with transformers: generate, score under the reference, and 4 × 4 forward and backward passes.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback

from benchmarks.measure import arguments, interleave, now, report, rows_of
from benchmarks.models import EOS, LAYERS, NEW_TOKENS, PAD, VOCAB, gpt2, random_rows
from vbon.config.train import TrainConfig
from vbon.core.reward_cdf import RewardCDF
from vbon.models.batch import pad_left
from vbon.models.fused import fuse_activations
from vbon.models.generate import Sampling
from vbon.pool.prompts import make_prompt
from vbon.training.defaults import critic_layers
from vbon.training.online import run_iteration
from vbon.training.parallel.learner import make_learner
from vbon.training.task import Task

NUM_PROMPTS, SAMPLES, EPOCHS, MINIBATCH, BETA = 32, 4, 4, 32, 0.1
ROLLOUTS = NUM_PROMPTS * SAMPLES
STEPS = EPOCHS * ROLLOUTS // MINIBATCH


def word_tokenizer(size: int = VOCAB) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token=f"t{PAD}"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=f"t{EOS}", pad_token=f"t{PAD}", clean_up_tokenization_spaces=False
    )


def text_of(ids: Sequence[int]) -> str:
    return " ".join(f"t{token}" for token in ids)


def reward(prompts: Sequence[Any], completions: Sequence[str], **_: Any) -> Any:
    """Mean token number: cheap, so that training itself is timed."""
    return np.array([np.mean([int(word[1:]) for word in text.split()] or [0]) for text in completions])


class OneIteration(TrainerCallback):
    """Seconds from the end of one of TRL's iterations to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % STEPS == 0:
            self.ends.append(now())


def trl_seconds(prompts: list[list[int]], iterations: int) -> list[float]:
    """Seconds of each iteration of TRL after its first."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    clock = OneIteration()
    with tempfile.TemporaryDirectory() as folder:
        gpt2().save_pretrained(f"{folder}/model")
        config = RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=MINIBATCH,
            steps_per_generation=ROLLOUTS // MINIBATCH,
            num_iterations=EPOCHS,
            num_generations=SAMPLES,
            beta=BETA,
            max_completion_length=NEW_TOKENS,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            learning_rate=1e-6,
            max_steps=STEPS * (iterations + 1),
            use_cpu=True,
            gradient_checkpointing=False,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = RLOOTrainer(
            model=f"{folder}/model",  # TRL loads its reference from a path
            reward_funcs=lambda prompts, completions, **_: reward(prompts, completions).tolist(),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text_of(ids)} for ids in prompts]),
            processing_class=word_tokenizer(),
            callbacks=[clock],
        )
        trainer.train()
    return np.diff(clock.ends).tolist()


def make_task(prompts: list[list[int]], num_samples: int = 200, vocab_size: int = VOCAB) -> Task:
    """Prompts with made-up pools of `num_samples` rewards each."""
    rng = np.random.default_rng(0)
    pool = SimpleNamespace(prompts=[make_prompt(text_of(ids), {}) for ids in prompts])
    cdf = RewardCDF(rng.normal(VOCAB / 2, 40, len(prompts) * num_samples), np.full(len(prompts), num_samples))
    sampling = Sampling(1.0, NEW_TOKENS, (EOS,), PAD)
    return Task(pool, cdf, "random", prompts, word_tokenizer(vocab_size), reward, sampling)  # type: ignore[arg-type]


def vbon_iteration(
    prompts: list[list[int]], make: Callable[[], GPT2LMHeadModel] = gpt2, **changes: Any
) -> Callable[[], tuple[dict[str, float], Any]]:
    """`make`: the model, on the device where it is to run."""
    policy, ref_policy = make(), make()
    for model in (policy, ref_policy):
        fuse_activations(model)
    config = TrainConfig(
        **{
            "pool": "-",
            "model": "-",
            "reward": "-",
            "out": "-",
            "n": 1 + 1 / BETA,
            "algorithm": "rloo",
            "rollouts_per_iteration": SAMPLES * len(prompts),
            "samples_per_prompt": SAMPLES,
            "num_epochs": EPOCHS,
            "minibatch_size": MINIBATCH,
            "learning_rate": 1e-6,
            **changes,
        }
    )
    config = replace(config, critic_layers=critic_layers(config, policy))
    task = make_task(prompts, vocab_size=policy.config.vocab_size)
    learner = make_learner(policy, config, Accelerator(cpu=policy.device.type == "cpu"))
    return lambda: run_iteration(learner, ref_policy, task, config, iteration=1)


def floor_iteration(prompts: list[list[int]], make: Callable[[], GPT2LMHeadModel] = gpt2) -> Any:
    policy, ref_policy = make(), make()
    rows = [prompt for prompt in prompts for _ in range(SAMPLES)]
    ids, mask = (part.to(policy.device) for part in pad_left(rows, PAD))

    def loss(model: GPT2LMHeadModel, rows: torch.Tensor) -> torch.Tensor:
        labels = rows.clone()
        labels[:, : ids.shape[1]] = -100
        value: torch.Tensor = model(input_ids=rows, attention_mask=(rows != PAD).long(), labels=labels).loss
        return value

    def run() -> None:
        sampled = policy.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
        with torch.no_grad():
            loss(ref_policy, sampled)
        for _ in range(EPOCHS):
            for rows in sampled.split(MINIBATCH):
                loss(policy, rows).backward()
        policy.zero_grad()

    return run


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    prompts = random_rows(NUM_PROMPTS, 2, 8)
    contenders = {
        "vbon": vbon_iteration(prompts),
        "vbon PPO": vbon_iteration(prompts, algorithm="ppo"),
        "vbon PPO, critic of all layers": vbon_iteration(prompts, algorithm="ppo", critic_layers=LAYERS),
        "vbon PPO, shared trunk": vbon_iteration(prompts, algorithm="ppo", critic="shared"),
        "bare floor": floor_iteration(prompts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*contenders, "TRL RLOO")}
    for _ in range(1 if args.tiny else args.repeats):
        seconds["TRL RLOO"] += trl_seconds(prompts, iterations=1)
        for name, times in interleave(contenders, repeats=1, warm_up=0 if args.tiny else 1).items():
            seconds[name] += times
    report(rows_of(seconds, "vbon", work=ROLLOUTS), args)


if __name__ == "__main__":
    main()
