"""`vbon lab EXPERIMENT`: run one experiment, print its table, write its JSON and its figure."""

import contextlib
import importlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vbon.config.lab import LabConfig
from vbon.errors import VbonError
from vbon.lab import figures, record


@dataclass(frozen=True)
class Context:
    """What an experiment is run with besides its preset."""

    seeds: tuple[int, ...]
    work: Path
    num_workers: int
    pools: tuple[Path, ...] = ()
    """Of `vbon lab pool` only."""


def lab_command(config: LabConfig) -> dict[str, Any]:
    """Run `config.experiment`; returns what its JSON holds.

    An experiment is a module with `TITLE`, `COLUMNS` of its table, `PRESETS`, `run(preset, context)` → {"rows": …}, and
    `panels(result)`. Raises VbonError for a folder that cannot be written, or without matplotlib.
    """
    experiment = importlib.import_module(f"vbon.lab.experiments.{config.experiment.replace('-', '_')}")
    preset = _find_preset(experiment.PRESETS, config)
    seeds, out = config.seeds or preset.seeds, Path(config.out)
    start = time.monotonic()
    with _work_folder(config.work) as work:
        result = experiment.run(preset, Context(seeds, work, config.num_workers, tuple(map(Path, config.pool))))
    header = {
        "experiment": config.experiment,
        "preset": config.preset,
        "command": command(config, seeds),
        "seeds": list(seeds),
        "settings": asdict(preset) | {"seeds": list(seeds)},
        "seconds": round(time.monotonic() - start, 1),
        **record.provenance(),
    }
    result = {**header, **result}
    path = out / f"{config.experiment}-{config.preset}.json"
    record.write_json(path, result)
    record.print_table(experiment.TITLE, result["rows"], experiment.COLUMNS)
    figures.save(path.with_suffix(".svg"), experiment.panels(result))
    print(f"{path}, {path.with_suffix('.svg')}")
    return result


def _find_preset(presets: dict[str, Any], config: LabConfig) -> Any:
    if config.preset not in presets:
        raise VbonError(f"--preset {config.preset}: {config.experiment} has {', '.join(presets)}")
    return presets[config.preset]


def command(config: LabConfig, seeds: tuple[int, ...]) -> str:
    """The command line that gives this result again."""
    pools = "".join(f" POOL{number}" for number, _ in enumerate(config.pool, 1))  # not where they lay on this machine
    flags = f"--preset {config.preset} --seeds {' '.join(map(str, seeds))}" + (f" --pool{pools}" if pools else "")
    return f"vbon lab {config.experiment} {flags}"


@contextlib.contextmanager
def _work_folder(work: str | None) -> Iterator[Path]:
    if work is not None:
        yield Path(work)
        return
    with tempfile.TemporaryDirectory(prefix="vbon-lab-") as folder:
        yield Path(folder)
