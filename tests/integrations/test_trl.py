"""The installed TRL calls our reward and trains with it; the exact KL(π_θ‖π_bon) is the judge."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")

from datasets import Dataset  # noqa: E402
from tests.enumerable import write_pool  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from vbon.core import objectives  # noqa: E402
from vbon.core.reward_cdf import RewardCDF  # noqa: E402
from vbon.errors import VbonError  # noqa: E402
from vbon.integrations.trl import VbonReward, completion_text, grpo_config_kwargs, rloo_config_kwargs  # noqa: E402
from vbon.pool import ReferencePool  # noqa: E402

# What TRL and transformers warn of among themselves is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

N = 8
KL_BAR = 0.1  # nats; it starts at 4.9, and 0.050 was measured. beta left at TRL's default of 0.05 ends at 0.50
ONE_STEP = {
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
}


def train(lab, args, trainer_class, reward, rows: list[dict]):
    """A real trainer, trained: the reference is reloaded from the model's own directory."""
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    trainer = trainer_class(
        model=str(lab.model),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def rho_by_core(pool: ReferencePool, rewards: np.ndarray) -> np.ndarray:
    interval = RewardCDF(pool.rewards[: pool.num_samples[0]], [pool.num_samples[0]]).interval(
        [0] * len(rewards), rewards
    )
    return objectives.vbon(rewards, interval, N).sequence_reward


@pytest.mark.learning
def test_rloo_reaches_best_of_n(lab, draw_pool: Callable[..., ReferencePool], tmp_path: Path):
    """400 optimiser steps on 100 batches of 256 samples: KL(π_θ‖π_bon), over all 781 completions, ≤ 0.1 nats."""
    pool = draw_pool(5000)
    args = trl.RLOOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=256,
        num_generations=256,
        num_iterations=4,
        max_steps=400,
        learning_rate=2e-3,
        lr_scheduler_type="linear",
        seed=0,
        **ONE_STEP | {"logging_steps": 400},
        **rloo_config_kwargs(N, pool.fingerprint),
    )
    trainer = train(lab, args, trl.RLOOTrainer, VbonReward(lab.reward("positions"), N, pool), [{"prompt": "start"}])
    assert lab.kl_policy_bon(trainer.ref_model, N, "positions") > 4
    assert lab.kl_policy_bon(trainer.model, N, "positions") <= KL_BAR
    assert trainer.state.log_history[0]["vbon/win_rate"] > 0.8


@pytest.mark.parametrize("carried", ["prompt text", "prompt_id", "ref_rewards"])
def test_the_trainer_logs_the_rho_of_core(lab, draw_pool, tmp_path: Path, carried: str):
    """One step of RLOO: the reward that TRL records for each completion is core's, whichever way the pool came."""
    pool, seen = draw_pool(50), []
    reward = VbonReward(lab.reward("positions"), N, pool=None if carried == "ref_rewards" else str(pool.path))

    def spy(completions, **columns):
        values = reward(completions=completions, **columns)
        seen.append((completions, values, columns["completion_ids"]))
        return values

    row = {"prompt": "start"}
    row |= {"prompt_id": pool.prompts[0].prompt_id} if carried == "prompt_id" else {}
    row |= {"ref_rewards": pool.rewards.tolist()} if carried == "ref_rewards" else {}
    args = trl.RLOOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_generations=8,
        max_steps=1,
        **ONE_STEP,
        **rloo_config_kwargs(N, pool.fingerprint),
    )
    trainer = train(lab, args, trl.RLOOTrainer, spy, [row])
    ((texts, values, ids),) = seen
    rewards = np.array([lab.rewards("positions")[0, lab.world.texts.index(text)] for text in texts])
    assert values == rho_by_core(pool, rewards).tolist()
    assert {len(one) <= 4 for one in ids} == {True}  # the pool's max_new_tokens came through
    log = trainer.state.log_history[0]
    assert log["reward"] == pytest.approx(np.mean(values), rel=1e-5)
    assert log["vbon/reward"] == pytest.approx(rewards.mean())
    ranks = [(pool.rewards < r).mean() / 2 + (pool.rewards <= r).mean() / 2 for r in rewards]
    assert log["vbon/win_rate"] == pytest.approx(np.mean(ranks))
    assert log["kl"] == pytest.approx(0, abs=1e-5)  # dropout off, and the reference is the policy


def test_grpo_takes_the_settings_and_steps(lab, draw_pool, tmp_path: Path):
    pool = draw_pool(50)
    settings = grpo_config_kwargs(N, 4, pool.fingerprint)
    assert settings["beta"] == pytest.approx(3 / 4 / 7)
    args = trl.GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=1, **ONE_STEP, **settings)
    trainer = train(lab, args, trl.GRPOTrainer, VbonReward(lab.reward("positions"), N, pool), [{"prompt": "start"}] * 2)
    assert trainer.state.log_history[0]["vbon/sequence_reward"] <= np.log(N) / (N - 1)


def test_columns_of_the_dataset_reach_the_base_reward(tmp_path: Path):
    (tmp_path / "verify.py").write_text(
        "def verify(completions, answer):\n    return [float(c == a) for c, a in zip(completions, answer)]\n"
    )
    values = VbonReward(f"{tmp_path}/verify.py:verify", 4)(
        prompts=["1+1=", "2+2="],
        completions=["2", "5"],
        completion_ids=[[1], [2]],
        trainer_state=None,
        answer=["2", "4"],
        ref_rewards=[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]],
    )
    # F_< = 2/4, F_≤ = 1 for the right one; 0 and 3/4 for the wrong one: W_4 = (b⁴ − a⁴)/(b − a)
    assert values == pytest.approx([np.log((1 - 0.5**4) / 0.5) / 3, np.log(0.75**3) / 3])


def test_messages_of_one_turn_are_text_and_more_are_refused():
    assert completion_text([{"role": "assistant", "content": "yes"}]) == "yes"
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": "y"}, {"text": "es"}]}]) == "yes"
    with pytest.raises(VbonError, match="3 messages; a pool ranks single-turn completions only"):
        completion_text([{"role": "assistant", "content": ""}] * 3)


def test_settings_are_the_objective():
    settings = rloo_config_kwargs(5)
    assert settings["beta"] == 0.25 and settings["disable_dropout"] and settings["top_k"] == 0
    assert "temperature" not in settings
    with pytest.raises(ValueError, match="num_generations must be at least 2"):
        grpo_config_kwargs(5, 1)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([[1, 2, 0]], None),
        ([[1, 1, 1, 1]], None),
        ([[1, 3, 0]], "continue behind a stop token of the pool"),
        ([[1, 2]], "end at the token 2"),
    ],
)
def test_a_trainer_that_ends_completions_elsewhere_is_refused(lab, tmp_path: Path, ids, said):
    """Without `vbon integrate` nobody has compared the stop tokens; the completions themselves tell."""
    declared = {"model": None, "tokenizer": None, "chat_template": None, "stop": (0, 3)}
    pool = write_pool(lab, tmp_path / "pool", 20, "positions", **declared)
    reward = VbonReward(lab.reward("positions"), N, pool=str(pool))
    call = {"prompts": ["start"], "completions": [" a b"], "completion_ids": ids}
    if said is None:
        assert len(reward(**call)) == 1
        return
    with pytest.raises(VbonError, match=said):
        reward(**call)
