"""The training progress bar: steps, elapsed time, ETA, and where ρ and KL stand."""

from types import TracebackType

from rich import progress
from rich.console import Console


class Progress:
    """A bar on stderr while the run lasts; silent where the console is."""

    def __init__(self, console: Console, name: str, total: int):
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=console,
            disable=console.quiet,
        )
        self._task = self._bar.add_task(name, total=total, state="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, steps: int, *, rho: float | None = None, kl: float | None = None) -> None:
        """Move the bar on; ρ and the KL to the reference are shown once known."""
        self._bar.update(self._task, advance=steps)
        if rho is not None:
            self._bar.update(self._task, state=f"ρ {rho:+.3f}  KL {kl:.2f}")
