"""Online training reaches best-of-8 on the enumerable task: KL(π_θ‖π_bon) exact, by enumeration, ties included."""

import pytest
from tests.training.runs import BOUNDS, N, to_best_of_8

from vbon.models import load
from vbon.training.train import train


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
