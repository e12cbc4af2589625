"""From a sweep to its runs: one job for each method, grid point and seed, and those of the learning-rate search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vbon.artifacts.sweep import SweepFolder
from vbon.config.evaluate import EvaluateConfig
from vbon.config.methods import METHODS, MethodName
from vbon.config.sweep import Sweep
from vbon.config.train import TrainConfig
from vbon.errors import VbonError

ONLINE_RATE, OFFLINE_RATE = "learning_rate", "offline_learning_rate"
Scales = Mapping[MethodName, Sequence[float]]
"""Method → β for each N of the grid; methods without a scale are not in it."""


@dataclass(frozen=True)
class Job:
    """One run: what is trained, and how it is evaluated; runs of the search are not evaluated."""

    name: str
    method: MethodName
    n: float
    kl_coef: float | None
    seed: int
    train: TrainConfig
    evaluate: EvaluateConfig | None
    log: str


def grid_jobs(
    sweep: Sweep, folder: SweepFolder, scales: Scales, rates: Mapping[MethodName, float], num_threads: int
) -> list[Job]:
    """Every method at every grid point with every seed: a seed's whole comparison before the next seed's."""
    return [
        _job(sweep, folder, method, place, seed, scales, rates.get(method), num_threads)
        for seed in sweep.seeds
        for place in range(len(sweep.n))
        for method in sweep.methods
    ]


def search_jobs(
    sweep: Sweep, folder: SweepFolder, scales: Scales, num_threads: int
) -> dict[MethodName, dict[float, Job]]:
    """Method → rate → its run, at one grid point with the first seed; one rate or none needs no search."""
    place = sweep.n.index(sweep.search_n) if sweep.search_n is not None else len(sweep.n) // 2
    found = {}
    for method in sweep.methods:
        rates = rates_of(sweep, method)
        if len(rates) > 1:
            found[method] = {
                rate: _searching(
                    _job(sweep, folder, method, place, sweep.seeds[0], scales, rate, num_threads), folder, rate
                )
                for rate in rates
            }
    return found


def rates_of(sweep: Sweep, method: MethodName) -> tuple[float, ...]:
    """The learning rates that a method is tried at."""
    return sweep.offline_learning_rates if learns_offline(method) else sweep.learning_rates


def learns_offline(method: MethodName) -> bool:
    """Whether a method learns from the pool alone, without rollouts."""
    return METHODS[method].settings["algorithm"] == "offline"


def _job(
    sweep: Sweep,
    folder: SweepFolder,
    method: MethodName,
    place: int,
    seed: int,
    scales: Scales,
    rate: float | None,
    num_threads: int,
) -> Job:
    n = sweep.n[place]
    name = f"{method}-n{n:g}-s{seed}"
    kl_coef = scales[method][place] if method in scales else None
    train = _train_config(sweep, folder, name, method, n, kl_coef, seed, rate, num_threads)
    evaluate = EvaluateConfig(
        runs=(train.out,),
        pool=sweep.heldout,
        out=str(folder.evaluation(name)),
        n=n,
        model=sweep.model,
        reward=sweep.reward,
        throughput=False,
        num_threads=num_threads,
        **sweep.evaluate,
    )
    evaluate.validate()
    return Job(name, method, n, kl_coef, seed, train, evaluate, str(folder.log(name)))


def _train_config(
    sweep: Sweep,
    folder: SweepFolder,
    name: str,
    method: MethodName,
    n: float,
    kl_coef: float | None,
    seed: int,
    rate: float | None,
    num_threads: int,
) -> TrainConfig:
    offline = learns_offline(method)
    shared = {key: value for key, value in sweep.train.items() if not (offline and key == "warm_start")}
    own = {key: value for key, value in sweep.methods[method].items() if key != "kl_coef"}
    searched: dict[str, Any] = {} if rate is None else {OFFLINE_RATE if offline else ONLINE_RATE: rate}
    config = TrainConfig(
        **{"tracker": "none", **shared, **(sweep.train_offline if offline else {}), **own, **searched},
        method=method,
        pool=sweep.pool,
        model=sweep.model,
        reward=sweep.reward,
        n=n,
        kl_coef=kl_coef,
        seed=seed,
        out=str(folder.run(name)),
        num_threads=num_threads,
    )
    try:
        config.validate()
    except VbonError as error:
        raise VbonError(f"{name}: {error}") from None
    return config


def _searching(job: Job, folder: SweepFolder, rate: float) -> Job:
    name = f"{job.name}-rate{rate:g}"
    train = replace(job.train, out=str(folder.search(name)))
    return replace(job, name=name, train=train, evaluate=None, log=str(folder.log(name)))
