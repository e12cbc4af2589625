"""Failure signatures on histories made up to show them, and each warning once."""

import io

import pytest
import torch
from rich.console import Console

from vbon.core.best_of_n import kl_floor, kl_from_reference
from vbon.training.health import (
    WATCHED,
    WINDOW,
    HealthCheck,
    failure_signs,
    noisy_cdf,
    plateau,
    precision,
    share_rounded_away,
)
from vbon.training.output.state import RunState

N = 8.0
HEALTHY = {"kl_policy_ref": 1.2, "entropy": 10.0, "eos_rate": 0.9}


def history(**ends: float) -> list[dict[str, float]]:
    """From HEALTHY in a straight line to `ends`, 40 iterations."""
    last = HEALTHY | ends
    return [{key: HEALTHY[key] + (last[key] - HEALTHY[key]) * i / 39 for key in WATCHED} for i in range(40)]


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ({}, set()),
        ({"kl_policy_ref": 1.5 * kl_from_reference(N)}, set()),
        ({"kl_policy_ref": 3.0}, {"kl_overrun"}),
        ({"entropy": 4.0}, set()),
        ({"entropy": 0.5}, {"entropy_collapse"}),
        ({"eos_rate": 0.1}, {"eos_collapse"}),
        ({"kl_policy_ref": 9.0, "entropy": 0.0, "eos_rate": 0.0}, {"kl_overrun", "entropy_collapse", "eos_collapse"}),
    ],
)
def test_signs(ends, found):
    assert set(failure_signs(history(**ends), N, vbon_objective=True)) == found


def test_eos_may_also_rise_too_far():
    rising = list(reversed(history(eos_rate=0.1)))
    assert set(failure_signs(rising, N, vbon_objective=True)) == {"eos_collapse"}


def test_signs_wait_for_two_windows_and_know_no_target_for_other_objectives():
    overrun = history(kl_policy_ref=9.0)
    assert failure_signs(overrun[: 2 * WINDOW - 1], N, vbon_objective=True) == {}
    assert failure_signs(overrun, N, vbon_objective=False) == {}


def validations(*objectives: float) -> list[dict[str, float]]:
    return [{"iteration": 25 * i, "validation/objective": value} for i, value in enumerate(objectives)]


def test_plateau_names_the_last_improvement():
    assert plateau(validations(1, 2, 3, 4, 5, 6)) is None
    assert plateau(validations(1, 5, 2, 3, 4)) is None  # three validations since
    assert "since iteration 25;" in plateau(validations(1, 5, 2, 3, 4, 5))
    assert plateau(validations(1, 5, 2, 3, 4, 5.1)) is None


def test_a_pool_too_small_for_n_is_named_before_the_start():
    line = noisy_cdf(N, 16, vbon_objective=True)
    assert (
        f"M = 16 samples per prompt, KL(π_θ‖π_bon) is estimated as {kl_floor(16, N):.2f} nats" in line
        and "M ≥ 200" in line
    )
    assert noisy_cdf(N, 200, vbon_objective=True) is None
    assert noisy_cdf(N, 16, vbon_objective=False) is None


def test_each_warning_comes_once_a_run_resumed_or_not():
    stream = io.StringIO()
    console, state = Console(file=stream, width=500), RunState()
    watcher = HealthCheck(console, state, N, vbon_objective=True)
    for metrics in history(kl_policy_ref=9.0):
        watcher.after_iteration(metrics)
    assert stream.getvalue().count("runs past best-of-8's 1.20 nats") == 1
    resumed = HealthCheck(console, RunState(**state.to_json()), N, vbon_objective=True)
    for metrics in history(kl_policy_ref=9.0):
        resumed.after_iteration(metrics)
    assert stream.getvalue().count("warning") == 1


def test_kl_that_runs_away_is_said_at_the_next_validation():
    for kl, count in ((1.5 * kl_from_reference(N), 0), (63.3, 1)):
        stream, state = io.StringIO(), RunState()
        watcher = HealthCheck(Console(file=stream, width=500), state, N, vbon_objective=True)
        state.validations.append({"iteration": 1, "validation/objective": 0.0, "validation/kl_policy_ref": kl})
        watcher.after_validation()
        watcher.after_validation()
        assert stream.getvalue().count("runs past best-of-8's 1.20 nats") == count


def test_the_watcher_remembers_the_first_and_the_latest_iterations():
    state = RunState()
    watcher = HealthCheck(Console(quiet=True), state, N, vbon_objective=True)
    for step in range(100):
        watcher.after_iteration({**HEALTHY, "entropy": float(step), "reward": 1.0})
    seen = [row["entropy"] for row in state.recent]
    assert seen == [*map(float, range(WINDOW)), *map(float, range(100 - WINDOW, 100))]
    assert set(state.recent[0]) == set(WATCHED)


def test_steps_that_a_precision_rounds_away_are_counted_by_taking_them():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = torch.nn.Linear(64, 64).to(dtype)
        for rate in (1e-2, 1e-3, 1e-5, 1e-7):
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            stuck = float(((weights.double() + rate).to(dtype) == weights).double().mean())
            assert share_rounded_away(model, rate, most=10**6) == pytest.approx(stuck, abs=0.02), (dtype, rate)
    assert precision(0.94, 1.7e-5) is not None and precision(0.3, 1e-3) is None


def test_frozen_weights_need_not_follow():
    model = torch.nn.Linear(8, 8).bfloat16()
    model.weight.requires_grad_(False)
    model.bias.data.zero_()
    assert share_rounded_away(model, 1e-6) == 0
