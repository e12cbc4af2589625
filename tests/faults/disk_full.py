"""A disk that is full, for real: every verb that writes, on a small memory disk, this script's second argument.

test_disk_full.py mounts it, in a namespace of its own. Prints JSON: for each verb and each number of KiB that were
free, what was said, what changed, what was left half done, and whether the same command, with room again, ends as if
nothing had happened.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.faults.commands import COLLECT, EVALUATE, SWEEP, TRAIN, contents

from vbon import cli

FREE = (0, 4, 12, 28, 60)  # KiB
REWARD = "--reward reward.py:score"
VERBS = {
    "collect": (f"{COLLECT} prompts.jsonl {REWARD} --out again", "again", FREE),
    "import": ("import rows.jsonl --out imported", "imported", FREE),
    "train": (f"{TRAIN} {REWARD} --out trained", "trained", FREE),
    "evaluate": (f"{EVALUATE} --out evaluated", "evaluated", FREE),
    "report": ("report run eval --out page/report.html", "page", FREE[:2]),
    "generate": (
        "generate --model model --prompts held.jsonl --max-new-tokens 3 --device cpu --out drawn/best.jsonl",
        "drawn",
        FREE[:1],
    ),
    "sweep": ("sweep sweep.yaml", "sweep", (12,)),
}


def vbon(line: str) -> tuple[int, str]:
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(line.split())
    return status, heard.getvalue()


def files() -> dict[str, bytes]:
    """Every file on the disk."""
    return {str(one): one.read_bytes() for one in sorted(Path().rglob("*")) if one.is_file()}


@contextlib.contextmanager
def only_free(kib: int) -> Iterator[None]:
    """The disk filled but for so much."""
    filler = Path("filler")
    with open(filler, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        file.truncate(max(0, file.tell() - 1024 * kib))
    try:
        yield
    finally:
        filler.unlink()


def attempt(verb: str, line: str, out: str, kib: int, whole: dict[str, bytes]) -> dict[str, Any]:
    others = files()
    with only_free(kib):
        status, said = vbon(line)
    after = files()
    halves = [name for name in after if ".partial" in name or ".writing-" in name or "removing-" in name]
    changed = [name for name, content in others.items() if after.get(name) != content]
    again, said_again = vbon(line) if status else (0, "")
    made = contents(Path(out))
    return {
        "verb": verb,
        "kib": kib,
        "status": status,
        "said": said.splitlines()[-1:],
        "traceback": "Traceback" in said,
        "halves": halves,
        "changed": changed,
        "again": again,
        "said_again": said_again.splitlines()[-1:],
        "differs": [name for name in {**whole, **made} if whole.get(name) != made.get(name)],
    }


def main(ingredients: Path, disk: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(disk)
    for path in ingredients.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, disk / path.name)
    rows = [{"prompt": f"prompt {i}", "completion": "x" * 200, "reward": i} for i in range(500)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    for line in (
        f"{COLLECT} prompts.jsonl {REWARD} --out pool",
        f"{COLLECT} held.jsonl {REWARD} --out held",
        f"{TRAIN} {REWARD}",
        EVALUATE,
    ):
        assert vbon(line)[0] == 0
    found = []
    for verb, (line, out, free) in VERBS.items():
        status, said = vbon(line)
        assert status == 0, said
        whole = contents(Path(out))
        shutil.rmtree(out)
        for kib in free:
            found.append(attempt(verb, line, out, kib, whole))
            shutil.rmtree(out, ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
