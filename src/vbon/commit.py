"""The commit that a result was made from."""

import subprocess
from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """Return the commit of a checked-out folder, with `+` where its files differ from it; None outside of git."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
