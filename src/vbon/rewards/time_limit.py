"""A time limit on a call of somebody else's code.

On the main thread the limit is an alarm, which interrupts Python code and leaves it on the main thread, where verifiers
that set alarms of their own must run. Elsewhere a daemon thread runs the call and is abandoned when the limit passes.
"""

import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

MIN_TIMER = 1e-3  # setitimer(0) would cancel an outer timer that is already due


class TimeLimitReached(BaseException):
    """Not an Exception, so that an `except Exception` inside the limited code cannot swallow it."""


def call_within(seconds: float | None, function: Callable[[], Any]) -> Any:
    """The result of `function()`; raises TimeLimitReached after `seconds` (None: no limit)."""
    if seconds is None:
        return function()
    on_main = threading.current_thread() is threading.main_thread()
    return (_call_under_alarm if on_main else _call_in_thread)(seconds, function)


def _call_under_alarm(seconds: float, function: Callable[[], Any]) -> Any:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise TimeLimitReached

    started = time.monotonic()
    outer_remaining, outer_interval = signal.setitimer(signal.ITIMER_REAL, 0)  # before it could ring as ours
    outer_handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            return function()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, outer_handler)
        if outer_remaining:
            left = max(outer_remaining - (time.monotonic() - started), MIN_TIMER)
            signal.setitimer(signal.ITIMER_REAL, left, outer_interval)


def _call_in_thread(seconds: float, function: Callable[[], Any]) -> Any:
    outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)

    def work() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:  # handed to the caller's thread, which raises it
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True, name="vbon-reward").start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeLimitReached from None
    if error is not None:
        raise error
    return result
