"""Every method by the name that `vbon train --method` takes: what it trains, and what a comparison needs to know of it.

A method is a choice of the fields below; the first value of a field is its default, the others go with it as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
"""The fields of `TrainConfig` that a method is a choice of, and their values where neither it nor a flag says."""
ONLINE = ("rloo", "ppo")
FULL_OR_K1 = ("k1", "full")
WARM_START_LOSSES = ("weighted-sft", "regression", "listwise")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table. `optimum`: what the method converges to, given exact F and no limit on the network."""

    summary: str
    family: Family
    optimum: Optimum
    choices: Mapping[str, tuple[str, ...]]
    knob: Knob = "n"
    trained: bool = True
    """False for best-of-N itself, which is sampling and not training."""
    whole_n: bool = False
    """Whether it draws whole sets of N from the pool, hence needs an integer N of at most M."""

    @property
    def settings(self) -> dict[str, str]:
        """The fields of `TrainConfig` that the name stands for."""
        return {name: values[0] for name, values in self.choices.items()}

    def allows(self, given: Mapping[str, str]) -> bool:
        """Whether these fields of `TrainConfig` go with it."""
        return all(given.get(name, AUTO) in (AUTO, *values) for name, values in self.choices.items())


def _online(objective: str) -> dict[str, tuple[str, ...]]:
    return {
        "objective": (objective,),
        "algorithm": ONLINE,
        "offline_loss": WARM_START_LOSSES,
        "kl_estimator": FULL_OR_K1,
    }


def _offline(loss: str) -> dict[str, tuple[str, ...]]:
    return {"objective": ("vbon",), "algorithm": ("offline",), "offline_loss": (loss,), "kl_estimator": FULL_OR_K1}


METHODS: dict[MethodName, Method] = {
    "vbon": Method(
        summary="maximise −KL(π_θ‖π_bon), exactly", family="vbon", optimum="best-of-n", choices=_online("vbon")
    ),
    "vbon-bound": Method(
        summary="the paper's (N−1)·log F in its place",
        family="vbon",
        optimum="near best-of-n",
        choices=_online("vbon-bound"),
    ),
    "kl-rl": Method(
        summary="the reward itself under a KL penalty (RLHF)",
        family="kl-rl",
        knob="kl_coef",
        optimum="kl-rl-tilt",
        choices=_online("reward"),
    ),
    "quantile": Method(
        summary="the rank of the reward under a KL penalty",
        family="quantile",
        knob="kl_coef",
        optimum="quantile-tilt",
        choices=_online("quantile"),
    ),
    "bon-sft-all": Method(
        summary="cross-entropy on best-of-N, every pool sample by its weight",
        family="bon-sft",
        optimum="best-of-n",
        choices=_offline("weighted-sft"),
    ),
    "bon-sft": Method(
        summary="cross-entropy on the best of each N pool samples",
        family="bon-sft",
        optimum="best-of-n",
        choices=_offline("sft"),
        whole_n=True,
    ),
    "regression": Method(
        summary="offline vBoN: log π_θ/π_ref regressed on log W",
        family="offline-vbon",
        optimum="best-of-n",
        choices=_offline("regression"),
    ),
    "listwise": Method(
        summary="offline vBoN: softmax of log π_θ/π_ref against W",
        family="offline-vbon",
        optimum="best-of-n",
        choices=_offline("listwise"),
    ),
    "dpo": Method(
        summary="the best of N pool samples preferred to the worst",
        family="dpo",
        knob="kl_coef",
        optimum="none",
        choices=_offline("dpo"),
        whole_n=True,
    ),
    "bonbon": Method(
        summary="cross-entropy on the best of N, and a margin over the worst",
        family="bonbon",
        optimum="near best-of-n",
        choices=_offline("bonbon"),
        whole_n=True,
    ),
    "bond": Method(
        summary="half KL(π_bon‖π_θ) on pool samples, half the bound of KL(π_θ‖π_bon)",
        family="bond",
        optimum="near best-of-n",
        choices=_online("bond"),
    ),
    "grpo": Method(
        summary="vbon with the KL in the loss: an approximate host",
        family="grpo",
        optimum="near best-of-n",
        choices={
            "objective": ("vbon",),
            "algorithm": ("grpo",),
            "offline_loss": WARM_START_LOSSES,
            "kl_estimator": ("k3", "full"),
        },
    ),
    "best-of-n": Method(
        summary="N samples at inference, nothing trained",
        family="best-of-n",
        optimum="best-of-n",
        choices={},
        trained=False,
    ),
}


def method_of(given: Mapping[str, str]) -> MethodName | None:
    """The method that trains with these fields of `TrainConfig`, the first where several do; None for no method."""
    return next((name for name, method in METHODS.items() if method.trained and method.allows(given)), None)


def resolved(given: Mapping[str, str], method: MethodName | None) -> dict[str, str]:
    """`given` with each field that is `auto` filled in: by the method, else by the first that the others go with."""
    name = method or method_of(given)
    filled = DEFAULTS | (METHODS[name].settings if name else {})
    return {field: filled[field] if value == AUTO else value for field, value in given.items()}
