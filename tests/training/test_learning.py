"""Online training reaches best-of-8 on the enumerable task: KL(π_θ‖π_bon) exact, by enumeration, ties included."""

import pytest
from tests.enumerable import write_pool

from vbon.config import TrainConfig
from vbon.models import load
from vbon.training.train import train

N = 8.0
# Nats at the start, and the most that may be left after 60 iterations of 128 rollouts with F from 4,000 samples.
# Measured with rloo, ppo and its shared critic, seeds 0 and 1: smooth .022 to .048, levels .007 to .014, binary .002 to
# .006.
BOUNDS = {"smooth": (3.756, 0.08), "levels": (1.790, 0.025), "binary": (0.353, 0.012)}


def to_best_of_8(world, configure, folder, function, **host) -> TrainConfig:
    """The run that BOUNDS are for, with a pool of its own."""
    pool = write_pool(world, folder / "pool", 4000, function)
    return configure(
        pool=str(pool),
        reward=world.reward(function),
        n=N,
        **host,
        num_iterations=60,
        num_epochs=4,
        rollouts_per_iteration=128,
        samples_per_prompt=8,
        minibatch_size=64,
        learning_rate=5e-3,
        validation_fraction=0.0,
        validation_every=15,
        checkpoint_every=60,
    )


@pytest.mark.learning
@pytest.mark.parametrize(
    "host", [{"algorithm": "rloo"}, {"algorithm": "ppo"}, {"algorithm": "ppo", "critic": "shared"}], ids=str
)
@pytest.mark.parametrize("function", list(BOUNDS))
def test_training_reaches_best_of_8(world, configure, tmp_path, function, host):
    start, left = BOUNDS[function]
    assert world.kl_policy_bon(load.load_policy(world.model), N, function) == pytest.approx(start, abs=0.01)
    result = train(to_best_of_8(world, configure, tmp_path, function, **host))
    exact = world.kl_policy_bon(result["out"], N, function)
    assert exact < left
    # The run's own estimate: 512 fresh samples of 8 prompts, F̂ from the pool; its error is a few hundredths of a nat.
    assert result["validation/kl_policy_bon"] == pytest.approx(exact, abs=0.1)
