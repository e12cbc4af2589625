"""Every verb that writes, on a disk that is really full: one line, nothing half done, and the same command goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNTED = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'


def may_mount(folder: Path) -> bool:
    try:
        return subprocess.run([*NAMESPACE, MOUNTED, "sh", str(folder), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(ingredients: Path, tmp_path: Path):
    if not may_mount(tmp_path):
        pytest.skip("needs a memory disk of its own: unshare and mount")
    command = [sys.executable, "-m", "tests.faults.disk_full", str(ingredients), str(tmp_path)]
    command = [*NAMESPACE, MOUNTED, "sh", str(tmp_path), *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    failed = [row for row in rows if row["status"]]
    assert {row["verb"] for row in failed} >= {"collect", "import", "train", "evaluate", "report", "generate"}
    for row in rows:
        assert not row["traceback"] and not row["halves"] and not row["changed"], row
        assert row["again"] == 0 and not row["differs"], row
    for row in failed:
        assert row["status"] == 2 and row["said"][0].startswith("vbon: error: "), row
        assert "o space left on" in row["said"][0], row
