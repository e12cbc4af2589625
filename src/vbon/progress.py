"""The progress bar of every long command, on standard error: steps done, time passed, time left, and a short state."""

from rich import progress
from rich.console import Console


class ProgressBar:
    """A bar while its context lasts; where standard error is no terminal, only its last line is printed."""

    def __init__(self, name: str, total: int, *, console: Console | None = None, show: bool = True):
        console = console or Console(stderr=True)
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
        self._task = self._bar.add_task(name, total=total, state="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done."""
        self._bar.advance(self._task, steps)

    def show(self, state: str) -> None:
        """Show `state` behind the bar."""
        self._bar.update(self._task, state=state)
