"""FSDP2 on two CPU processes: one process's sums, checkpoints that know nothing of shards, the real launcher."""

import pytest
from tests.training.ways import (
    DDP,
    ONE,
    cut_and_continued_ends_like_one_process,
    launched_is_one_process,
    one_update_is_that_of_one_process,
)

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
WAYS = {"one": ONE, "ddp": DDP, "fsdp2": (2, FSDP2)}
IN_SHARDS = {"num_processes": "2", "in_shards": "True"}


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
    told = FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": activation_checkpointing}
    one_update_is_that_of_one_process(configure, (2, told), IN_SHARDS, tmp_path, **settings)


@pytest.mark.parametrize("ways", [("fsdp2", "one"), ("ddp", "fsdp2")], ids="-to-".join)
def test_a_checkpoint_moves_between_shards_and_whole_networks(configure, tmp_path, ways):
    cut_and_continued_ends_like_one_process(configure, [WAYS[way] for way in ways], tmp_path)


def test_shards_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    launched_is_one_process(configure, "fsdp2.yaml", tmp_path)
