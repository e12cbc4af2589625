"""What the model and the pool decide of a config, where the user does not."""

import pytest
import transformers

from vbon.pool import ReferencePool
from vbon.training.defaults import with_defaults


def gpt2(layers: int) -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(vocab_size=8, n_positions=16, n_embd=16, n_layer=layers, n_head=2)
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(("layers", "expected"), [(1, 1), (2, 1), (3, 2), (4, 2), (12, 6)])
def test_a_critic_of_its_own_has_half_the_layers(configure, pool, layers, expected):
    config = with_defaults(configure(algorithm="ppo"), gpt2(layers), ReferencePool.open(pool))
    assert config.critic_layers == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"algorithm": "ppo", "critic_layers": 4}, 4),
        ({"algorithm": "ppo", "critic": "shared"}, None),
        ({"algorithm": "rloo"}, None),
    ],
)
def test_what_is_asked_for_stays_and_where_there_is_no_such_critic_nothing_is_said(configure, pool, changes, expected):
    assert with_defaults(configure(**changes), gpt2(4), ReferencePool.open(pool)).critic_layers == expected


def test_a_model_that_does_not_say_which_its_layers_are_gets_a_whole_critic(configure, pool):
    model = gpt2(4)
    model.transformer.twice = model.transformer.h[:]  # a second list as long
    assert with_defaults(configure(algorithm="ppo"), model, ReferencePool.open(pool)).critic_layers is None


def test_steps_are_at_most_eight_passes_over_the_samples_that_weigh(configure, pool):
    opened = ReferencePool.open(pool)
    config = with_defaults(configure(n=8, offline_steps=None, offline_batch_size=64), gpt2(1), opened)
    effective = len(opened.rewards) * 15 / 64
    assert config.offline_steps == min(200, int(8 * effective / 64)) < 200


def test_the_rate_falls_as_the_model_widens(configure, pool):
    def rate(width: int) -> float:
        sizes = transformers.GPT2Config(vocab_size=8, n_positions=16, n_embd=width, n_layer=1, n_head=2)
        model = transformers.GPT2LMHeadModel(sizes)
        return with_defaults(
            configure(learning_rate=None, algorithm="rloo"), model, ReferencePool.open(pool)
        ).learning_rate

    assert [rate(32), rate(128), rate(256)] == [8e-4, 1e-4, 5e-5]
