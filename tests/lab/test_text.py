"""`vbon lab text` on pools of a world of 40 completions, where what it samples can be summed exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.lab.conftest import SMALL

from vbon.config import LabConfig
from vbon.errors import VbonError
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Truth, kl, measure
from vbon.lab.experiment import Context
from vbon.lab.experiments.pool import laws_of
from vbon.lab.experiments.text import Preset, jobs_of, panels, run
from vbon.lab.lab import lab_command
from vbon.lab.laws import spread_of
from vbon.lab.training import Job, Scale, collect_pool, truth_of
from vbon.lab.world import World
from vbon.pool.store import ReferencePool

PRESET = Preset(
    ns=(4,), kl_rl_ns=(4,), n=4, num_samples=(10,), num_iterations=3, rollouts_per_iteration=32, samples_per_prompt=400
)


@pytest.fixture(scope="module")
def small() -> World:
    """The prompts that the tolerances below were set for: how near 500 samples come to F depends on the prompt."""
    return replace(SMALL, prompts=("prompt0", "prompt1"))


@pytest.fixture(scope="module")
def truth(small: World) -> Truth:
    return truth_of(small)


@pytest.fixture(scope="module")
def pools(tmp_path_factory, small) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("pools")
    jobs = [
        Job(world=small, reward="continuous", n=4, seed=seed, scale=Scale(), work=work, num_samples=500)
        for seed in (0, 1)
    ]
    train, heldout = (collect_pool(job) for job in jobs)
    return train, heldout


@pytest.fixture(scope="module")
def done(tmp_path_factory, pools):
    context = Context((1,), tmp_path_factory.mktemp("work"), 1, pools)
    return context, run(PRESET, context)


def row_of(result, **wanted):
    (found,) = (row for row in result["rows"] if all(row[name] == value for name, value in wanted.items()))
    return found


def test_every_question_is_answered_and_equal_runs_are_one(done):
    context, result = done
    assert {row["question"] for row in result["rows"]} == {"backward-kl", "n-beta", "bound", "monotone", "samples"}
    assert len(result["rows"]) == 12
    runs = {folder.parents[1] for folder in context.work.glob("*/vbon/run.json")}
    assert len(runs) == 9  # vbon and KL-RL under three maps each, the one-sided two, and the pool of ten
    assert len(panels(result)) == 3


def test_what_is_sampled_agrees_with_the_sum_over_all_completions(done, pools, small, truth):
    context, result = done
    jobs = jobs_of(PRESET, laws_of(ReferencePool.open(pools[0])), context)
    for (case, _), job in jobs.items():
        exact = measure(exact_log_probs(job.folder, small), truth, 4)
        row = row_of(
            result, question=case.question, method=case.method, map=case.reward_map, num_samples=case.num_samples or 500
        )
        assert row["reward"] == pytest.approx(exact["reward"], abs=0.15)
        assert row["kl_policy_ref"] == pytest.approx(exact["kl_policy_ref"], abs=0.05)
        assert row["kl_policy_bon"] == pytest.approx(exact["kl_policy_bon"], abs=0.08)


def test_a_map_that_keeps_the_order_leaves_vbon_the_same_bits_and_moves_kl_rl(done, pools, small):
    context, result = done
    kept = row_of(result, question="monotone", method="vbon", map="exponential")
    assert kept["same_weights"] and kept["moved"] == 0
    for method, name in (("KL-RL", "exponential"), ("vbon", "saturated"), ("KL-RL", "saturated")):
        row = row_of(result, question="monotone", method=method, map=name)
        assert not row["same_weights"]
        jobs = {case: job for (case, _), job in jobs_of(PRESET, laws_of(ReferencePool.open(pools[0])), context).items()}
        pair = [
            exact_log_probs(job.folder, small)
            for case, job in jobs.items()
            if case.question == "monotone" and case.method == method and case.reward_map in ("identity", name)
        ]
        assert row["moved"] == pytest.approx(kl(pair[1], pair[0]), abs=0.05)


def test_a_cut_pool_holds_the_first_samples_with_their_mapped_rewards(done, pools):
    context, _ = done
    source, cut = ReferencePool.open(pools[0]), ReferencePool.open(context.work / "pool-identity-M10")
    assert cut.num_samples.tolist() == [10, 10]
    np.testing.assert_array_equal(cut.rewards, source.rewards.reshape(2, 500)[:, :10].ravel())
    assert cut.completion_ids[10:12] == source.completion_ids[500:502]
    mapped = ReferencePool.open(context.work / "pool-exponential-Mall")
    np.testing.assert_allclose(mapped.rewards, np.exp(source.rewards / spread_of(source.rewards.reshape(2, 500))))
    assert mapped.fingerprint.reward != source.fingerprint.reward


def test_it_needs_two_pools_that_are_large_enough(tmp_path, pools):
    with pytest.raises(VbonError, match="needs two, TRAIN and HELDOUT, not 1"):
        lab_command(LabConfig(experiment="text", pool=(str(pools[0]),), out=str(tmp_path)))
    with pytest.raises(VbonError, match=r"has 500 samples of prompt \w+, of 501"):
        run(Preset(num_samples=(501,)), Context((1,), tmp_path / "work", 1, pools))
