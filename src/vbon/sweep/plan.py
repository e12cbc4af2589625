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


@dataclass(frozen=True)
class Grid:
    """The runs that a sweep asks for, each as a job."""

    sweep: Sweep
    folder: SweepFolder
    scales: Scales
    num_threads: int

    def jobs(self, rates: Mapping[MethodName, float]) -> list[Job]:
        """Return every method at every grid point with every seed; all of one seed come before the next seed.

        Raises:
            VbonError: the settings of a run do not fit together.
        """
        return [
            self._job(method, point, seed, rates.get(method))
            for seed in self.sweep.seeds
            for point in range(len(self.sweep.n))
            for method in self.sweep.methods
        ]

    def search_jobs(self) -> dict[MethodName, dict[float, Job]]:
        """Return method → rate → its run, at one grid point with the first seed, for methods with several rates."""
        ns, search_n = self.sweep.n, self.sweep.search_n
        point = len(ns) // 2 if search_n is None else ns.index(search_n)
        rates = {method: rates_of(self.sweep, method) for method in self.sweep.methods}
        return {
            method: {rate: self._search_job(method, point, rate) for rate in several}
            for method, several in rates.items()
            if len(several) > 1
        }

    def _search_job(self, method: MethodName, point: int, rate: float) -> Job:
        job = self._job(method, point, self.sweep.seeds[0], rate)
        name = f"{job.name}-rate{rate:g}"
        train = replace(job.train, out=str(self.folder.search(name)))
        return replace(job, name=name, train=train, evaluate=None, log=str(self.folder.log(name)))

    def _job(self, method: MethodName, point: int, seed: int, rate: float | None) -> Job:
        sweep, n = self.sweep, self.sweep.n[point]
        name = f"{method}-n{n:g}-s{seed}"
        kl_coef = self.scales[method][point] if method in self.scales else None
        shared: dict[str, Any] = {"model": sweep.model, "reward": sweep.reward, "n": n, "num_threads": self.num_threads}
        train = TrainConfig(
            **shared | _method_settings(sweep, method, rate),
            method=method,
            pool=sweep.pool,
            kl_coef=kl_coef,
            seed=seed,
            out=str(self.folder.run(name)),
        )
        try:
            train.validate()
        except VbonError as error:
            raise VbonError(f"{name}: {error}") from None
        evaluate = EvaluateConfig(
            **shared,
            **sweep.evaluate,
            runs=(train.out,),
            pool=sweep.heldout,
            out=str(self.folder.evaluation(name)),
            throughput=False,
        )
        evaluate.validate()
        return Job(name, method, n, kl_coef, seed, train, evaluate, str(self.folder.log(name)))


def _method_settings(sweep: Sweep, method: MethodName, rate: float | None) -> dict[str, Any]:
    """The settings of SWEEP.yaml that a method's training has, and its learning rate."""
    offline = learns_offline(method)
    shared = {key: value for key, value in sweep.train.items() if not (offline and key == "warm_start")}
    own = {key: value for key, value in sweep.methods[method].items() if key != "kl_coef"}
    searched = {} if rate is None else {OFFLINE_RATE if offline else ONLINE_RATE: rate}
    return {"tracker": "none", **shared, **(sweep.train_offline if offline else {}), **own, **searched}


def rates_of(sweep: Sweep, method: MethodName) -> tuple[float, ...]:
    """The learning rates that a method is tried at."""
    return sweep.offline_learning_rates if learns_offline(method) else sweep.learning_rates


def learns_offline(method: MethodName) -> bool:
    """Return True if a method learns from the pool alone, without rollouts."""
    return METHODS[method].settings["algorithm"] == "offline"
