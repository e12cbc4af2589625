"""Holds a process at a defined event, where a test then kills it, however busy the machine is.

The folder of this file goes on PYTHONPATH: Python imports `sitecustomize` in every process that it starts, those of a
launcher or of a sweep among them, and so installs the hook that `environment` describes.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "VBON_TESTS_HOLD"


def environment(folder: Path, pattern: str, count: int) -> dict[str, str]:
    """The variables under which a command and the processes that it starts are held; see `hold`."""
    _marker(folder).unlink(missing_ok=True)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, VARIABLE: json.dumps([str(folder), pattern, count]), "PYTHONPATH": os.pathsep.join(paths)}


def hold(folder: Path, pattern: str, count: int) -> None:
    """Hold this process for ever in its first file operation in `folder` that finds `count` matches of `pattern`.

    What is counted is files; the lines of those that are named .jsonl.
    """
    held = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal held
        if held or event not in ("open", "os.rename") or not str(arguments[0]).startswith(f"{folder}/"):
            return
        held = True  # or the files that are opened here would be counted for ever
        held = sum(map(_amount, folder.glob(pattern))) >= count
        if held:
            _marker(folder).touch()
            while True:
                time.sleep(1)

    sys.addaudithook(hook)


def wait_until_held(folder: Path, is_running: Callable[[], bool]) -> None:
    """Wait for a process that is held. AssertionError where the command ends before."""
    while not _marker(folder).exists():
        assert is_running(), "the command ended before it came to what it was to be held at"
        time.sleep(0.005)
    _marker(folder).unlink()


def _marker(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.held")


def _amount(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.suffix == ".jsonl" else 1


if VARIABLE in os.environ:
    root, *rest = json.loads(os.environ[VARIABLE])
    hold(Path(root), *rest)
