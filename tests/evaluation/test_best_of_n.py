"""Real best-of-N against its enumerated density."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vbon.core.best_of_n import log_weight
from vbon.core.special import chi2_sf
from vbon.evaluation.best_of_n import choose, sample_best_of_n
from vbon.models import load
from vbon.pool.prompts import make_prompt
from vbon.pool.sampling import Sampler, encode_prompts
from vbon.rewards import load_reward


def test_choose_takes_a_best_one_and_breaks_ties_evenly():
    rewards = np.array([[1.0, 3.0, 3.0, 2.0, 3.0]] * 300)
    chosen = choose(rewards, (np.arange(300) + 0.5) / 300)
    assert np.bincount(chosen, minlength=5).tolist() == [0, 100, 100, 0, 100]
    assert choose([[5.0, -1.0], [-2.0, -1.0]], [0.999999, 0.0]).tolist() == [0, 1]


@pytest.mark.parametrize("function", ["score", "levels"])
def test_frequencies_follow_the_enumerated_density(world: Path, exact: Callable, completion_ids: list, function: str):
    """χ² of 3,000 best-of-3 draws over the 40 completions, rare ones together, with and without ties."""
    tables = exact("pool" if function == "score" else "tied")
    mass, rewards = np.exp(tables["ref"][0]), tables["rewards"][0]
    mass /= mass.sum()
    below = np.array([mass[rewards < r].sum() for r in rewards])
    tied = np.array([mass[rewards == r].sum() for r in rewards])
    expected = mass * np.exp(log_weight(below, np.minimum(below + tied, 1.0), 3))
    model, tokenizer = load.load_policy(str(world / "model")), load.load_tokenizer(str(world / "model"))
    sampler = Sampler(model, tokenizer, 1.0, 3, (0,))
    prompts = [make_prompt("one")]
    reward = load_reward(f"{world}/reward.py:{function}", batch_size=9000)
    draws = sample_best_of_n(
        sampler, reward, prompts, encode_prompts(sampler, prompts, "here"), n=3, num_samples=3000, batch_size=3000
    )
    ((_, best),) = draws
    rows = {tuple(ids): index for index, ids in enumerate(completion_ids)}
    counts = np.bincount([rows[tuple(ids)] for ids in best.completion_ids], minlength=40)
    common = expected * 3000 >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * 3000
    assert chi2_sf(float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1) > 0.01
    assert len(wanted) > 8 and expected.sum() == pytest.approx(1.0, abs=1e-9)
