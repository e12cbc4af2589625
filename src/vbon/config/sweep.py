"""Configs of `vbon sweep`: its flags, and the SWEEP.yaml that says which methods meet on which pool."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vbon.config import checks
from vbon.config.evaluate import EvaluateConfig
from vbon.config.methods import METHODS, MethodName
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import nearest, read_mapping, typed_values
from vbon.errors import VbonError


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """`vbon sweep`: train every method from one pool over one grid, and compare them on held-out prompts."""

    file: str = field(metadata={"positional": "SWEEP.yaml"})
    """Methods, grid, seeds and settings; recipes/demo/sweep.yaml is one to start from."""
    out: str | None = None
    """Directory for everything that the sweep makes; default: the one that SWEEP.yaml names."""
    num_workers: int = 1
    """Runs at the same time, each a process of its own."""
    num_threads: int = 1
    """CPU threads of each of them."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "file", "out")
        checks.check_at_least(self, 1, "num_workers", "num_threads")
        checks.check_at_most(self, checks.MOST_WORKERS, "num_workers", "num_threads")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What SWEEP.yaml holds. Every method has as many grid points as `n` has values, and the same seeds."""

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
    """Rates that every method with rollouts is tried at, on validation prompts; none: the library's default."""
    offline_learning_rates: tuple[float, ...] = ()
    """The same for the methods that learn from the pool alone."""
    search_n: float | None = None
    """The grid point at which the rates are tried; default: the middle one."""
    methods: Mapping[MethodName, Mapping[str, Any]]
    """Method → fields of `vbon train` of its own; `algorithm`, where it has the choice; `kl_coef`, a list, where it has
    a scale (default: matched to n)."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon train` that all methods share."""
    train_offline: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon train` shared by the methods that learn from the pool alone, over those of `train`."""
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `vbon evaluate`."""


# What the sweep itself decides for each run.
_DECIDED = (
    "pool",
    "model",
    "reward",
    "n",
    "out",
    "seed",
    "resume",
    "num_threads",
    "method",
    "objective",
    "algorithm",
    "kl_coef",
    "prompts",
    "offline_loss",
)
# What makes budgets equal: methods share these.
_BUDGET = (
    "num_iterations",
    "rollouts_per_iteration",
    "samples_per_prompt",
    "num_epochs",
    "minibatch_size",
    "offline_steps",
    "offline_batch_size",
    "validation_fraction",
    "validation_every",
    "max_seconds",
)
_EVALUATE_DECIDED = ("runs", "pool", "out", "n", "model", "reward", "throughput", "num_threads")
_SECTIONS = ("methods", "train", "train_offline", "evaluate")


def read_sweep(path: str) -> Sweep:
    """The sweep that a YAML file describes. Raises VbonError naming the file, the section and the field."""
    content = read_mapping(path)
    plain = {key: value for key, value in content.items() if key not in _SECTIONS}
    names = [f.name for f in dataclasses.fields(Sweep)]
    for key in plain:
        if key not in names:
            raise VbonError(f"{path}: unknown key {key!r:.60}{nearest(str(key), names)}")
    values: dict[str, Any] = typed_values(Sweep, plain, path) | {
        "methods": {
            name: _method(name, fields, f"{path}: methods")
            for name, fields in _section(content, "methods", path).items()
        },
        "train": _fields(TrainConfig, content, "train", path, _DECIDED),
        "train_offline": _fields(TrainConfig, content, "train_offline", path, _DECIDED),
        "evaluate": _fields(EvaluateConfig, content, "evaluate", path, _EVALUATE_DECIDED),
    }
    missing = [f.name for f in dataclasses.fields(Sweep) if f.name not in values and f.default is dataclasses.MISSING]
    if missing:
        raise VbonError(f"{path}: missing {', '.join(missing)}")
    sweep = Sweep(**values)
    _check(sweep, path)
    return sweep


def _section(content: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise VbonError(f"{path}: {name} must hold lines of `key: value`, not a {type(section).__name__}")
    return section


def _fields(
    cls: type[Any], content: Mapping[str, Any], name: str, path: str, decided: tuple[str, ...]
) -> dict[str, Any]:
    section = _section(content, name, path)
    for key in section:
        if key in decided:
            raise VbonError(f"{path}: {name}: {key} is the sweep's to decide; leave it out")
    return typed_values(cls, section, f"{path}: {name}")


def _method(name: Any, fields: Any, where: str) -> dict[str, Any]:
    """One method's own fields. Raises VbonError for one that is not known, not trained, or would change its budget."""
    if name not in METHODS:
        raise VbonError(f"{where}: unknown method {name!r:.60}{nearest(str(name), list(METHODS))}")
    if not METHODS[name].trained:
        raise VbonError(f"{where}: {name} is in every comparison already; leave it out")
    own = _section({name: fields}, name, where)
    if "kl_coef" in own and METHODS[name].knob != "kl_coef":
        raise VbonError(f"{where}: {name} has no scale to choose; leave kl_coef out")
    for key in own:
        if key in _BUDGET:
            raise VbonError(f"{where}: {name}: {key} would give it a budget of its own; set it under train")
        if key in _DECIDED and key not in ("kl_coef", "algorithm"):
            raise VbonError(f"{where}: {name}: {key} is the sweep's to decide; leave it out")
    betas = own.get("kl_coef", [])
    if not isinstance(betas, list) or not all(type(beta) in (int, float) and beta > 0 for beta in betas):
        raise VbonError(f"{where}: {name}: kl_coef must be a list of numbers above 0, one for each n")
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
        raise VbonError(f"{path}: n must hold numbers above 1 in rising order")
    if sweep.search_n is not None and sweep.search_n not in sweep.n:
        raise VbonError(f"{path}: search_n is {sweep.search_n:g}, but must be one of n")
    for name, fields in sweep.methods.items():
        if "kl_coef" in fields and len(fields["kl_coef"]) != len(sweep.n):
            raise VbonError(
                f"{path}: methods: {name}: kl_coef has {len(fields['kl_coef'])} values, n has "
                f"{len(sweep.n)}: every method has as many grid points"
            )
