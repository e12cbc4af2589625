"""KL estimators against scipy, and the Rao-Blackwellised gradient against autograd of an enumerated tree."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from vbon.core.kl import entropy, full_vocabulary_kl, future_kl, importance_weighted_k3, k1, k2, k3
from vbon.core.policy_gradient import returns_to_go

P = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)
Q = torch.tensor([0.2, 0.15, 0.35, 0.3], dtype=torch.float64)
KL_PQ = scipy.stats.entropy(P.numpy(), Q.numpy())


def test_samples_of_p_estimate_kl_of_p_from_q():
    """The sign and the direction: E_p, not E_q, and KL(p‖q), not KL(q‖p)."""
    assert float(P @ k1(P.log(), Q.log())) == pytest.approx(KL_PQ, rel=1e-12)
    assert float(P @ k3(P.log(), Q.log())) == pytest.approx(KL_PQ, rel=1e-12)
    assert scipy.stats.entropy(Q.numpy(), P.numpy()) != pytest.approx(
        KL_PQ, rel=0.05
    )  # so the test can tell them apart


def test_estimators_one_by_one():
    p, q = P.numpy(), Q.numpy()
    np.testing.assert_allclose(k1(P.log(), Q.log()), np.log(p / q), rtol=1e-12)
    np.testing.assert_allclose(k2(P.log(), Q.log()), np.log(p / q) ** 2 / 2, rtol=1e-12)
    np.testing.assert_allclose(k3(P.log(), Q.log()), q / p - 1 - np.log(q / p), rtol=1e-12)
    assert k1(P.log(), Q.log()).min() < 0 < k2(P.log(), Q.log()).min()
    assert k3(P.log(), Q.log()).min() > 0


def test_k2_gradient_is_the_gradient_of_kl():
    """E_p[∇k2] = ∇KL (p fixed as the sampler), to which k2 owes its use; E_p[∇k1] = 0."""
    logits = P.log().clone().requires_grad_()
    log_p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad(full_vocabulary_kl(log_p, Q.log()), logits, retain_graph=True)
    (from_k2,) = torch.autograd.grad(P @ k2(log_p, Q.log()), logits, retain_graph=True)
    (from_k1,) = torch.autograd.grad(P @ k1(log_p, Q.log()), logits)
    torch.testing.assert_close(from_k2, exact)
    torch.testing.assert_close(from_k1, torch.zeros_like(exact), atol=1e-15, rtol=0)


def test_importance_weighted_k3_has_the_gradient_of_kl_and_bare_k3_that_of_the_other_direction():
    logits = P.log().clone().requires_grad_()
    log_p = logits.log_softmax(0)
    old = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)  # any sampler: the weight undoes it

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    exact = gradient(full_vocabulary_kl(log_p, Q.log()))
    torch.testing.assert_close(gradient(old @ importance_weighted_k3(log_p, old.log(), Q.log())), exact)
    torch.testing.assert_close(gradient(P @ k3(log_p, Q.log())), gradient(full_vocabulary_kl(Q.log(), log_p)))
    assert (exact - gradient(full_vocabulary_kl(Q.log(), log_p))).norm() > 0.1 * exact.norm()


def test_k3_keeps_small_differences():
    """In float32 the naive q/p − 1 − log(q/p) is rounding noise at Δ = 1e-4; the truth is Δ²/2."""
    logprobs = torch.tensor([-2.0])
    delta = (logprobs + 1e-4).double() - logprobs.double()
    naive = (delta.float().exp() - 1 - delta.float()).double()
    assert float(k3(torch.zeros(1), delta.float())) == pytest.approx(float(delta**2 / 2), rel=2e-3)
    assert float(naive) != pytest.approx(float(delta**2 / 2), rel=0.5)


def test_full_vocabulary_forms():
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_q = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    np.testing.assert_allclose(full_vocabulary_kl(log_p, log_q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(entropy(log_p), scipy.stats.entropy(p, axis=-1), rtol=1e-12)


def test_future_kl_equals_a_loop():
    kl = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    before = kl.clone()
    assert future_kl(kl, mask).tolist() == [[2.0, 4.0, 0.0, 0.0], [32.0, 64.0, 128.0, 0.0]]
    assert torch.equal(kl, before)


# A tree policy: tokens 0 (ends the completion), 1, 2; at most three tokens; one row of logits for each prefix.
TOKENS, LENGTH, END = 3, 3, 0
PREFIXES = [p for size in range(LENGTH) for p in itertools.product([1, 2], repeat=size)]


def completions():
    ended = [(*p, END) for p in PREFIXES]
    return ended + list(itertools.product([1, 2], repeat=LENGTH))


def batch_of_all():
    """Token ids, mask and prefix row at every position of every completion."""
    rows = completions()
    ids, prefix = torch.zeros(len(rows), LENGTH, dtype=torch.long), torch.zeros(len(rows), LENGTH, dtype=torch.long)
    mask = torch.zeros(len(rows), LENGTH, dtype=torch.bool)
    for i, row in enumerate(rows):
        for t, token in enumerate(row):
            ids[i, t], mask[i, t], prefix[i, t] = token, True, PREFIXES.index(row[:t])
    return ids, mask, prefix


def tree_policies(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(PREFIXES), TOKENS)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rao_blackwellised_gradient_is_exact(seed):
    logits, ref_logits = tree_policies(seed)
    ids, mask, prefix = batch_of_all()
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    logprobs = log_p[prefix].gather(-1, ids[..., None])[..., 0] * mask
    ref_logprobs = log_q[prefix].gather(-1, ids[..., None])[..., 0] * mask
    probability = logprobs.sum(1).exp()
    assert float(probability.detach().sum()) == pytest.approx(1, abs=1e-12)

    sequence_kl = (probability * (logprobs - ref_logprobs).sum(1)).sum()
    token_kl = full_vocabulary_kl(log_p, log_q)[prefix]
    assert float((probability * (token_kl * mask).sum(1)).sum().detach()) == pytest.approx(
        float(sequence_kl.detach()), rel=1e-12
    )
    (exact,) = torch.autograd.grad(sequence_kl, logits, retain_graph=True)

    future = returns_to_go(future_kl(token_kl, mask), mask).detach()
    surrogate = (probability.detach()[:, None] * (token_kl + logprobs * future) * mask).sum()
    (estimated,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    torch.testing.assert_close(estimated, exact, rtol=1e-12, atol=1e-13)

    (without_future,) = torch.autograd.grad((probability.detach()[:, None] * token_kl * mask).sum(), logits)
    assert (without_future - exact).abs().max() > 0.01  # the part that KL-in-the-loss methods drop is not small


def test_a_probability_of_0_counts_nothing():
    """Some architectures give padded rows of their head logits of −∞: 0·log 0 = 0, in the value and in the gradient."""
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ref_logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    short, ref_short = (one[:, :4].clone().requires_grad_() for one in (logits, ref_logits))
    long, ref_long = (one.clone().requires_grad_() for one in (logits, ref_logits))
    padded = [one.masked_fill(torch.arange(6) >= 4, -torch.inf) for one in (long, ref_long)]
    for measure in (full_vocabulary_kl, lambda log_p, log_q: entropy(log_p)):
        expected = measure(short.log_softmax(-1), ref_short.log_softmax(-1))
        value = measure(*(one.log_softmax(-1) for one in padded))
        torch.testing.assert_close(value, expected)
        (wanted,) = torch.autograd.grad(expected.sum(), short, retain_graph=True)
        (gradient,) = torch.autograd.grad(value.sum(), long, retain_graph=True)
        torch.testing.assert_close(gradient, torch.cat([wanted, torch.zeros(4, 2, dtype=torch.float64)], 1))
