"""The truth against brute force: F by comparing every pair, π_bon by enumerating every set of two draws."""

import itertools

import numpy as np
import pytest

from vbon.core.best_of_n import kl_from_levels
from vbon.lab.exact import Truth, kl, level_masses, measure, normalised, tilted
from vbon.lab.experiments.ties import blind_sum, ordered, verify


def brute_force_bon(probs, rewards):
    """Best of 2 by all ordered pairs, ties to either with probability ½."""
    best = np.zeros(len(probs))
    for i, j in itertools.product(range(len(probs)), repeat=2):
        for index, share in (
            (i, (rewards[i] >= rewards[j]) - 0.5 * (rewards[i] == rewards[j])),
            (j, (rewards[j] >= rewards[i]) - 0.5 * (rewards[i] == rewards[j])),
        ):
            best[index] += probs[i] * probs[j] * share
    return best


@pytest.mark.parametrize("which", ["truth", "level_truth"])
def test_cdf_by_comparing_every_pair(which, request):
    truth = request.getfixturevalue(which)
    lower, upper = truth.cdf
    below = (truth.rewards[:, None, :] < truth.rewards[:, :, None]) @ truth.ref_probs[:, :, None]
    np.testing.assert_allclose(lower, below[..., 0], atol=1e-12)
    tied = (truth.rewards[:, None, :] == truth.rewards[:, :, None]) @ truth.ref_probs[:, :, None]
    np.testing.assert_allclose(upper - lower, tied[..., 0], atol=1e-12)


@pytest.mark.parametrize("which", ["truth", "level_truth"])
def test_best_of_two_by_enumeration(which, request):
    truth = request.getfixturevalue(which)
    for log_bon, probs, rewards in zip(truth.log_bon(2), truth.ref_probs, truth.rewards, strict=True):
        np.testing.assert_allclose(np.exp(log_bon), brute_force_bon(probs, rewards), atol=1e-12)


@pytest.mark.parametrize("n", [1.5, 2, 8, 64])
def test_best_of_n_measured_against_itself(level_truth, n):
    found = measure(level_truth.log_bon(n), level_truth, n)
    assert found["kl_policy_bon"] == pytest.approx(0, abs=1e-10)
    by_levels = [
        kl_from_levels(level_masses(p, r)[0], n)
        for p, r in zip(level_truth.ref_probs, level_truth.rewards, strict=True)
    ]
    assert found["kl_policy_ref"] == pytest.approx(np.mean(by_levels), abs=1e-10)


def test_objective_is_minus_the_divergence_and_lies_between_its_forms(truth):
    policy = normalised(truth.log_bon(4) + 0.3 * np.sin(np.arange(40)))
    found = measure(policy, truth, 8)
    assert found["objective"] == pytest.approx(-found["kl_policy_bon"], abs=1e-10)
    assert found["objective"] < found["upper_form"]
    # L leaves the worst completion out, by name
    worst = np.exp(policy)[np.arange(2), truth.rewards.argmin(1)].mean()
    assert found["bound_excluded"] == pytest.approx(worst, rel=1e-12)


def test_tilted_maximises_its_objective(truth):
    """No small step away from π_ref·exp(ρ/β) gains."""
    rho, beta = truth.rewards, 0.7
    best = tilted(truth, rho, beta)

    def value(log_policy):
        return float((np.exp(log_policy) * rho).sum(-1).mean()) - beta * kl(log_policy, np.log(truth.ref_probs))

    steps = np.random.default_rng(0).normal(size=(20, *best.shape))
    assert all(value(normalised(best + 0.05 * step)) < value(best) for step in steps)


def test_paper_sum_loses_what_ties_share(level_truth):
    """N = 2: what is lost is the chance that two different completions tie."""
    lost = 1 - np.exp(blind_sum(level_truth, 2)).sum(-1)
    for missing, probs, rewards in zip(lost, level_truth.ref_probs, level_truth.rewards, strict=True):
        tied = rewards[:, None] == rewards[None, :]
        np.fill_diagonal(tied, val=False)
        assert missing == pytest.approx(probs @ tied @ probs, abs=1e-12)


def test_total_order_keeps_the_levels_of_best_of_n(level_truth):
    """Refining ties moves mass within levels only."""
    order, plain = ordered(level_truth), level_truth
    for refined, log_bon, rewards in zip(order.log_bon(8), plain.log_bon(8), plain.rewards, strict=True):
        for level in np.unique(rewards):
            at = rewards == level
            assert np.exp(refined[at]).sum() == pytest.approx(np.exp(log_bon[at]).sum(), abs=1e-12)


def test_verifier_weight_of_success(truth):
    passed = Truth(truth.ref_logprobs, (truth.rewards > np.median(truth.rewards)).astype(np.float64))
    assert verify(passed, 8)["gap"] < 1e-12
