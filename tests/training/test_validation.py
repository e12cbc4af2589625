"""Metrics of rollouts against plain sums over their rows, and validation that draws the same numbers each time."""

from functools import partial

import numpy as np
import pytest
import torch

from vbon.core import seeds
from vbon.core.objectives import vbon
from vbon.models import load
from vbon.training.rollout import roll_out
from vbon.training.validation import kept_line, rollout_metrics, validate

N = 4.0


@pytest.fixture
def policy(world):
    model = load.load_policy(world.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_metrics_are_means_of_sums_over_real_tokens(world, policy, task):
    index = torch.tensor([3, 0, 6])
    rollouts = roll_out(
        policy, load.load_policy(world.model), task, index, seeds.uniforms((3, 16, 3), 1), partial(vbon, n=N)
    )
    pools = np.split(task.pool.rewards, task.pool.offsets[1:-1])
    objective, log_ratio, wins, surprise, lengths = [], [], [], [], []
    for row, prompt in enumerate(rollouts.prompt_index.tolist()):
        count = int(rollouts.mask[row].sum())
        old, ref = (t[row, :count].double().sum().item() for t in (rollouts.old_logprobs, rollouts.ref_logprobs))
        reward = rollouts.rewards[row]
        a, b = (pools[prompt] < reward).sum() / 251, ((pools[prompt] <= reward).sum() + 1) / 251
        log_ratio.append(old - ref)
        objective.append((np.log(sum(b**k * a ** (3 - k) for k in range(4))) - (old - ref)) / (N - 1))
        wins.append((a + b) / 2)
        surprise.append(-old)
        lengths.append(count)
    metrics = rollout_metrics(rollouts, N)
    expected = {
        "reward": rollouts.rewards.mean(),
        "objective": np.mean(objective),
        "kl_policy_ref": np.mean(log_ratio),
        "kl_policy_bon": -(N - 1) * np.mean(objective),
        "win_rate": np.mean(wins),
        "entropy": np.mean(surprise),
        "completion_length": np.mean(lengths),
        "objective_se": np.std(objective) / np.sqrt(48),
    }
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key
    # rows of two processes count as rows of one
    twice = rollout_metrics(rollouts, N, lambda rows: torch.cat([rows, rows]))
    assert twice["objective"] == pytest.approx(metrics["objective"])
    assert twice["objective_se"] == pytest.approx(metrics["objective_se"] / np.sqrt(2))


def test_intervals_are_of_prompt_means(world, policy, task):
    """Against the normal interval of the eight prompts' exact means, to which 64 completions add their own spread."""
    measured = validate(policy, load.load_policy(world.model), task, partial(vbon, n=N), n=N, seed=1)
    rewards = world.rewards()
    probs = np.exp(world.logprobs(policy))
    means = (probs * rewards).sum(1)
    within = ((probs * rewards**2).sum(1) - means**2).mean()
    width = measured["reward_high"] - measured["reward_low"]
    assert width == pytest.approx(2 * 2.365 * np.sqrt((means.var() + within / 64) / 7), rel=0.35)
    assert measured["reward_low"] < measured["reward"] < measured["reward_high"]


def test_validation_estimates_the_exact_divergences_and_repeats_itself(world, policy, task):
    reference = load.load_policy(world.model)
    first, again, other = (validate(policy, reference, task, partial(vbon, n=N), n=N, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    # four standard errors of 512 samples, and what F̂ from 250 samples may add
    slack = 4 * (N - 1) * first["objective_se"] + 0.03
    assert first["kl_policy_bon"] == pytest.approx(world.kl_policy_bon(policy, N), abs=slack)


RESULT = {"iterations": 8, "validation/win_rate": 0.5, "validation/kl_policy_ref": 0.0}


@pytest.mark.parametrize(
    ("best", "is_reference", "said"),
    [
        (0, True, "no iteration of 8 was better than the reference on validation, so the REFERENCE was saved"),
        (0, False, "kept the policy before iteration 1"),
        (5, False, "kept iteration 5 of 8, the latest within one standard error of the best"),
    ],
)
def test_the_end_of_a_run_says_what_was_kept_and_why(best, is_reference, said):
    line = kept_line({**RESULT, "best_iteration": best, "is_reference": is_reference}, "runs/x")
    assert line.startswith("runs/x: ") and said in line
