"""The texts that `vbon integrate` writes, filled into the files of the folder `templates`."""

import shlex
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import yaml

from vbon.core.best_of_n import kl_coef_from_n, kl_from_reference, win_rate
from vbon.pool.store import ReferencePool

YOURS_TO_TUNE = {
    "output_dir": "run",
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "num_iterations": 2,
    "learning_rate": 1e-6,
    "logging_steps": 10,
    "report_to": "none",
}


def fill(name: str, **values: Any) -> str:
    """Return a template with `{name}` replaced by its value."""
    text = (files("vbon.integrations") / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    return text.format(**values)


def trl_settings(settings: dict[str, Any]) -> str:
    """Return rloo.yaml: the settings that the objective fixes, then those that are the user's."""
    objective, tunable = yaml.safe_dump(settings), yaml.safe_dump(YOURS_TO_TUNE, sort_keys=False)
    return f"# The objective: leave these as they are.\n{objective}# Yours to tune.\n{tunable}"


def shell_script(command: str, lines: Sequence[str]) -> str:
    """Return run.sh: one setting a line, then those of its own command line. `$HERE` is the script's directory."""
    return fill("run.sh", command=command, words=" \\\n  ".join(map(_quoted, lines)))


def readme(host: str, tested: str, n: float, pool: ReferencePool) -> str:
    """Return README.md: the content of the directory, the results to expect, and the limits of the host.

    Args:
        host: As on the command line.
        tested: Name and version of the host with which this was run.
        n: N of best-of-N.
        pool: Whose prompts and rewards are handed over.
    """
    unknown = ", ".join(pool.fingerprint.unknown())
    return fill(
        "README.md",
        n=n,
        tested=tested,
        samples=f"{len(pool)} prompts with {pool.num_samples.min()} to {pool.num_samples.max()} reference rewards each",
        pool=pool.path.name,
        kl_coef=kl_coef_from_n(n),
        how_to_run=fill(f"{host}-how-to-run").rstrip("\n"),
        warning=f"\nThe pool does not say its {unknown}: make sure they are the host's.\n" if unknown else "",
        win_rate=float(win_rate(n)),
        kl=float(kl_from_reference(n)),
    )


def _quoted(line: str) -> str:
    flag, space, value = line.partition(" ") if line.startswith("--") else ("", "", line)
    # double quotes let the shell fill in $HERE; such a line holds nothing else that it would touch
    return flag + space + (f'"{value}"' if "$HERE" in value else shlex.quote(value))
