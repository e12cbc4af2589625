"""The critic's warm start on an enumerable pool: what it learns, and that the policy stays where it was."""

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.enumerable import COMPLETIONS, PAD

from vbon.core.best_of_n import kl_coef_from_n
from vbon.models import load
from vbon.models.batch import sequences
from vbon.training.critic_start import critic_step
from vbon.training.parallel.learner import make_learner
from vbon.training.pool_data import PoolData
from vbon.training.train import train

N = 4.0


def prefix_expectations(data, prompt):
    """E[Ŵ | prefix] over the pool's samples of a prompt."""
    rows = np.flatnonzero(data.prompt_index == prompt)
    found = {}
    for row in rows:
        for t in range(len(data.completion_ids[row])):
            found.setdefault(tuple(data.completion_ids[row][:t]), []).append(np.exp(data.log_weights[row]))
    return {prefix: np.mean(weights) for prefix, weights in found.items() if len(weights) >= 20}


def test_the_critic_learns_what_each_prefix_is_worth(task, configure):
    config = configure(algorithm="ppo", offline_steps=150, offline_batch_size=128, offline_learning_rate=3e-3)
    learner = make_learner(load.load_policy(config.model), config, Accelerator(cpu=True))
    data = PoolData(task, N)
    losses = [critic_step(learner, data, config, step)["offline_loss"] for step in range(150)]
    assert np.mean(losses[-20:]) < losses[0] - 0.1
    for prompt in (0, 5):
        batch = sequences([task.prompt_ids[prompt]] * len(COMPLETIONS), COMPLETIONS, PAD)
        with torch.no_grad():
            values = learner.critic(batch).numpy() / kl_coef_from_n(N)
        values = values - values[:, :1]
        expected = prefix_expectations(data, prompt)
        pairs = {
            prefix: values[i, t]
            for i, c in enumerate(COMPLETIONS)
            for t in range(len(c))
            if (prefix := tuple(c[:t])) in expected
        }
        learned, target = np.array([[v, np.log(max(expected[p], 0.05))] for p, v in pairs.items()]).T
        assert np.corrcoef(learned, target)[0, 1] > 0.9
        assert np.abs(learned - target).mean() < 0.3  # nats; the pool's own noise at 20 samples is about this


def test_the_policy_is_the_reference_until_the_first_iteration(configure, world):
    config = configure(algorithm="ppo", warm_start="critic", num_iterations=1, learning_rate=1e-12)
    result = train(config)
    trained = load_file(f"{config.out}/model.safetensors")
    reference = load_file(f"{world.model}/model.safetensors")
    assert max(float((trained[name] - reference[name]).abs().max()) for name in reference) < 1e-8
    assert abs(result["validation/kl_policy_ref"]) < 1e-5
