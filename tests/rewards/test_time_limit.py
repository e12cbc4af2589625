"""Time limits: on the main thread and off it, through code that swallows exceptions, leaving outer alarms alone."""

import signal
import threading
import time

import pytest

from vbon.errors import VbonError
from vbon.rewards import callable_reward
from vbon.rewards.time_limit import TimeLimitReached, call_within

LIMIT = 0.2  # seconds
SLOW = 30.0  # far beyond the limit: a test that waits it out would be seen


def swallow_and_sleep():
    try:
        time.sleep(SLOW)
    except Exception:
        return "swallowed"


@pytest.mark.parametrize("function", [lambda: time.sleep(SLOW), swallow_and_sleep])
def test_the_main_thread_is_interrupted(function):
    started = time.monotonic()
    with pytest.raises(TimeLimitReached):
        call_within(LIMIT, function)
    assert time.monotonic() - started < SLOW / 2


def test_catastrophic_backtracking_is_interrupted():
    import re

    with pytest.raises(TimeLimitReached):
        call_within(LIMIT, lambda: re.match(r"(a+)+$", "a" * 40 + "b"))


def in_thread(function):
    outcome = []

    def work():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0]


def test_other_threads_are_left_waiting_no_longer_than_the_limit():
    release = threading.Event()
    outcome = in_thread(lambda: call_within(LIMIT, release.wait))
    release.set()  # ends the abandoned call
    assert isinstance(outcome, TimeLimitReached)


@pytest.mark.parametrize("run", [lambda function: function(), in_thread])
def test_results_and_exceptions_pass_through(run):
    assert run(lambda: call_within(SLOW, lambda: 42)) == 42
    assert run(lambda: call_within(None, lambda: 43)) == 43
    error = in_thread(lambda: call_within(SLOW, lambda: 1 // 0))
    assert isinstance(error, ZeroDivisionError)


def test_an_outer_alarm_still_rings():
    rung = threading.Event()
    outer = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 2 * SLOW)
        call_within(SLOW, lambda: time.sleep(0.01))
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 2 * SLOW and not rung.is_set()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        call_within(SLOW, lambda: time.sleep(0.02))  # the outer alarm was due in between
        assert rung.wait(SLOW)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer)


def test_an_outer_alarm_cannot_ring_while_handlers_are_exchanged(monkeypatch):
    """It would be taken for the limit, or ours for it."""
    exchange, left = signal.signal, []

    def exchanged(number, handler):
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return exchange(number, handler)

    outer = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        monkeypatch.setattr(signal, "signal", exchanged)
        call_within(SLOW, lambda: None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        exchange(signal.SIGALRM, outer)
    assert left == [0, 0]


def test_a_slow_reward_is_an_error_that_names_rows_and_limit():
    reward = callable_reward(lambda completions: time.sleep(SLOW), name="mine", fingerprint="f", timeout=LIMIT)
    with pytest.raises(
        VbonError, match=r"reward mine: no answer in 0.2 s; raise --reward-timeout .*\(completion 0, prompt 'why'\)"
    ):
        reward(["why"], ["because"])
