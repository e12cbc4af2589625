"""The kills and the fuzzer of `make test-faults`, fewer of each; and that both notice what they are there to notice."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import fuzz
from tests.faults.reader import Target, Valid

from vbon.errors import VbonError

ROOT = Path(__file__).parents[2]
KILLED = ("collect", "train, ppo", "evaluate")  # sweeps and recipes take longer: make test-faults


def printed(module: str, *flags: str) -> str:
    command = [sys.executable, "-m", f"tests.faults.{module}", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_killed_anywhere_it_ends_as_if_undisturbed():
    last = printed("kills", "--kills", "3", "--seed", "1", "--commands", *KILLED).splitlines()[-1]
    kills, failures = map(int, re.match(r"(\d+) kills, (\d+) failures", last).groups())
    assert kills >= 3 * len(KILLED) and failures == 0


def test_damaged_files_are_read_or_refused():
    lines = printed("fuzz", "--inputs", "3000", "--seed", "4").splitlines()
    everything = next(line for line in lines if line.startswith("| all |")).split("|")
    changed = int(everything[3].strip().rstrip("%"))
    assert everything[2].strip() == "3000" and everything[6].strip() == "0" and changed >= 60


def loop(content: bytes, suffix: str) -> None:
    while True:
        pass


def leave(content: bytes, suffix: str) -> None:
    Path("left").write_bytes(content)
    raise VbonError("one line")


def stumble(content: bytes, suffix: str) -> None:
    raise KeyError("a bug")


@pytest.mark.parametrize(("read", "found"), [(loop, "hang"), (leave, "files left"), (stumble, "traceback")])
def test_the_fuzzer_sees_hangs_leftovers_and_tracebacks(read, found, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "CPU_LIMIT", 0.2)
    monkeypatch.setattr(fuzz, "targets", lambda folder: [Target("a reader", 1, (Valid("", "text", b"x"),), read)])
    rows = fuzz.run(1, seed=0)
    assert len(rows) == 1 and rows[0][3].startswith(found)


def test_an_input_is_a_function_of_seed_and_number(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, again = (fuzz.targets(tmp_path / name) for name in ("a", "b"))
    numbers = random.Random(0).sample(range(10_000), 200)
    # A run's own config names its folder, so that target is left out.
    draws = [
        [fuzz.draw(n, 0, t)[1:] for n in numbers if fuzz.draw(n, 0, t)[0].name != "configs of runs"]
        for t in (first, again)
    ]
    assert draws[0] == draws[1]
    assert fuzz.draw(1, 0, first)[3] != fuzz.draw(1, 5, first)[3]
