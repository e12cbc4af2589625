"""`vbon lab EXPERIMENT`: run one experiment, print its table, write its JSON and its figure."""

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vbon.artifacts import json_files
from vbon.commit import commit_of
from vbon.config.lab import LabConfig
from vbon.errors import VbonError
from vbon.figures.shapes import Panel
from vbon.lab import rows
from vbon.lab.experiment import Context, Experiment
from vbon.lab.experiments import (
    backward_kl,
    beyond_m,
    bound,
    methods,
    monotone,
    n_beta,
    pool,
    samples,
    text,
    ties,
    weak_reference,
)
from vbon.lab.rows import Row
from vbon.version import __version__

TRAINED_TITLE = "trained: medians over seeds, the lowest and highest distance beside (exact; nats)"
TRAINED_COLUMNS = "seeds moved kl_policy_bon lowest highest kl_policy_ref reward reward_mean win_rate entropy"


EXPERIMENTS: dict[str, Experiment] = {
    "backward-kl": backward_kl,
    "monotone": monotone,
    "bound": bound,
    "samples": samples,
    "ties": ties,
    "n-beta": n_beta,
    "weak-reference": weak_reference,
    "beyond-m": beyond_m,
    "methods": methods,
    "pool": pool,
    "text": text,
}


def lab_command(config: LabConfig) -> dict[str, Any]:
    """Run `config.experiment` and return what its JSON holds.

    Raises:
        VbonError: the folder cannot be written, or matplotlib is not installed.
    """
    experiment = EXPERIMENTS[config.experiment]
    preset = _find_preset(experiment.PRESETS, config)
    draw = _drawing()
    numbers, out = config.seeds or preset.seeds, Path(config.out)
    start = time.monotonic()
    with _work_folder(config.work) as work:
        result = experiment.run(preset, Context(numbers, work, config.num_workers, tuple(map(Path, config.pool))))
    header = {
        "experiment": config.experiment,
        "preset": config.preset,
        "command": command(config, numbers),
        "seeds": list(numbers),
        "settings": asdict(preset) | {"seeds": list(numbers)},
        "seconds": round(time.monotonic() - start, 1),
        **_provenance(),
    }
    result = {**header, **result}
    path = out / f"{config.experiment}-{config.preset}.json"
    _write_result(path, result)
    _print_table(experiment.TITLE, result["rows"], experiment.COLUMNS.split())
    if result.get("trained"):
        by = experiment.TRAINED_BY.split()
        summary = rows.summary(result["trained"], by)
        columns = [name for name in TRAINED_COLUMNS.split() if name in summary[0] and name not in by]
        _print_table(TRAINED_TITLE, summary, (*by, *columns))
    path.with_suffix(".svg").write_text(draw(experiment.panels(result)), encoding="utf-8")
    print(f"{path}, {path.with_suffix('.svg')}")
    return result


def _find_preset(presets: dict[str, Any], config: LabConfig) -> Any:
    if config.preset not in presets:
        raise VbonError(f"--preset {config.preset}: {config.experiment} has {', '.join(presets)}")
    return presets[config.preset]


def command(config: LabConfig, numbers: tuple[int, ...]) -> str:
    """The command line that gives this result again."""
    pools = "".join(f" POOL{number}" for number, _ in enumerate(config.pool, 1))  # not where they lay on this machine
    flags = f"--preset {config.preset} --seeds {' '.join(map(str, numbers))}" + (f" --pool{pools}" if pools else "")
    return f"vbon lab {config.experiment} {flags}"


def _drawing() -> Callable[[Sequence[Panel]], str]:
    """The function that draws panels side by side. Raises VbonError if matplotlib is not installed."""
    try:
        from vbon.figures.svg import draw_panels
    except ModuleNotFoundError:
        raise VbonError(
            "vbon lab draws its figures with matplotlib; in vbon's clone run: pip install -e '.[report]'"
        ) from None
    return lambda panels: draw_panels(
        "lab", panels, size=(4.6 * len(panels), 3.6), columns=len(panels), legend="upper left"
    )


@contextlib.contextmanager
def _work_folder(work: str | None) -> Iterator[Path]:
    if work is not None:
        yield Path(work)
        return
    with tempfile.TemporaryDirectory(prefix="vbon-lab-") as folder:
        yield Path(folder)


def _provenance() -> dict[str, Any]:
    """Return what made a result: versions, commit (with + where the sources differ from it), machine."""
    return {
        "vbon": __version__,
        "commit": commit_of(Path(__file__).parents[1]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": "cpu",
    }


def _write_result(path: Path, result: dict[str, Any]) -> None:
    """Write the result, numbers at full precision. Raises VbonError where the folder refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        json_files.write_json(path, json_files.json_value(result), indent=1)
    except OSError as error:
        raise VbonError(f"--out {path.parent}: cannot be written ({error.strerror}); name another folder") from None


def _print_table(title: str, shown: Sequence[Row], columns: Sequence[str]) -> None:
    """The rows on standard output, in the order given; a column that a row lacks is empty there."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(*(_shown(row.get(name)) for name in columns))
    Console(width=max(80, 16 * len(columns)) if not sys.stdout.isatty() else None).print(table)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
