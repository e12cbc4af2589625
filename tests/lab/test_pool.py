"""`vbon lab pool` on a pool of a small world: its laws by brute force, its means by the closed forms."""

import itertools
import json

import numpy as np
import pytest

from vbon.config import LabConfig
from vbon.core.best_of_n import kl_from_levels, win_rate_from_levels
from vbon.errors import VbonError
from vbon.lab.experiments.pool import law_of, laws_of
from vbon.lab.lab import lab_command
from vbon.lab.training import Job, Scale, collect_pool
from vbon.pool.store import ReferencePool

pytest.importorskip("matplotlib")


def test_best_of_two_of_a_law_is_that_of_all_pairs_of_its_samples():
    rewards = np.array([2.0, 0.5, 2.0, 1.0, 2.0])
    expected = np.zeros(5)
    for pair in itertools.product(range(5), repeat=2):  # drawn with replacement, ties broken at random
        best = [one for one in pair if rewards[one] == max(rewards[list(pair)])]
        for one in best:
            expected[one] += 1 / 25 / len(best)
    # Among equal samples only their sum is determined: which draw of a level is returned tells nothing of its text.
    found = np.exp(law_of(rewards).log_bon(2))
    for level in set(rewards):
        assert found[rewards == level].sum() == pytest.approx(expected[rewards == level].sum())


def test_means_over_prompts_are_the_closed_forms_of_each_pool(tmp_path, small):
    job = Job(world=small, reward="levels", n=8, seed=0, scale=Scale(), work=tmp_path, num_samples=40)
    pool = ReferencePool.open(collect_pool(job))
    result = lab_command(LabConfig(experiment="pool", pool=(str(pool.path),), out=str(tmp_path / "out")))
    masses = [np.unique(rewards, return_counts=True)[1] / 40 for rewards in pool.rewards.reshape(-1, 40)]
    row = next(row for row in result["rows"] if row["n"] == 8)
    assert row["kl_bon_ref"] == pytest.approx(np.mean([kl_from_levels(mass, 8) for mass in masses]))
    assert row["win_rate_bon"] == pytest.approx(np.mean([win_rate_from_levels(mass, 8) for mass in masses]))
    spent = [law.kl_from_ref(law.log_tilted(row["beta"])) for law in laws_of(pool)]
    assert np.mean(spent) == pytest.approx(row["kl_bon_ref"])  # what the one β of all prompts is chosen for
    assert row["bon_moved_by_exp"] == pytest.approx(0, abs=1e-12)
    low, high = row["intervals"]["kl_bon_ref"]
    assert low <= row["kl_bon_ref"] <= high
    written = (tmp_path / "out" / "pool-quick.json").read_text()
    assert str(tmp_path) not in written  # where a pool lay is nobody's business
    assert json.loads(written)["command"] == "vbon lab pool --preset quick --seeds 0 --pool POOL1"


@pytest.mark.parametrize("config", [{"experiment": "pool"}, {"experiment": "ties", "pool": ("p",)}])
def test_pools_are_for_the_experiment_that_reads_them(config):
    with pytest.raises(VbonError, match="--pool is needed by vbon lab pool"):
        LabConfig(**config).validate()
