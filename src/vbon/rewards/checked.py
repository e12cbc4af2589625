"""The wrapper every reward passes through: finite float64 out, or one line naming reward, prompt and completion."""

import copy
import importlib
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vbon.errors import VbonError
from vbon.rewards.protocol import Prompt, RewardError, Score
from vbon.rewards.time_limit import TimeLimitReached, call_within

PROMPT_EXCERPT = 80
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one call; `first` is the index of the first in that call."""

    prompts: list[Prompt]
    completions: list[str]
    columns: dict[str, list[Any]]
    first: int = 0

    def __len__(self) -> int:
        return len(self.completions)

    def part(self, start: int, stop: int) -> "Rows":
        """Rows start … stop−1."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        return Rows(self.prompts[start:stop], self.completions[start:stop], columns, self.first + start)

    def copy(self) -> "Rows":
        """Rows that share no list or message with these, nor with each other."""
        columns = {name: [own(value) for value in values] for name, values in self.columns.items()}
        return Rows([own(prompt) for prompt in self.prompts], list(self.completions), columns, self.first)

    def batches(self, size: int | None) -> Iterator["Rows"]:
        """Parts of at most `size` rows; None: all at once."""
        size = size or max(len(self), 1)
        return (self.part(start, start + size) for start in range(0, len(self), size))

    def place(self, index: int) -> str:
        """How a message names row `index`."""
        return f"completion {self.first + index}, prompt {excerpt(self.prompts[index])}"

    def span(self) -> str:
        """How a message names all rows, where none alone is at fault."""
        if len(self) == 1:
            return self.place(0)
        last = self.first + len(self) - 1
        return f"completions {self.first} to {last}, the first of prompt {excerpt(self.prompts[0])}"


@dataclass(frozen=True)
class CheckedReward:
    """A Reward over a Score.

    `retry_alone`: after an exception in a batch, find the row that raises it by itself. `concurrency`: batches that are
    scored at the same time; the numbers keep the order of the rows.
    """

    name: str
    fingerprint: str
    score: Score = field(repr=False)
    batch_size: int | None = None
    timeout: float | None = None
    retry_alone: bool = False
    noise: float | None = None
    concurrency: int = 1

    def __call__(self, prompts: list[Prompt], completions: list[str], /, **columns: list[Any]) -> np.ndarray:
        """Rewards, float64, shape (len(completions),); raises VbonError naming reward, prompt and completion."""
        rows = aligned_rows(prompts, completions, columns)
        batches = rows.batches(self.batch_size)
        return np.concatenate([np.empty(0), *in_order(self._score_batch, batches, self.concurrency)])

    def _score_batch(self, rows: Rows) -> np.ndarray:
        try:
            values, items = self._run(rows)
        except TimeLimitReached:
            raise self._error(
                f"no answer in {self.timeout:g} s; raise --reward-timeout or make it faster", rows.span()
            ) from None
        except (VbonError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a user's code may raise what is no Exception: SystemExit, CancelledError, …
            raise self._error(describe(error), self._culprit(rows, error) or rows.span()) from error
        return self._numbers(values, items, rows)

    def _run(self, rows: Rows) -> tuple[Any, list[Any] | None]:
        """What the reward returns, and its items: a generator runs the reward's code only when it is read."""
        given = rows.copy()  # what a reward does to its arguments must change nothing here

        def answer() -> tuple[Any, list[Any] | None]:
            values = self.score(given.prompts, given.completions, given.columns)
            return values, as_list(values, len(rows) + 1)

        returned: tuple[Any, list[Any] | None] = call_within(self.timeout, answer)
        return returned

    def _culprit(self, rows: Rows, error: BaseException) -> str | None:
        row = getattr(error, "row", None)
        if isinstance(row, int):
            return rows.place(row)
        for index in range(len(rows)) if self.retry_alone else ():
            try:
                self._run(rows.part(index, index + 1))
            except KeyboardInterrupt:
                raise
            except BaseException:
                return rows.place(index)
        return None

    def _numbers(self, values: Any, items: list[Any] | None, rows: Rows) -> np.ndarray:
        if items is None:
            raise self._error(f"returned {type(values).__name__}, not a list of numbers", rows.span())
        if len(items) != len(rows):
            count = str(len(items)) if hasattr(values, "__len__") or len(items) < len(rows) else "more"
            raise self._error(f"returned {count} rewards for {len(rows)} completions", rows.span())
        return np.array([self._number(item, rows, index) for index, item in enumerate(items)], dtype=np.float64)

    def _number(self, item: Any, rows: Rows, index: int) -> float:
        value = as_number(item)
        if value is None:
            raise self._error(f"returned {shorten(_shown(repr, item))}, which is not a number", rows.place(index))
        if not math.isfinite(value):
            raise self._error(f"returned {value}; a reward must be a finite number", rows.place(index))
        return value

    def _error(self, what: str, where: str) -> VbonError:
        return VbonError(f"reward {self.name}: {what} ({where})")


def checked(
    score: Score,
    *,
    name: str,
    fingerprint: str,
    batch_size: int | None = None,
    timeout: float | None = None,
    retry_alone: bool = False,
    noise: float | None = None,
    concurrency: int = 1,
) -> CheckedReward:
    """A Reward that calls `score` on `batch_size` rows at a time (None: all) and refuses what is no finite number.

    `noise`: as in `Reward`. `concurrency`: calls at the same time, from threads.
    """
    if batch_size is not None and batch_size < 1:
        raise VbonError(f"reward {name}: batch size {batch_size} is below 1")
    if timeout is not None and not timeout > 0:
        raise VbonError(f"reward {name}: time-out {timeout} s is not above 0")
    return CheckedReward(name, fingerprint, score, batch_size, timeout, retry_alone, noise, concurrency)


def in_order(function: Callable[[A], B], arguments: Iterable[A], concurrency: int) -> Iterator[B]:
    """The results of `function`, in the order of the arguments, of which `concurrency` are worked on at a time.

    The first error, in that order, is raised, and calls that have not begun are dropped.
    """
    if concurrency == 1:
        yield from map(function, arguments)
        return
    workers = ThreadPoolExecutor(concurrency, "vbon-reward")
    try:
        yield from workers.map(function, arguments)
    finally:
        workers.shutdown(cancel_futures=True)


def aligned_rows(prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> Rows:
    """One Rows from a call's arguments; ValueError where lengths differ (the caller's mistake, not the user's)."""
    for name, values in {"prompts": prompts, **columns}.items():
        if len(values) != len(completions):
            raise ValueError(f"{name} has {len(values)} entries for {len(completions)} completions")
    lists = {name: list(values) for name, values in columns.items()}
    return Rows(list(prompts), list(completions), lists)


def excerpt(prompt: Prompt) -> str:
    """The first characters of a prompt (of its last message, for a chat), quoted on one line."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content")) if prompt else ""
    return repr(text[:PROMPT_EXCERPT] + ("…" if len(text) > PROMPT_EXCERPT else ""))


def describe(error: BaseException) -> str:
    """One line for an exception: its type, message, and the file and line that raised it."""
    if isinstance(error, RewardError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {shorten(_shown(str, error))}{place}"


def _shown(show: Callable[[Any], str], value: Any) -> str:
    """`show(value)`, whose code is the value's own and may fail."""
    try:
        return show(value)
    except Exception:
        return f"an object of class {type(value).__name__} that cannot be shown"


def is_users(filename: str) -> bool:
    """Whether a stack frame is in code of the user's, not of this package or the import system."""
    own = {Path(__file__).parent, Path(importlib.__file__).parent}
    return not filename.startswith("<") and Path(filename).parent not in own


def shorten(text: str, limit: int = 200) -> str:
    """`text` on one line, at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def own(value: T) -> T:
    """A copy of a value that could be changed in place."""
    return value if isinstance(value, str | int | float | None) else copy.deepcopy(value)


def as_list(values: Any, most: int) -> list[Any] | None:
    """At most `most` items of an iterable, a tensor of any dtype and device too; None where it is none."""
    if isinstance(values, str | bytes | dict | set | frozenset):
        return None
    if hasattr(values, "detach"):  # a torch tensor, bfloat16 included, which numpy cannot read
        values = values.detach().double().cpu().numpy()
    try:
        return list(values) if hasattr(values, "__len__") else list(islice(values, most))
    except TypeError:
        return None


def as_number(item: Any) -> float | None:
    """`item` as a float; None where it is no number. Text is refused even where it spells one."""
    if isinstance(item, str | bytes) or getattr(item, "shape", ()) != ():
        return None
    try:
        return float(item)
    except Exception:  # the item's own code
        return None
