"""The one-file recipe does what the library does: same ranks, same ρ, same loss and gradient, and it arrives."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vbon.config import TrainConfig
from vbon.core.objectives import OBJECTIVES
from vbon.core.reward_cdf import RewardCDF
from vbon.models.batch import Sequences
from vbon.training.online import update_settings
from vbon.training.rollout import Rollouts
from vbon.training.update import losses, make_baseline, minibatches

RECIPE = Path(__file__).parents[2] / "recipes" / "minimal" / "vbon_minimal.py"
N = 8.0
GRADIENT_TOLERANCE = 1e-5  # relative to the largest entry: float32, and two routes through GPT-2
MAX_LINES = 250


@pytest.fixture(scope="module")
def minimal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RECIPE)))


@pytest.fixture(scope="module")
def ref_policy(minimal):
    return minimal.make_reference(seed=5)


@pytest.fixture(scope="module")
def pool(minimal, ref_policy):
    return minimal.collect_pool(ref_policy, 64, torch.Generator().manual_seed(0))


def library_signal(pool, prompt_index, rewards, n=N):
    interval = RewardCDF(pool.ravel(), [pool.shape[1]] * len(pool)).interval(prompt_index.numpy(), rewards)
    return OBJECTIVES["vbon"](rewards, interval, n, None), interval


def test_the_file_is_short_and_does_without_the_library():
    text = RECIPE.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert "import vbon" not in text and "from vbon" not in text


@pytest.mark.parametrize("n", [1.5, 2.0, 8.0, 64.0])
@pytest.mark.parametrize("levels", [2, 7, None])
def test_the_same_pool_gives_the_same_rho_bit_for_bit(minimal, n, levels):
    random = np.random.default_rng(0)
    draw = random.standard_normal if levels is None else lambda size: random.integers(levels, size=size).astype(float)
    pool, rewards = np.sort(draw((2, 50)), axis=1), draw(40)
    prompt_index = torch.from_numpy(random.integers(2, size=40))
    rewards[0], rewards[1] = pool.min() - 1, pool.max() + 1  # outside the pool
    signal, _ = library_signal(pool, prompt_index, rewards, n)
    assert minimal.sequence_reward(pool, prompt_index, rewards, n).tolist() == signal.sequence_reward.tolist()


def test_rollouts_carry_the_library_s_rho_of_what_the_pool_says(minimal, ref_policy, pool):
    batch = minimal.roll_out(ref_policy, ref_policy, pool, N, 16, torch.Generator().manual_seed(1))
    rewards = minimal.rewards_of(batch["index"], batch["completions"])
    assert batch["rho"].tolist() == library_signal(pool, batch["index"], rewards)[0].sequence_reward.tolist()


def test_the_loss_and_its_gradient_are_the_library_s_after_some_updates(minimal, ref_policy, pool):
    sampler, policy = moved(ref_policy, 0.02, seed=1), moved(ref_policy, 0.03, seed=2)
    batch = minimal.roll_out(sampler, ref_policy, pool, N, 32, torch.Generator().manual_seed(3))
    loss = minimal.policy_loss(policy, batch, N)
    expected = library_loss(minimal, policy, pool, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    theirs = gradient(policy, expected)
    assert (gradient(policy, loss) - theirs).abs().max() <= GRADIENT_TOLERANCE * theirs.abs().max()


def test_exact_distances_are_those_of_best_of_n_by_brute_force(minimal, ref_policy):
    # W_N of an integer N by its other form, Σ_{k<N} b^k a^{N−1−k}, and one prompt after another in plain Python.
    rows, n, total = minimal.all_completions(), 3, 0.0
    for p in range(len(minimal.PROMPTS)):
        index = torch.full((len(rows),), p)
        with torch.no_grad():
            prob = minimal.token_logprobs(ref_policy, index, rows).double().sum(1).exp().numpy()
        assert prob.sum() == pytest.approx(1, abs=1e-5)
        rewards = minimal.rewards_of(index, rows)
        order = np.argsort(rewards, kind="stable")
        below = {r: prob[rewards < r].sum() for r in set(rewards.tolist())}
        upto = {r: prob[rewards <= r].sum() for r in set(rewards.tolist())}
        for i in order:
            a, b = below[rewards[i]], upto[rewards[i]]
            weight = sum(b**k * a ** (n - 1 - k) for k in range(n))
            total += prob[i] * weight * np.log(weight) / len(minimal.PROMPTS)
    assert minimal.exact_distances(ref_policy, ref_policy, n)["kl_bon_ref"] == pytest.approx(total, abs=1e-5)


@pytest.mark.learning
def test_it_reaches_best_of_n(minimal, ref_policy):
    pool = minimal.collect_pool(ref_policy, 1000, torch.Generator().manual_seed(0))
    policy = minimal.train(ref_policy, pool, N, iterations=120, seed=0)
    assert minimal.exact_distances(ref_policy, ref_policy, N)["kl_policy_bon"] > 4
    assert minimal.exact_distances(policy, ref_policy, N)["kl_policy_bon"] <= 0.1


def library_loss(minimal, policy, pool, batch):
    """The same rollouts through the library's own update, as one minibatch."""
    index, mask = batch["index"], minimal.mask_of(batch["completions"])
    prompts = torch.tensor(minimal.PROMPTS)[index][:, None]
    rewards = minimal.rewards_of(index, batch["completions"])
    signal, interval = library_signal(pool, index, rewards)
    rollouts = Rollouts(
        prompt_index=index,
        sequences=Sequences(prompts, torch.ones_like(prompts, dtype=torch.bool), batch["completions"], mask),
        old_logprobs=batch["old"],
        ref_logprobs=batch["ref"],
        ref_states=None,
        finished=torch.ones(len(index), dtype=torch.bool),
        rewards=rewards,
        interval=interval,
        sequence_reward=torch.from_numpy(signal.sequence_reward),
        kl_coef=signal.kl_coef,
    )
    config = TrainConfig(
        pool="-",
        model="-",
        reward="-",
        n=N,
        out="-",
        minibatch_size=len(index),
        num_epochs=1,
        kl_estimator="k1",
        clip_range=0.2,
        advantage_clip=10.0,
        refresh_kl=True,
        whiten_advantages=False,
    )
    settings = update_settings(config, temperature=1.0)
    (everything,) = minibatches(rollouts, make_baseline(rollouts, None, settings), settings, 0)
    return losses(policy, None, everything, settings, float(mask.sum(1).float().mean()))[0]


def gradient(policy, loss):
    parameters = [p for p in policy.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def moved(model, scale, seed):
    """A copy some way off, so that ratios are not 1 and clips bite."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    return other
