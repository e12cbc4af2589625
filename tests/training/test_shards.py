"""FSDP2 on two CPU processes: one process's sums, checkpoints that know nothing of shards, the real launcher."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training.test_processes import FLOAT32 as ONE_UPDATE
from tests.training.ways import assert_same_run, launch_as_the_guide_says, train, train_cut, update

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
WAYS = {"one": (1, {}), "ddp": (2, {}), "fsdp2": (2, FSDP2)}


@pytest.mark.parametrize(
    ("settings", "activation_checkpointing"),
    [
        ({"algorithm": "rloo"}, "false"),
        ({"algorithm": "ppo", "critic": "separate"}, "true"),
        ({"algorithm": "ppo", "critic": "shared", "lora_rank": 2}, "false"),
    ],
    ids=["rloo", "ppo", "ppo-shared-lora"],
)
def test_one_update_in_two_shards_is_that_of_one_process(configure, tmp_path, settings, activation_checkpointing):
    """Sampling, log-probabilities, both networks, clipping and the step: with a minibatch of all rollouts."""
    config = configure(minibatch_size=32, advantage_clip=5.0, max_grad_norm=0.1, **settings)
    update(config, *WAYS["one"], tmp_path / "one")
    count, told = WAYS["fsdp2"]
    update(config, count, told | {"FSDP_ACTIVATION_CHECKPOINTING": activation_checkpointing}, tmp_path / "fsdp2")
    with safe_open(tmp_path / "fsdp2", "np") as file:
        assert file.metadata() == {"num_processes": "2", "in_shards": "True", "descent": "OneOptimizer"}
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "fsdp2")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=ONE_UPDATE, err_msg=name)


@pytest.mark.parametrize("ways", [("fsdp2", "one"), ("ddp", "fsdp2")], ids="-to-".join)
def test_a_checkpoint_moves_between_shards_and_whole_networks(configure, tmp_path, ways):
    """Cut back to its middle and continued in another way, a run ends where an uncut one of one process does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole, moved = (configure(out=str(tmp_path / name), **settings) for name in ("whole", "moved"))
    train(whole, *WAYS["one"], tmp_path)
    train_cut(moved, [WAYS[way] for way in ways], tmp_path)
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))


def test_shards_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    """BOND, which runs the policy twice before a gradient, after a warm start; against one process."""
    settings = {"objective": "bond", "warm_start": "offline", "minibatch_size": 32, "keep_checkpoints": 4}
    settings["validation_fraction"] = 0.0  # as many prompts as an iteration takes: none twice, in two processes
    alone, together = (configure(out=str(tmp_path / name), **settings) for name in ("alone", "together"))
    train(alone, *WAYS["one"], tmp_path)
    launch_as_the_guide_says(together, "fsdp2.yaml", tmp_path)
    assert_same_run(together.out, alone.out, ("policy", "optimizer"))
