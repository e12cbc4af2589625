"""Settings of different features together: each pair works on the ranks that it says, or is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
from tests.enumerable import write_pool
from tests.training.runs import refuse
from tests.training.test_pairwise_reward import JUDGE

from vbon.config.evaluate import EvaluateConfig, GenerateConfig
from vbon.config.pool import CollectConfig, InspectConfig
from vbon.core import rank_tilts
from vbon.core.rank_tilts import parse
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.evaluation.generate import generate_command
from vbon.pool.collect import collect
from vbon.pool.inspect import inspect_command
from vbon.training import trainer
from vbon.training.train import train

N = 4.0


@pytest.fixture(scope="module")
def parts(world) -> dict[str, dict]:
    """Settings by name: several rewards, a pairwise judge, tilts, the tail, the dial."""
    (world.folder / "judge.py").write_text(JUDGE)
    judge = f"pairwise:{world.folder}/judge.py:better"
    collect(
        CollectConfig(
            model=world.model,
            reward=judge,
            prompts=str(world.folder / "prompts.jsonl"),
            out=str(world.folder / "judged-pool"),
            num_samples=20,
            max_new_tokens=world.world.max_new_tokens,
            opponents=8,
            device="cpu",
        ),
        progress=False,
    )
    levels = str(write_pool(world, world.folder / "pool-levels", function="levels"))
    return {
        "combine": {"combine_with": (levels,), "combine_rewards": (world.reward("levels"),), "combine": "worst"},
        "pairwise": {"pool": str(world.folder / "judged-pool"), "reward": judge, "opponents": 8},
        "capped": {"tilt": "capped:0.8"},
        "kth": {"tilt": "kth:2"},
        "worst": {"tilt": "worst"},
        "tail": {"tail": "exponential"},
        "refine": {"refine_tail": True},
        "saving": {"save_rollouts": True, "checkpoint_every": 1, "keep_checkpoints": 5},
    }


def joined(parts: dict[str, dict], pair: str) -> dict:
    return {key: value for name in pair.split() for key, value in parts[name].items()}


@pytest.mark.parametrize(
    "pair", ["capped combine", "worst combine", "kth pairwise", "kth tail", "capped tail", "capped refine"]
)
def test_a_tilt_weighs_the_ranks_of_the_other_setting(configure, parts, pair, monkeypatch):
    seen, original = [], trainer.run_iteration

    def keeping(*arguments):
        metrics, rollouts = original(*arguments)
        seen.append(rollouts)
        return metrics, rollouts

    monkeypatch.setattr(trainer, "run_iteration", keeping)
    settings = joined(parts, pair)
    train(configure(num_iterations=2, validation_fraction=0.0, **settings))
    tilt = parse(settings["tilt"], N)
    for rollouts in seen:
        interval = rollouts.interval
        log_w = rank_tilts.log_weight(interval.cdf_lt, interval.cdf_le, tilt)
        assert np.isfinite(log_w).all() and np.ptp(log_w) > 0.1
        np.testing.assert_allclose(rollouts.sequence_reward.numpy() / rollouts.kl_coef, log_w, rtol=1e-12)


@pytest.mark.parametrize("pair", ["saving combine", "saving pairwise", "saving refine"])
def test_rollouts_of_other_ranks_are_replayed(configure, parts, pair):
    settings = joined(parts, pair)
    run = Path(train(configure(num_iterations=2, **settings))["out"])
    file = str(run / "vbon/rollouts/iteration-000001.safetensors")
    assert train(configure(num_iterations=2, **settings, replay=file))["same_weights_as_the_run"] is True


@pytest.mark.parametrize("other", ["combine", "tail", "judges"])
def test_the_dial_is_measured_with_the_other_setting(world, configure, pool, parts, tmp_path, other):
    given = {"judges": (world.reward("levels"),)} if other == "judges" else parts[other]
    run = train(configure(num_iterations=2, **(parts["combine"] if other == "combine" else {})))["out"]
    config = EvaluateConfig(
        runs=(run,), pool=str(pool), out=str(tmp_path / "out"), device="cpu", throughput=False, dial=(2.0, N), **given
    )
    summary = evaluate_command(config)
    turned = summary["dials"][1]["metrics"]
    assert summary["dials"][1]["share"] == 1
    for key in ("reward", "win_rate", "kl_policy_bon"):  # with λ = 1 the mixture is the run itself
        own = summary["policies"][Path(run).name]["metrics"][key]["value"]
        assert turned[key]["value"] == pytest.approx(own, abs=1e-3)


def test_a_run_with_a_tilt_cannot_be_turned(world, configure, pool, tmp_path):
    run = train(configure(num_iterations=2, tilt="poisson"))["out"]
    evaluation = EvaluateConfig(
        runs=(run,), pool=str(pool), out=str(tmp_path / "out"), device="cpu", throughput=False, dial=(2.0,)
    )
    with pytest.raises(VbonError, match="trained with --tilt poisson; only best-of-N can be turned"):
        evaluate_command(evaluation)
    prompts = str(world.folder / "prompts.jsonl")
    with pytest.raises(VbonError, match="only best-of-N can be turned"):
        generate_command(GenerateConfig(model=run, prompts=prompts, dial=2.0, device="cpu"))


def test_a_judge_and_several_rewards_are_refused(configure, parts):
    refuse(configure(**joined(parts, "pairwise combine")), "pairwise reward cannot be combined")
    for rewards in ({"reward": parts["pairwise"]["reward"]}, {"combine_rewards": (parts["pairwise"]["reward"],)}):
        config = EvaluateConfig(runs=("run",), pool="pool", out="out", combine_with=("other",), **rewards)
        with pytest.raises(VbonError, match="pairwise reward cannot be combined"):
            config.validate()


def test_evaluate_refuses_the_tail_under_a_judge(world, configure, parts, tmp_path):
    run = train(configure(num_iterations=2, **parts["pairwise"]))["out"]
    pool = parts["pairwise"]["pool"]
    config = EvaluateConfig(runs=(run,), pool=pool, out=str(tmp_path / "out"), device="cpu", **parts["tail"])
    with pytest.raises(VbonError, match="has no number for a completion alone; leave --tail out"):
        evaluate_command(config)


def test_inspect_refuses_a_pairwise_judge(parts):
    config = InspectConfig(pool=parts["pairwise"]["pool"], n=(2,), judges=(parts["pairwise"]["reward"],))
    with pytest.raises(VbonError, match="a pairwise judge has no number for a completion alone"):
        inspect_command(config)
