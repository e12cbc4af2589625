"""DeepSpeed on two CPU processes: one process's sums, checkpoints that know nothing of it, the real launcher."""

import importlib.util

import pytest
from tests.training import ranks
from tests.training.test_learning import BOUNDS, N, to_best_of_8
from tests.training.ways import (
    DDP,
    ONE,
    Way,
    cut_and_continued_ends_like_one_process,
    killed_twice_ends_like_undisturbed,
    launch_as_the_guide_says,
    launched_is_one_process,
    one_update_is_that_of_one_process,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed"
)


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
    metadata = {"num_processes": "2", "in_shards": str(stage == 3), "descent": "Zero"}
    one_update_is_that_of_one_process(configure, zero(stage), metadata, tmp_path, **settings)


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
    cut_and_continued_ends_like_one_process(configure, list(ways), tmp_path, **settings)


def test_engines_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    launched_is_one_process(configure, "deepspeed.yaml", tmp_path)


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_two_engines_by_accelerate_launch_reach_best_of_8(world, configure, tmp_path):
    """The same run and the same bar as one process's, levels of a tied reward."""
    config = to_best_of_8(world, configure, tmp_path, "levels", algorithm="ppo")
    launch_as_the_guide_says(config, "deepspeed.yaml", tmp_path, limit=580)
    assert world.kl_policy_bon(config.out, N, "levels") < BOUNDS["levels"][1]


@pytest.mark.learning
@pytest.mark.timeout(900)
def test_killed_and_resumed_engines_end_bit_for_bit_like_undisturbed_ones(configure, tmp_path):
    """Told of DeepSpeed as accelerate's launcher would."""
    killed_twice_ends_like_undisturbed(configure, zero(3), 16, (5, 11), tmp_path)
