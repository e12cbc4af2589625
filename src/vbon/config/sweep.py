"""Configs of `vbon sweep`: its flags, and the SWEEP.yaml with the methods and the pools to compare them on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vbon.config import types
from vbon.config.conversion import nearest
from vbon.config.evaluate import EvaluateConfig
from vbon.config.fields import check_fields
from vbon.config.methods import METHODS, MethodName
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import build, read_mapping, typed_values
from vbon.errors import VbonError


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Settings of `vbon sweep`, which trains every method from one pool and compares them on held-out prompts."""

    file: types.File = field(metadata={"positional": "SWEEP.yaml"})
    """Methods, grid, seeds and settings. Start from recipes/demo/sweep.yaml."""
    out: types.Directory | None = None
    """Directory for everything that the sweep makes. Default: the one that SWEEP.yaml names."""
    num_workers: types.Workers = 1
    """Runs at the same time, each in its own process."""
    num_threads: types.Workers = 1
    """CPU threads per run."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Content of SWEEP.yaml. Every method has as many grid points as `n` has values, and the same seeds."""

    model: str
    """Reference model, where every run starts."""
    reward: str
    """The reward that scored the pools."""
    pool: str
    """Pool that every method learns from."""
    heldout: str
    """Pool of other prompts, on which every run is evaluated once."""
    out: str
    """Directory for everything that the sweep makes."""
    n: tuple[float, ...]
    """The grid: N of best-of-N. A method with a scale β has one value of β for each N."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to try for every method with rollouts, on validation prompts. Default: the library's rate."""
    offline_learning_rates: tuple[float, ...] = ()
    """The same for the methods that learn from the pool alone."""
    search_n: float | None = None
    """Grid point at which the rates are tried. Default: the middle one."""
    methods: Mapping[MethodName, Mapping[str, Any]]
    """Method → its own fields of `vbon train`: `algorithm`, if the method has a choice, and `kl_coef`, a list with one
    value for each `n`, if the method has a scale (default: matched to `n`)."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon train` that all methods share."""
    train_offline: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon train` for the methods that learn from the pool alone. They win over those of `train`."""
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon evaluate`."""


# Fields that the sweep itself sets for each run.
_DECIDED = "pool model reward n out seed num_threads method objective algorithm kl_coef prompts offline_loss"
# Fields that all methods share, so that their budgets are equal.
_BUDGET = (
    "num_iterations rollouts_per_iteration samples_per_prompt num_epochs minibatch_size offline_steps "
    "offline_batch_size validation_fraction validation_every max_seconds"
)
_EVALUATE_DECIDED = "runs pool out n model reward throughput num_threads"
_SECTIONS = ("methods", "train", "train_offline", "evaluate")


def read_sweep(path: str) -> Sweep:
    """The sweep that a YAML file describes. Raises VbonError naming the file, the section and the field."""
    content = read_mapping(path)
    plain = {key: value for key, value in content.items() if key not in _SECTIONS}
    values: dict[str, Any] = typed_values(Sweep, plain, path) | {
        "methods": {
            name: _method(name, fields, f"{path}: methods")
            for name, fields in _section(content, "methods", path).items()
        },
        "train": _fields(TrainConfig, content, "train", path, _DECIDED),
        "train_offline": _fields(TrainConfig, content, "train_offline", path, _DECIDED),
        "evaluate": _fields(EvaluateConfig, content, "evaluate", path, _EVALUATE_DECIDED),
    }
    sweep = build(Sweep, values, path)
    _check(sweep, path)
    return sweep


def _section(content: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise VbonError(f"{path}: {name} must hold lines of `key: value`, not a {type(section).__name__}")
    return section


def _fields(cls: type[Any], content: Mapping[str, Any], name: str, path: str, decided: str) -> dict[str, Any]:
    section = _section(content, name, path)
    for key in section:
        if key in decided.split():
            raise VbonError(f"{path}: {name}: {key} is set by the sweep; leave it out")
    return typed_values(cls, section, f"{path}: {name}")


def _method(name: Any, fields: Any, where: str) -> dict[str, Any]:
    """Read one method's fields. Raises VbonError for a method that cannot be trained and a field that it cannot set."""
    if name not in METHODS:
        raise VbonError(f"{where}: unknown method {name!r:.60}{nearest(str(name), list(METHODS))}")
    if not METHODS[name].trained:
        raise VbonError(f"{where}: {name} is part of every comparison; leave it out")
    own = _section({name: fields}, name, where)
    if "kl_coef" in own and METHODS[name].knob != "kl_coef":
        raise VbonError(f"{where}: {name} has no scale to choose; leave kl_coef out")
    for key in own:
        if key in _BUDGET.split():
            raise VbonError(f"{where}: {name}: {key} would change its budget; set it under train, for all methods")
        if key in _DECIDED.split() and key not in ("kl_coef", "algorithm"):
            raise VbonError(f"{where}: {name}: {key} is set by the sweep; leave it out")
    betas = own.get("kl_coef", [])
    if not isinstance(betas, list) or not all(type(beta) in (int, float) and beta > 0 for beta in betas):
        raise VbonError(f"{where}: {name}: kl_coef must be a list of numbers greater than 0, one for each n")
    rest = typed_values(TrainConfig, {key: value for key, value in own.items() if key != "kl_coef"}, f"{where}: {name}")
    return rest | ({"kl_coef": tuple(map(float, betas))} if betas else {})


def _check(sweep: Sweep, path: str) -> None:
    for name in ("n", "seeds", "methods"):
        if not getattr(sweep, name):
            raise VbonError(f"{path}: {name} is empty")
    for name, values in (("n", sweep.n), ("seeds", sweep.seeds)):
        if len(set(values)) < len(values):
            raise VbonError(f"{path}: {name} holds a value twice")
    if not all(n > 1 for n in sweep.n) or sorted(sweep.n) != list(sweep.n):
        raise VbonError(f"{path}: n must hold numbers greater than 1 in rising order")
    if sweep.search_n is not None and sweep.search_n not in sweep.n:
        raise VbonError(f"{path}: search_n is {sweep.search_n:g}, but must be one of n")
    for name, fields in sweep.methods.items():
        if "kl_coef" in fields and len(fields["kl_coef"]) != len(sweep.n):
            raise VbonError(
                f"{path}: methods: {name}: kl_coef has {len(fields['kl_coef'])} values, n has "
                f"{len(sweep.n)}: give one value for each n"
            )
