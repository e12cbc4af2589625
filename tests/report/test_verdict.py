"""The words against the figures they are about: every threshold from both sides."""

import pytest

from vbon.artifacts.evaluation import Evaluation
from vbon.core.estimate import Estimate
from vbon.report.verdict import CLOSE_NATS, KL_ALLOWANCE, verdict, win_gain_share

TARGET_WIN, TARGET_KL, FLOOR = 8 / 9, 1.204, 0.017


def estimate(value: float, reach: float = 0.0) -> Estimate:
    return Estimate(value, value - reach, value + reach)


def evaluation(policy: dict[str, Estimate], reference: dict[str, Estimate] | None = None, **kwargs) -> Evaluation:
    return Evaluation(
        "eval",
        "eval",
        8.0,
        {"mine": policy},
        reference or {},
        {"win_rate": estimate(TARGET_WIN), "kl_policy_ref": estimate(TARGET_KL)},
        FLOOR,
        {},
        **kwargs,
    )


def shortfalls(policy: dict[str, Estimate], **kwargs) -> str:
    return " ".join(verdict("mine", evaluation(policy, **kwargs)).shortfalls)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.951, "is nearly as good as"),
        (0.949, "comes close to"),
        (0.849, "goes part of the way to"),
        (0.399, "stays far from"),
    ],
)
def test_the_headline_follows_the_share_of_the_win_gain(share, words):
    policy = {"win_rate": estimate(0.5 + share * (TARGET_WIN - 0.5))}
    assert verdict("mine", evaluation(policy)).headline == f"One sample of mine {words} best-of-8"
    assert win_gain_share(policy, evaluation(policy).target) == pytest.approx(share)


def test_as_good_as_needs_the_target_within_the_interval():
    win_rate = 0.5 + 0.96 * (TARGET_WIN - 0.5)
    for reach, words in ((0.015, "sample of mine is nearly as good"), (0.016, "sample of mine is as good")):
        assert words in verdict("mine", evaluation({"win_rate": estimate(win_rate, reach)})).headline


def test_without_a_win_rate_nothing_is_claimed():
    assert "has not been measured" in verdict("mine", evaluation({})).headline


def test_a_gap_in_win_rate_is_named_only_where_the_interval_excludes_the_target():
    assert "wins less often" in shortfalls({"win_rate": estimate(TARGET_WIN - 0.021, 0.02)})
    assert "by 2.1 percentage points" in shortfalls({"win_rate": estimate(TARGET_WIN - 0.021, 0.02)})
    assert shortfalls({"win_rate": estimate(TARGET_WIN - 0.021, 0.022)}) == ""


def test_overspent_kl_is_named_beyond_the_allowance():
    assert "1.30 times the KL" in shortfalls({"kl_policy_ref": estimate(1.3 * TARGET_KL)})
    assert shortfalls({"kl_policy_ref": estimate((KL_ALLOWANCE - 0.001) * TARGET_KL)}) == ""


def test_distance_to_best_of_n_is_held_against_its_floor():
    assert "KL(π_θ‖π_bon)" in shortfalls({"kl_policy_bon": estimate(FLOOR + CLOSE_NATS + 0.11, 0.1)})
    assert shortfalls({"kl_policy_bon": estimate(FLOOR + CLOSE_NATS + 0.09, 0.1)}) == ""


def test_a_judge_that_falls_is_named_and_one_that_rises_is_not():
    judges = {"judge_reward/good": estimate(1.0, 0.1), "judge_reward/bad": estimate(0.0, 0.1)}
    reference = {"judge_reward/good": estimate(0.5, 0.1), "judge_reward/bad": estimate(0.5, 0.1)}
    said = shortfalls(judges, reference=reference)
    assert "judge bad" in said and "judge good" not in said


def test_a_judge_that_the_evaluation_warned_of_is_named_once():
    judges, reference = {"judge_reward/bad": estimate(0.0, 0.1)}, {"judge_reward/bad": estimate(0.5, 0.1)}
    warning = "mine: judge bad falls by 0.5 from the reference while the reward rises: the reward may be exploited"
    assert shortfalls(judges, reference=reference, warnings=[warning]) == warning


def test_warnings_of_the_evaluation_are_repeated():
    assert shortfalls({}, warnings=["M is small"]) == "M is small"
