"""DeepSpeed on two CPU processes: one process's sums, checkpoints that know nothing of it, the real launcher."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.conftest import write_pool
from tests.training.test_launch import kill_launched, torchrun
from tests.training.test_learning import BOUNDS
from tests.training.test_processes import FLOAT32 as ONE_UPDATE
from tests.training.test_trainer import rows
from tests.training.ways import Way, assert_same_run, launch_as_the_guide_says, train, train_cut, update

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed"
)
ONE: Way = (1, {})
DDP: Way = (2, {})


def zero(stage: int) -> Way:
    return 2, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "rloo"},
        {"algorithm": "ppo", "critic": "separate"},
        {"algorithm": "ppo", "critic": "shared", "lora_rank": 2},
    ],
    ids=["rloo", "ppo", "ppo-shared-lora"],
)
def test_one_update_by_two_engines_is_that_of_one_process(configure, tmp_path, settings, stage):
    """Sampling, log-probabilities, both networks, clipping and the step: with a minibatch of all rollouts."""
    config = configure(minibatch_size=32, advantage_clip=5.0, max_grad_norm=0.1, **settings)
    update(config, *ONE, tmp_path / "one")
    update(config, *zero(stage), tmp_path / "two")
    with safe_open(tmp_path / "two", "np") as file:
        assert file.metadata() == {"num_processes": "2", "in_shards": str(stage == 3), "descent": "Zero"}
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=ONE_UPDATE, err_msg=name)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_gradient_that_is_not_finite_changes_no_weight(configure, tmp_path, stage):
    count, told = zero(stage)
    for status, said in ranks.run_ranks(ranks.exploding_update, count, tmp_path, configure(), environment=told):
        assert status == 0, said[-3000:]


@pytest.mark.parametrize(
    ("ways", "settings"),
    [
        ((zero(3), ONE), {"warm_start": "critic"}),
        ((DDP, zero(3)), {"warm_start": "critic"}),
        ((zero(3), zero(2)), {"critic": "shared"}),
        ((DDP, zero(1)), {"critic": "shared", "lora_rank": 2}),
    ],
    ids=["3-to-one", "ddp-to-3", "3-to-2-shared", "ddp-to-1-shared-lora"],
)
def test_a_checkpoint_moves_between_engines_and_whole_networks(configure, tmp_path, ways, settings):
    """Cut back to its middle and continued in another way, a run ends where an uncut one of one process does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4, **settings}
    whole, moved = (configure(out=str(tmp_path / name), **settings) for name in ("whole", "moved"))
    train(whole, *ONE, tmp_path)
    train_cut(moved, list(ways), tmp_path)
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))


def test_engines_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    """BOND, which runs the policy twice before a gradient, after a warm start; against one process."""
    settings = {"objective": "bond", "warm_start": "offline", "minibatch_size": 32, "keep_checkpoints": 4}
    settings["validation_fraction"] = 0.0  # as many prompts as an iteration takes: none twice, in two processes
    alone, together = (configure(out=str(tmp_path / name), **settings) for name in ("alone", "together"))
    train(alone, *ONE, tmp_path)
    launch_as_the_guide_says(together, "deepspeed.yaml", tmp_path)
    assert_same_run(together.out, alone.out, ("policy", "optimizer"))


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_two_engines_by_accelerate_launch_reach_best_of_8(world, configure, tmp_path):
    """The same run and the same bar as one process's, levels of a tied reward."""
    config = configure(
        pool=str(write_pool(world, tmp_path / "pool", 4000, "levels")), reward=world.reward("levels"), n=8.0,
        num_iterations=60, num_epochs=4, rollouts_per_iteration=128, samples_per_prompt=8, minibatch_size=64,
        learning_rate=5e-3, validation_fraction=0.0, validation_every=15, checkpoint_every=60, algorithm="ppo",
    )  # fmt: skip
    launch_as_the_guide_says(config, "deepspeed.yaml", tmp_path, limit=580)
    assert world.kl_policy_bon(config.out, 8.0, "levels") < BOUNDS["levels"][1]


@pytest.mark.learning
@pytest.mark.timeout(900)
def test_killed_and_resumed_engines_end_bit_for_bit_like_undisturbed_ones(configure, tmp_path, monkeypatch):
    """torchrun, told of DeepSpeed as accelerate's launcher would: one process killed, then all at once."""
    settings = {"algorithm": "ppo", "num_iterations": 16, "checkpoint_every": 4, "validation_every": 8}
    whole, killed = configure(out=str(tmp_path / "whole"), **settings), configure(out=str(tmp_path / "k"), **settings)
    train(whole, *zero(3), tmp_path)
    for name, value in zero(3)[1].items():
        monkeypatch.setenv(name, value)
    for flags, count, everyone in (((), 5, False), (("--resume",), 11, True)):
        assert kill_launched(killed, tmp_path, *flags, after_rows=count, everyone=everyone) != 0
        assert not (Path(killed.out) / "model.safetensors").exists()
    status, said = torchrun(killed, tmp_path, "--resume").wait(300), (tmp_path / "torchrun").read_text()
    assert status == 0, said[-3000:]
    for name in ("model.safetensors", "vbon/checkpoints/step-000016/critic.safetensors"):
        assert (Path(killed.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, 17))
