"""The public Python surface, pinned: names, parameters and defaults. A change here is a change for users."""

import inspect
import types

import pytest

import vbon
from vbon.core import best_of_n

FUNCTIONS = {
    "expectation": "values, rewards, n",
    "kl_coef_from_n": "n",
    "kl_floor": "num_samples, n",
    "kl_from_levels": "mass, n",
    "kl_from_reference": "n",
    "level_probabilities": "mass, n",
    "log_prob": "ref_logprob, cdf_lt, cdf_le, n",
    "log_weight": "cdf_lt, cdf_le, n",
    "log_weight_lower_bound": "cdf_lt, n",
    "log_weight_upper_bound": "cdf_le, n",
    "n_from_kl": "kl",
    "n_from_kl_coef": "kl_coef",
    "order_statistic_weights": "num_samples, n",
    "tie_averaged_weights": "rewards, n",
    "win_rate": "n",
    "win_rate_from_levels": "mass, n",
}
MEMBERS = {
    "RewardCDF": {
        "__init__": "self, rewards, num_samples, tie_keys=None",
        "counts": "self, pool_index, rewards, tie_keys=None",
        "interval": "self, pool_index, rewards, tie_keys=None",
        "pool_interval": "self",
    },
    "ReferencePool": {
        "open": "path, *, allow_incomplete=False",
        "rows_of": "self, prompt",
        "per_prompt": "self, values",
        "index_of": "self, prompt_id",
        "cdf": "self, tie_rule='random'",
        "select": "self, prompt_ids",
        "split": "self, fraction, seed=0",
    },
    "VBoNTrainer": {
        "__init__": "self, policy, ref_policy, reward, pool, config, *, tokenizer=None, accelerator=None, "
        "provenance=None, others=(), should_pause=None",
        "train": "self",
        "replay": "self, file",
    },
}
PROPERTIES = {
    "ReferencePool": "completion_ids completions digest fingerprint finished has_completion_ids offsets prompt_index "
    "ref_logprobs rewards tie_keys"
}


def written(function) -> str:
    """Parameters and defaults as they are written, without annotations; a function as a default is `…`."""
    signature = inspect.signature(function)
    parts = []
    for parameter in signature.parameters.values():
        is_function = isinstance(parameter.default, types.FunctionType)
        parts.append(
            parameter.replace(annotation=inspect.Parameter.empty, default=... if is_function else parameter.default)
        )
    text = str(signature.replace(parameters=parts, return_annotation=inspect.Signature.empty))
    return text.removeprefix("(").removesuffix(")")


def test_the_names_of_the_package():
    assert vbon.__all__ == ["ReferencePool", "RewardCDF", "VBoNTrainer", "best_of_n", "evaluate", "__version__"]
    assert all(hasattr(vbon, name) for name in vbon.__all__)


def test_the_functions_of_best_of_n():
    public = {
        name: written(value)
        for name, value in vars(best_of_n).items()
        if isinstance(value, types.FunctionType) and value.__module__ == best_of_n.__name__ and name[0] != "_"
    }
    assert public == FUNCTIONS


@pytest.mark.parametrize("name", MEMBERS)
def test_the_methods_of_a_class(name: str):
    cls = getattr(vbon, name)
    public = {
        key: written(getattr(cls, key))
        for key, value in vars(cls).items()
        if isinstance(value, types.FunctionType | classmethod) and (key[0] != "_" or key in MEMBERS[name])
    }
    assert public == MEMBERS[name]
    kinds = {key for key, value in vars(cls).items() if hasattr(value, "fget") or hasattr(value, "attrname")}
    assert sorted(key for key in kinds if key[0] != "_") == PROPERTIES.get(name, "").split()


def test_evaluate():
    assert written(vbon.evaluate) == "policies, task, *, with_throughput=False, advance=Ellipsis"
