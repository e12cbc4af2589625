"""A poor reference, exactly: what the optima of a pool are, by enumeration."""

import numpy as np
import pytest

from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Truth, kl, score_all
from vbon.lab.experiments.weak_reference import optima
from vbon.lab.pools import draw_counts
from vbon.lab.world import World, reference

WORLD = World(letters=3, max_new_tokens=3, sharpness=4.0, hidden_size=16, num_layers=1, seed=3)


def test_pool_optima_tend_to_best_of_n_and_bon_sft_never_leaves_its_pool():
    truth = Truth(exact_log_probs(reference(WORLD), WORLD), score_all(WORLD, "vbon.lab.rewards:continuous"))
    probs, rewards = truth.ref_probs[0], truth.rewards[0]
    few = draw_counts(probs, rewards, 20, np.random.default_rng(0))
    many = draw_counts(probs, rewards, 10**7, np.random.default_rng(0))
    distances = {}
    for name, counts in (("few", few), ("many", many)):
        found = optima(WORLD, truth, counts, 8)
        assert np.exp(np.array(list(found.values()))).sum(1) == pytest.approx(np.ones(len(found)))
        distances[name] = {key: kl(log_policy[None], truth.log_bon(8)) for key, log_policy in found.items()}
        assert np.exp(found["BoN-SFT, pool of M"])[counts.k_eq == 0].sum() < 1e-50
    assert distances["many"]["best-of-n"] == 0
    for method in ("vbon, pool of M", "BoN-SFT, pool of M"):
        assert distances["many"][method] < 1e-3 < distances["few"][method]
