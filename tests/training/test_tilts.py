"""Training towards other rank tilts: best-of-N is unchanged, worst-of-N is reached, and nonsense is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.enumerable import write_pool
from tests.training.runs import rows, weights

from vbon.config.evaluate import EvaluateConfig
from vbon.core.objectives import tilted, vbon
from vbon.core.rank_tilts import RankTilt
from vbon.core.reward_cdf import Interval
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.training.train import train


def test_best_is_the_objective_vbon_bit_by_bit():
    edges = np.sort(np.random.default_rng(0).random((2, 200)), axis=0)
    interval = Interval(edges[0], edges[1], np.full(200, 0.01))
    one, other = tilted(interval, RankTilt("best", 7.5)), vbon(edges[0], interval, 7.5)
    assert one.kl_coef == other.kl_coef
    np.testing.assert_array_equal(one.sequence_reward, other.sequence_reward)


@pytest.mark.parametrize("changes", [{"algorithm": "ppo", "warm_start": "critic"}, {"warm_start": "offline"}])
def test_worst_of_n_of_a_reward_is_best_of_n_of_its_negative(world, configure, pool, tmp_path, changes):
    """F of −r is 1 − F of r, ties included: the same rollouts get the same weights, up to rounding."""
    negative = write_pool(world, tmp_path / "negative", function="negative")
    train(configure(out=str(tmp_path / "worst"), tilt="worst", **changes))
    train(configure(out=str(tmp_path / "best"), pool=str(negative), reward=world.reward("negative"), **changes))
    one, other = rows(tmp_path / "worst"), rows(tmp_path / "best")
    for key in ("validation/kl_policy_ref", "validation/kl_policy_bon", "validation/objective"):
        pairs = [(a[key], b[key]) for a, b in zip(one, other, strict=True) if key in a]
        assert pairs
        np.testing.assert_allclose(*np.array(pairs).T, atol=1e-4)


def test_a_run_records_its_tilt_and_evaluate_reads_it(world, configure, pool, tmp_path):
    out = Path(configure().out)
    train(configure(tilt="worst", num_iterations=30, validation_every=10, learning_rate=3e-3))
    assert json.loads((out / "vbon" / "run.json").read_text())["tilt"] == "worst"
    config = EvaluateConfig(
        runs=(str(out),), pool=str(pool), out=str(tmp_path / "eval"), throughput=False, device="cpu"
    )
    summary = evaluate_command(config)
    found = summary["policies"]["run"]["metrics"]
    reference = summary["reference"]["metrics"]
    assert summary["tilt"] == "worst"
    assert found["kl_policy_bon"]["high"] < reference["kl_policy_bon"]["low"]  # nearer to worst-of-4 than π_ref
    assert found["win_rate"]["high"] < 0.5
    assert summary["target"]["metrics"]["reward"]["value"] < reference["reward"]["value"]


def test_the_default_writes_the_weights_of_best(configure, tmp_path):
    train(configure(out=str(tmp_path / "a")))
    train(configure(out=str(tmp_path / "b"), tilt="best"))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    train(configure(out=str(tmp_path / "c"), tilt="capped:0.5"))
    assert weights(tmp_path / "c") != weights(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tilt": "worst", "method": "dpo"}, "does not draw whole sets of N, not --method dpo"),
        ({"tilt": "worst", "objective": "reward"}, "needs --objective vbon"),
        ({"tilt": "poisson", "objective": "vbon-bound"}, "needs --objective vbon"),
        ({"tilt": "kth:9"}, "needs a whole --n of at least 9, not 4"),
        ({"tilt": "kth:2", "n": 4.5}, "needs a whole --n of at least 2, not 4.5"),
        ({"tilt": "worst", "rounds": 2}, "--rounds compounds best-of-N only"),
        ({"tilt": "capped:1.5"}, "--tilt is 'capped:1.5', but must be best, worst"),
        ({"tilt": "capped:0"}, "--tilt is 'capped:0'"),
        ({"tilt": "kth"}, "--tilt is 'kth'"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(configure, changes, message):
    with pytest.raises(VbonError) as error:
        configure(**changes).validate()
    assert message in str(error.value)
