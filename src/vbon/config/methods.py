"""Every method under its name for `vbon train --method`, with the fields of `TrainConfig` that it stands for."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

MethodName = Literal[
    "vbon",
    "vbon-bound",
    "kl-rl",
    "quantile",
    "bon-sft",
    "bon-sft-all",
    "dpo",
    "bonbon",
    "bond",
    "regression",
    "listwise",
    "grpo",
    "best-of-n",
]
Family = Literal["vbon", "kl-rl", "quantile", "bon-sft", "dpo", "bonbon", "bond", "offline-vbon", "grpo", "best-of-n"]
Knob = Literal["n", "kl_coef"]
Optimum = Literal["best-of-n", "near best-of-n", "kl-rl-tilt", "quantile-tilt", "none"]

AUTO = "auto"
DEFAULTS = {"objective": "vbon", "algorithm": "rloo", "offline_loss": "weighted-sft", "kl_estimator": "k1"}
"""The fields of `TrainConfig` that a method sets, and their values if neither a method nor a flag sets them."""


@dataclass(frozen=True)
class Method:
    """One row of the table. `optimum` is the limit of training, given the exact F and a network without limits."""

    summary: str
    family: Family
    optimum: Optimum
    choices: Mapping[str, tuple[str, ...]]
    """Fields of `TrainConfig` → the values that the method allows, the default first."""
    _: KW_ONLY
    knob: Knob = "n"
    """The setting that says how far the policy may move from the reference."""
    trained: bool = True
    """False for best-of-N, which samples and does not train."""
    whole_n: bool = False
    """True if it draws whole sets of N from the pool, so that N must be an integer of at most M."""

    @property
    def settings(self) -> dict[str, str]:
        """The fields of `TrainConfig` that the name stands for."""
        return {name: values[0] for name, values in self.choices.items()}

    def allows(self, given: Mapping[str, str]) -> bool:
        """True if the method allows these fields of `TrainConfig`."""
        return all(given.get(name, AUTO) in (AUTO, *values) for name, values in self.choices.items())


def _online(
    objective: str, algorithms: tuple[str, ...] = ("rloo", "ppo"), kl_estimators: tuple[str, ...] = ("k1", "full")
) -> dict[str, tuple[str, ...]]:
    losses = ("weighted-sft", "regression", "listwise")  # of a warm start
    return {"objective": (objective,), "algorithm": algorithms, "offline_loss": losses, "kl_estimator": kl_estimators}


def _offline(loss: str) -> dict[str, tuple[str, ...]]:
    return {"objective": ("vbon",), "algorithm": ("offline",), "offline_loss": (loss,), "kl_estimator": ("k1", "full")}


METHODS: dict[MethodName, Method] = {
    "vbon": Method(
        "maximise −KL(π_θ‖π_bon), exactly", "vbon", "best-of-n", _online("vbon", (AUTO, "rloo", "ppo", "residual"))
    ),
    "vbon-bound": Method("the paper's (N−1)·log F in its place", "vbon", "near best-of-n", _online("vbon-bound")),
    "kl-rl": Method(
        "the reward itself under a KL penalty (RLHF)", "kl-rl", "kl-rl-tilt", _online("reward"), knob="kl_coef"
    ),
    "quantile": Method(
        "the rank of the reward under a KL penalty", "quantile", "quantile-tilt", _online("quantile"), knob="kl_coef"
    ),
    "bon-sft-all": Method(
        "cross-entropy on best-of-N, every pool sample by its weight", "bon-sft", "best-of-n", _offline("weighted-sft")
    ),
    "bon-sft": Method(
        "cross-entropy on the best of each N pool samples", "bon-sft", "best-of-n", _offline("sft"), whole_n=True
    ),
    "regression": Method(
        "offline vBoN: log π_θ/π_ref regressed on log W", "offline-vbon", "best-of-n", _offline("regression")
    ),
    "listwise": Method(
        "offline vBoN: softmax of log π_θ/π_ref against W", "offline-vbon", "best-of-n", _offline("listwise")
    ),
    "dpo": Method(
        "the best of N pool samples preferred to the worst",
        "dpo",
        "none",
        _offline("dpo"),
        whole_n=True,
        knob="kl_coef",
    ),
    "bonbon": Method(
        "cross-entropy on the best of N, and a margin over the worst",
        "bonbon",
        "near best-of-n",
        _offline("bonbon"),
        whole_n=True,
    ),
    "bond": Method(
        "half KL(π_bon‖π_θ) on pool samples, half the bound of KL(π_θ‖π_bon)", "bond", "near best-of-n", _online("bond")
    ),
    "grpo": Method(
        "vbon with the KL in the loss: an approximate host",
        "grpo",
        "near best-of-n",
        _online("vbon", ("grpo",), ("k3", "full")),
    ),
    "best-of-n": Method("N samples at inference, nothing trained", "best-of-n", "best-of-n", {}, trained=False),
}


def method_of(given: Mapping[str, str]) -> MethodName | None:
    """The first method that trains with these fields of `TrainConfig`; None if there is none."""
    return next((name for name, method in METHODS.items() if method.trained and method.allows(given)), None)


def resolved(given: Mapping[str, str], method: MethodName | None) -> dict[str, str]:
    """`given` without `auto`: the value is the method's, or that of the first method that allows the other fields."""
    name = method or method_of(given)
    filled = DEFAULTS | (METHODS[name].settings if name else {})
    return {field: filled[field] if value == AUTO else value for field, value in given.items()}
