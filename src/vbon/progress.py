"""The progress bar of every long command, on standard error: steps done, time passed, time left, and a short state."""

import time

from rich import progress
from rich.console import Console


class ProgressBar:
    """A bar while its context lasts; where standard error is no terminal, only its last line is printed.

    Args:
        name: what is counted, for example "samples".
        total: how many of them.
        done: how many an earlier start of the same command has done.
        console: default: standard error.
        show: whether anything is shown at all.
    """

    def __init__(self, name: str, total: int, *, done: int = 0, console: Console | None = None, show: bool = True):
        self._console = console = console or Console(stderr=True)
        self._shown = show and not console.quiet
        self.begin(name, total - done)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=console,
            disable=console.quiet or not show,
        )
        self._task = self._bar.add_task(name, total=total, completed=done, state="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        self._started = time.monotonic()
        return self

    def begin(self, name: str, left: int) -> None:
        """Begin a part of the work whose steps take a time of their own, so that its first steps are measured too."""
        self._name, self._left, self._started, self._measured = name, left, time.monotonic(), False

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done; the first ones are measured, and a line says how long the others will take."""
        self._bar.advance(self._task, steps)
        self._left -= steps
        if not self._measured and steps:
            self._measured = True
            self._expect(steps, time.monotonic() - self._started)

    def _expect(self, steps: int, seconds: float) -> None:
        """Print a line: so many steps took so many seconds, and how long the others will take."""
        if self._shown and self._left > 0:
            took = f"{steps} of {steps + self._left} {self._name} took {duration(seconds)}"
            text = f"{took}; the other {self._left} take about {duration(seconds * self._left / steps)}"
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def show(self, state: str) -> None:
        """Show `state` behind the bar."""
        self._bar.update(self._task, state=state)


def duration(seconds: float) -> str:
    """Format a time as people say it: 12.3 s, 31 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
