"""SWEEP.yaml: what is refused, and what becomes of it: jobs, scales and budgets."""

from pathlib import Path

import numpy as np
import pytest
from tests.sweep.conftest import write_sweep

from vbon.artifacts.sweep import SweepFolder
from vbon.config.sweep import read_sweep
from vbon.core.kl_rl import kl_of_tilt
from vbon.errors import VbonError
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool
from vbon.sweep.matching import scales_of
from vbon.sweep.plan import Grid

RECIPES = Path(__file__).parents[2] / "recipes"
METHODS = {"vbon": {}, "kl-rl": {}, "quantile": {}, "bonbon": {}, "dpo": {"kl_coef": [0.5, 0.1]}}


@pytest.fixture
def sweep_of(settings_of, tmp_path):
    return lambda **changes: read_sweep(str(write_sweep(tmp_path, settings_of(tmp_path / "out", **changes))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": [4, 2]}, "n must hold numbers greater than 1 in rising order"),
        ({"seeds": [0, 0]}, "seeds holds a value twice"),
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"vbno": {}}}, "unknown method 'vbno'.*vbon"),
        ({"methods": {"best-of-n": {}}}, "best-of-n is part of every comparison"),
        ({"methods": {"vbon": {"kl_coef": [1, 2]}}}, "vbon has no scale to choose"),
        ({"methods": {"kl-rl": {"kl_coef": [1]}}}, "kl_coef has 1 values, n has 2"),
        ({"methods": {"kl-rl": {"kl_coef": 0.1}}}, "kl_coef must be a list of numbers"),
        ({"methods": {"vbon": {"num_iterations": 9}}}, "num_iterations would change its budget"),
        ({"methods": {"vbon": {"max_seconds": 9}}}, "max_seconds would change its budget"),
        ({"methods": {"vbon": {"seed": 9}}}, "seed is set by the sweep"),
        ({"train": {"objective": "vbon"}}, "train: objective is set by the sweep"),
        ({"train": {"num_iteration": 3}}, "num_iteration"),
        ({"search_n": 3}, "search_n is 3, but must be one of n"),
        ({"pools": "x"}, "unknown key 'pools'.*pool"),
    ],
)
def test_a_mistake_is_named(sweep_of, changes, said):
    with pytest.raises(VbonError, match=rf"sweep\.yaml: .*{said}"):
        sweep_of(**changes)


def test_jobs_are_all_methods_at_all_points_with_all_seeds_and_one_budget(sweep_of, tmp_path):
    sweep = sweep_of(methods=METHODS, train_offline={"offline_steps": 9})
    scales = {"kl-rl": (0.7, 0.3), "quantile": (0.4, 0.2), "dpo": (0.5, 0.1)}
    jobs = Grid(sweep, SweepFolder(sweep.out), scales, 1).jobs({"vbon": 0.5, "bonbon": 0.25})
    assert len({job.name for job in jobs}) == len(jobs) == 5 * 2 * 2
    assert [job.seed for job in jobs] == [0] * 10 + [1] * 10  # a seed's whole comparison comes first
    assert {(job.method, job.n, job.train.kl_coef) for job in jobs if job.kl_coef} == {
        ("kl-rl", 2, 0.7),
        ("kl-rl", 4, 0.3),
        ("quantile", 2, 0.4),
        ("quantile", 4, 0.2),
        ("dpo", 2, 0.5),
        ("dpo", 4, 0.1),
    }
    online = [job.train for job in jobs if job.train.algorithm != "offline"]
    assert {(c.num_iterations, c.rollouts_per_iteration, c.num_epochs, c.offline_steps) for c in online} == {
        (3, 32, 2, 6)
    }
    assert {job.train.offline_steps for job in jobs if job.method in ("bonbon", "dpo")} == {9}
    assert {job.train.learning_rate for job in jobs if job.method == "vbon"} == {0.5}
    assert {job.train.offline_learning_rate for job in jobs if job.method == "bonbon"} == {0.25}
    assert {job.evaluate.pool for job in jobs} == {sweep.heldout} != {sweep.pool}


def test_a_method_may_choose_its_algorithm_where_it_has_the_choice(sweep_of):
    chosen = {"vbon": {"algorithm": "ppo", "warm_start": "critic"}, "kl-rl": {}}
    sweep = sweep_of(methods=chosen, train={"max_seconds": 9.0})
    jobs = Grid(sweep, SweepFolder(sweep.out), {"kl-rl": (0.7, 0.3)}, 1).jobs({})
    assert {(job.method, job.train.algorithm) for job in jobs} == {("vbon", "ppo"), ("kl-rl", "rloo")}
    assert {job.train.max_seconds for job in jobs} == {9.0}
    sweep = sweep_of(methods={"bonbon": {"algorithm": "ppo"}})
    with pytest.raises(VbonError, match=r"bonbon-n2-s0: --method bonbon needs --algorithm offline, not ppo"):
        Grid(sweep, SweepFolder(sweep.out), {}, 1).jobs({})


def test_the_search_tries_each_rate_once_at_one_point_and_evaluates_nothing(sweep_of):
    sweep = sweep_of(methods=METHODS, learning_rates=[0.1, 0.2, 0.3], search_n=2)
    found = Grid(sweep, SweepFolder(sweep.out), {"kl-rl": (1.0, 1.0), "quantile": (1.0, 1.0)}, 1).search_jobs()
    assert {method: sorted(by_rate) for method, by_rate in found.items()} == {
        "vbon": [0.1, 0.2, 0.3],
        "kl-rl": [0.1, 0.2, 0.3],
        "quantile": [0.1, 0.2, 0.3],
        "bonbon": [0.001, 0.01],
        "dpo": [0.001, 0.01],
    }
    jobs = [job for by_rate in found.values() for job in by_rate.values()]
    assert {(job.n, job.seed, job.evaluate) for job in jobs} == {(2, 0, None)}


def test_scales_spend_the_kl_of_best_of_n_on_the_pool(sweep_of):
    """Both KLs again from the pool, by the estimators that are tested on known laws."""
    sweep = sweep_of(methods=METHODS)
    pool = ReferencePool.open(sweep.pool)
    scales = scales_of(sweep, pool)
    assert set(scales) == {"kl-rl", "quantile", "dpo"} and scales["dpo"] == (0.5, 0.1)
    rewards = np.split(pool.rewards, pool.offsets[1:-1])
    for place, n in enumerate((2, 4)):
        due = np.mean([predict(one, n).kl_bon_ref for one in rewards])
        ranks = [np.array([(one < r).mean() + (one == r).mean() / 2 for r in one]) for one in rewards]
        for method, scores in (("kl-rl", rewards), ("quantile", ranks)):
            spent = np.mean([kl_of_tilt(one, scales[method][place]) for one in scores])
            assert spent == pytest.approx(due, rel=0.01)  # β is kept to four digits


@pytest.mark.parametrize("name", ["demo", "sentiment"])
def test_the_recipes_sweeps_are_plans_that_validate(name):
    sweep = read_sweep(str(RECIPES / name / "sweep.yaml"))
    scales = {method: [0.1] * len(sweep.n) for method in ("kl-rl", "quantile") if method in sweep.methods}
    jobs = Grid(sweep, SweepFolder(sweep.out), scales, 1).jobs({})
    assert len(jobs) == len(sweep.methods) * len(sweep.n) * 3


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    folder = SweepFolder(str(tmp_path))
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures/a.json").write_text('{"reason": "no memory"}\n')
    (tmp_path / "failures/b.json").write_text("[]")
    (tmp_path / "failures/c.json").write_bytes(b"\xff")
    assert folder.reason("a") == "no memory" and folder.reason("z") is None
    for name, said in (("b", "must hold a JSON object"), ("c", "cannot be read")):
        with pytest.raises(VbonError, match=rf"{name}\.json: {said}"):
            folder.reason(name)
