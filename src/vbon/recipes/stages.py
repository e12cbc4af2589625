"""What the staged recipes share: presets of one section a stage, records of what is done, a budget, how they end.

A recipe is stopped and given again; what is done with the same settings is not done again.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from vbon.artifacts.files import replace_file
from vbon.artifacts.json_files import json_value, read_object, write_json
from vbon.artifacts.settings import check_same_settings
from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.config.yaml_file import read_sections
from vbon.errors import Paused, VbonError

PresetT = TypeVar("PresetT")
VERBS = {"collect": CollectConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
"""The verbs whose flags a preset may hold."""


def read_preset(preset: type[PresetT], name: str, folder: Path, filled_in: Mapping[str, Sequence[str]]) -> PresetT:
    """Read a preset in `folder`, or in a YAML file of the same sections.

    Args:
        preset: a dataclass with `name`, and a field for each section: a config, or a mapping of the flags of the verb
            with which the field's name begins.
        name: the preset's name, or the file.
        folder: where the recipe keeps its presets.
        filled_in: section of flags → those that the recipe sets itself.

    Returns:
        The preset.

    Raises:
        VbonError: naming the file, section and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    hints = {key: hint for key, hint in get_type_hints(preset).items() if key != "name"}
    values = read_sections({key: VERBS.get(key.partition("_")[0], hint) for key, hint in hints.items()}, path)
    for section, keys in filled_in.items():
        for key in keys:
            if key in values[section]:
                raise VbonError(f"{path}: {section}: {key} is set by the recipe itself; leave it out")
    _check_n(values, path)
    made = {key: values[key] if key in filled_in else hint(**values[key]) for key, hint in hints.items()}
    made["name"] = path.stem
    return preset(**made)


def _check_n(values: Mapping[str, Any], path: Path) -> None:
    """One N in `train`, or several in a recipe's section `best_of`."""
    one, several = "n" in values["train"], bool(values.get("best_of", {}).get("n"))
    if one and several:
        raise VbonError(f"{path}: train: n and best_of: n say the same thing; leave one of them out")
    if not one and not several:
        raise VbonError(f"{path}: train: n is missing")


def as_values(section: Any) -> dict[str, Any]:
    """A section of a preset as plain values."""
    return section if isinstance(section, dict) else asdict(section)


class Records:
    """OUT/stages: a file for each piece of work that is done, with the settings that it was done with."""

    def __init__(self, out: Path):
        self.folder = out / "stages"

    def once(
        self, name: str, settings: dict[str, Any], work: Callable[[], dict[str, Any]], *, made: str
    ) -> dict[str, Any] | None:
        """Do a piece of work and return its record: settings, seconds and what `work` tells; None where it was done.

        The seconds are those of all calls that it took; a call that was killed counts as nothing.
        `made`: what to remove, for the message, before it can be done with other settings.

        Raises:
            VbonError: it was done with other settings.
        """
        stored = self.find(name)
        if stored is not None:
            self._check(name, settings, stored["settings"], made)
            return None
        print(f"== {name}", file=sys.stderr)
        spent = self._path(name).with_suffix(".spent")
        started = time.perf_counter() - (float(spent.read_text()) if spent.is_file() else 0)
        try:
            told = work()
        except (Paused, KeyboardInterrupt):
            replace_file(spent, f"{time.perf_counter() - started:.1f}\n".encode())
            raise
        record = {"settings": settings, "seconds": round(time.perf_counter() - started, 1), **told}
        write_json(self._path(name), json_value(record))
        spent.unlink(missing_ok=True)
        return record

    def find(self, name: str) -> dict[str, Any] | None:
        """The record of a piece of work that is done."""
        path = self._path(name)
        return read_object(path) if path.is_file() else None

    def seconds(self) -> dict[str, float]:
        """What each piece of work took."""
        return {path.stem: read_object(path)["seconds"] for path in sorted(self.folder.glob("*.json"))}

    def _check(self, name: str, settings: dict[str, Any], stored: dict[str, Any], made: str) -> None:
        now, fix = json_value(settings), f"choose another --out, or remove {made}"
        check_same_settings(self._path(name), stored, now, may_change=(), missing_differs=True, spell=str, fix=fix)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def run_verb_once(
    records: Records,
    name: str,
    verb: str,
    flags: Mapping[str, Any],
    words: Sequence[Any] = (),
    *,
    vbon: Callable[[Sequence[str]], int],
    made: str,
) -> None:
    """Run one `vbon` command and print it, unless it is recorded as done with the same flags.

    Args:
        records: the records of the recipe, whose folder is named OUT in what is stored.
        name: the name of the piece of work.
        verb: the verb of `vbon`.
        flags: its flags by their config names; the reward is no part of what is stored.
        words: what the verb takes without a flag.
        vbon: the command line, `vbon.cli.main`.
        made: what to remove, for the message, before it can be done with other flags.

    Raises:
        SystemExit: the command failed and has said why.
        VbonError: it was done with other flags.
    """

    def work() -> dict[str, Any]:
        given = [verb, *map(str, words), *_as_arguments(flags)]
        print(f"vbon {shlex.join(given)}", file=sys.stderr)
        status = vbon(given)
        if status:
            raise SystemExit(status)
        return {}

    settings = {key: value for key, value in flags.items() if key != "reward"} | {"of": [*words]}
    out = str(records.folder.parent)
    records.once(name, {key: str(value).replace(out, "OUT") for key, value in settings.items()}, work, made=made)


def _as_arguments(flags: Mapping[str, Any]) -> Iterator[str]:
    for key, value in flags.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, list | tuple) else [value])


class Budget:
    """Minutes that a call may take, by the wall clock from here on; None: as many as it needs."""

    def __init__(self, minutes: float | None):
        self.minutes = minutes
        self._start = time.monotonic()

    @property
    def share_left(self) -> float:
        """Share of the minutes that is left, at least 0."""
        if self.minutes is None:
            return 1.0
        return max(0.0, 1 - (time.monotonic() - self._start) / (60 * self.minutes))

    def is_spent(self) -> bool:
        """What work that can pause asks between two steps."""
        return self.share_left == 0


def first_until(stages: Sequence[str], last: str) -> Sequence[str]:
    """The stages up to `last`."""
    return stages[: stages.index(last) + 1]


def run_stages(recipe: str, stages: Sequence[str], until: str, out: Path, make: Callable[[], object]) -> int:
    """Run the methods of a recipe that are named as its stages, up to `until`.

    Args:
        recipe: its name, for messages.
        stages: the names of its stages, in their order.
        until: the last one to run.
        out: folder of everything that is made.
        make: makes the recipe, once its folder is there.

    Returns:
        The exit status of the process (`exit_status`).
    """

    def work() -> None:
        (out / "stages").mkdir(parents=True, exist_ok=True)
        made = make()
        for stage in first_until(stages, until):
            getattr(made, stage)()

    return exit_status(recipe, work)


def exit_status(recipe: str, work: Callable[[], None]) -> int:
    """Do the work; exit status 2 and one line for what the user can fix, 130 for Ctrl-C, 0 for a pause."""
    try:
        work()
    except (VbonError, OSError) as error:
        print(f"{recipe}: error: {error}", file=sys.stderr)
        return 2
    except Paused as pause:
        print(f"{recipe}: paused: {pause}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{recipe}: interrupted; the same command continues from here", file=sys.stderr)
        return 130
    return 0
