"""The wrapper: exact numbers through, and every failure a line that names reward, prompt and completion."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch

from vbon.errors import VbonError
from vbon.rewards import callable_reward, checked
from vbon.rewards.protocol import RewardError

PROMPTS = ["first prompt", "second prompt", "third prompt", "x" * 100]
COMPLETIONS = ["a", "bb", "ccc", "dddd"]


def reward_of(score, **options):
    return checked(score, name="mine", fingerprint="f", **options)


def lengths(prompts, completions, columns):
    return [len(c) for c in completions]


def constant(values):
    return reward_of(lambda prompts, completions, columns: values)


@pytest.mark.parametrize(
    "values",
    [
        [0.1, -2, True, 3],
        (0.1, -2, 1, 3.0),
        np.array([0.1, -2, 1, 3]),
        torch.tensor([0.1, -2, 1, 3], dtype=torch.float64, requires_grad=True),
        [torch.tensor(0.1, dtype=torch.float64), np.float64(-2), np.int64(1), Fraction(3)],
        (x for x in [0.1, -2, 1, 3]),
    ],
)
def test_every_container_of_numbers_becomes_the_same_float64(values):
    rewards = constant(values)(PROMPTS, COMPLETIONS)
    assert rewards.dtype == np.float64
    np.testing.assert_array_equal(rewards, np.array([0.1, -2.0, 1.0, 3.0]))


def test_bfloat16_tensors_keep_their_exact_values():
    values = torch.tensor([1 / 3, 1 / 7, 5.0, -1e30]).bfloat16()
    np.testing.assert_array_equal(constant(values)(PROMPTS, COMPLETIONS), [float(v) for v in values])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100, None])
def test_batches_are_consecutive_and_columns_stay_aligned(batch_size):
    seen = []

    def score(prompts, completions, columns):
        seen.append(len(completions))
        rows = zip(prompts, completions, columns["k"], strict=True)
        return [len(p) * 100 + len(c) * 10 + k for p, c, k in rows]

    rewards = reward_of(score, batch_size=batch_size)(PROMPTS, COMPLETIONS, k=[1, 2, 3, 4])
    np.testing.assert_array_equal(rewards, [1211, 1322, 1233, 10044])
    assert max(seen) == min(batch_size or 4, 4)


def test_nothing_to_score_calls_nothing():
    rewards = reward_of(lambda *_: pytest.fail("called"))([], [])
    assert rewards.dtype == np.float64 and rewards.size == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_reward_names_its_completion_and_prompt(bad):
    reward = reward_of(
        lambda prompts, completions, columns: [bad if c == "ccc" else 1.0 for c in completions], batch_size=2
    )
    with pytest.raises(VbonError) as raised:
        reward(PROMPTS, COMPLETIONS)
    assert str(raised.value) == (
        f"reward mine: returned {bad}; a reward must be a finite number (completion 2, prompt 'third prompt')"
    )


@pytest.mark.parametrize("bad", ["1.0", None, [1.0], {}, 1j, np.array([1.0]), 10**400])
def test_what_is_no_number_is_refused_even_where_it_spells_one(bad):
    with pytest.raises(VbonError, match=r"which is not a number \(completion 1, prompt 'second prompt'\)"):
        constant([1.0, bad, 1.0, 1.0])(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("bad", [1.0, None, "1234", {"a": 1, "b": 2, "c": 3, "d": 4}, np.float64(2)])
def test_what_is_no_list_is_refused(bad):
    with pytest.raises(VbonError, match=rf"returned {type(bad).__name__}, not a list of numbers"):
        constant(bad)(PROMPTS, COMPLETIONS)


def test_a_column_vector_is_refused_rather_than_flattened():
    with pytest.raises(VbonError, match="not a number"):
        constant(np.ones((4, 1)))(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_count_names_both_counts_and_the_rows(count):
    with pytest.raises(VbonError) as raised:
        constant([1.0] * count)(PROMPTS, COMPLETIONS)
    assert f"returned {count} rewards for 4 completions (completions 0 to 3" in str(raised.value)


def raises_at(bad):
    def score(prompts, completions, **_):
        if bad in completions:
            raise KeyError("answer\nof two lines")
        return [1.0] * len(completions)

    return score


@pytest.mark.parametrize(("batch_size", "row"), [(64, 3), (2, 1), (2, 3), (1, 0)])
def test_an_exception_is_traced_to_the_row_that_raises_it(batch_size, row):
    reward = callable_reward(raises_at(COMPLETIONS[row]), name="mine", fingerprint="f", batch_size=batch_size)
    with pytest.raises(VbonError) as raised:
        reward(PROMPTS, COMPLETIONS)
    message = str(raised.value)
    assert "KeyError" in message and "test_checked.py:" in message and "\n" not in message
    prompt = PROMPTS[row] if row < 3 else "x" * 80 + "…"
    assert message.endswith(f"(completion {row}, prompt '{prompt}')")


def test_an_exception_of_the_batch_as_a_whole_names_its_rows():
    def score(prompts, completions):
        if len(completions) > 1:
            raise RuntimeError("too many")
        return [1.0]

    reward = callable_reward(score, name="mine", fingerprint="f", batch_size=3)
    with pytest.raises(VbonError, match=r"too many .*\(completions 0 to 2, the first of prompt 'first prompt'\)"):
        reward(PROMPTS, COMPLETIONS)


def test_a_chat_prompt_is_named_by_its_last_message():
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello\nthere"}]
    with pytest.raises(VbonError, match=r"prompt 'hello\\nthere'"):
        constant([math.nan])([chat], ["x"])


def test_misaligned_arguments_are_the_callers_mistake():
    with pytest.raises(ValueError, match="prompts has 3 entries for 4"):
        reward_of(lengths)(PROMPTS[:3], COMPLETIONS)
    with pytest.raises(ValueError, match="k has 1 entries for 4"):
        reward_of(lengths)(PROMPTS, COMPLETIONS, k=[1])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"timeout": 0.0}, {"timeout": -1.0}, {"timeout": math.nan}])
def test_limits_that_allow_nothing_are_refused(options):
    with pytest.raises(VbonError, match="reward mine: "):
        reward_of(lengths, **options)


def test_calls_that_end_in_another_order_leave_the_numbers_in_theirs():
    second_done = threading.Event()

    def score(prompts, completions, columns):
        if completions == ["a"]:
            assert second_done.wait(60)
        if completions == ["bb"]:
            second_done.set()
        return [len(completions[0])]

    rewards = reward_of(score, batch_size=1, concurrency=2)(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(rewards, [1, 2, 3, 4])


def test_an_error_among_calls_in_flight_drops_those_not_begun(monkeypatch):
    """Two are in flight: beside the first two calls, two more have begun when the error of the second is seen."""
    dropped, begun = threading.Event(), []

    end = ThreadPoolExecutor.shutdown

    def shutdown(workers, wait=True, *, cancel_futures=False):
        end(workers, wait=False, cancel_futures=cancel_futures)
        dropped.set()
        end(workers, wait=wait)

    def score(prompts, completions, columns):
        begun.append(completions[0])
        if completions[0] == "refused":
            raise RewardError("it answered 400")
        assert completions[0] == "fine" or dropped.wait(60)
        return [1.0]

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    with pytest.raises(VbonError, match=r"answered 400 \(completion 1, prompt 'p'\)"):
        completions = ["fine", "refused", *(f"later {k}" for k in range(30))]
        reward_of(score, batch_size=1, concurrency=2)(["p"] * 32, completions)
    assert set(begun) <= {"fine", "refused", "later 0", "later 1"}
