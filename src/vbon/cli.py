"""The command line: `vbon VERB …`. Help and errors come without torch; a verb's own module loads when it runs."""

import errno
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.errors import VbonError


@dataclass(frozen=True)
class Verb:
    """One row of the command line: `function` takes the config and returns what --json writes, or a folder."""

    summary: str
    example: str
    config: str
    function: str


VERBS = {
    "demo": Verb(
        "All stages with small models, on two cores: a table and a report.",
        "vbon demo --out runs/demo",
        "DemoConfig",
        "vbon.demo:demo",
    ),
    "collect": Verb(
        "Draw M samples per prompt from the reference, score them, keep them as a pool.",
        "vbon collect --model gpt2 --reward reward.py:score --prompts prompts.jsonl --num-samples 64 --out pools/train",
        "CollectConfig",
        "vbon.pool.collect:collect",
    ),
    "import": Verb(
        "Turn samples that were scored elsewhere into a pool.",
        "vbon import samples.jsonl --out pools/train --declare temperature=1.0 --declare max_new_tokens=40",
        "ImportConfig",
        "vbon.pool.importers:import_pool",
    ),
    "inspect": Verb(
        "Is M enough? What would best-of-N buy, for each N? Ties, lengths, drift.",
        "vbon inspect pools/train --n 2 8 32",
        "InspectConfig",
        "vbon.pool.inspect:inspect_command",
    ),
    "train": Verb(
        "Train a policy whose one sample is as good as the best of N.",
        "vbon train --pool pools/train --model gpt2 --reward reward.py:score --n 8 --out runs/n8",
        "TrainConfig",
        "vbon.training.train:train",
    ),
    "evaluate": Verb(
        "Measure runs against the reference and true best-of-N, on a held-out pool.",
        "vbon evaluate runs/n8 --pool pools/heldout --out runs/n8-eval",
        "EvaluateConfig",
        "vbon.evaluation.evaluate:evaluate_command",
    ),
    "generate": Verb(
        "Sample from a model, or take the best of N of its samples.",
        "vbon generate --model gpt2 --prompts prompts.jsonl --best-of 8 --reward reward.py:score --out best.jsonl",
        "GenerateConfig",
        "vbon.evaluation.generate:generate_command",
    ),
    "sweep": Verb(
        "Every method on the same pool, over one grid and several seeds: one table, one report.",
        "vbon sweep recipes/demo/sweep.yaml --num-workers 2",
        "SweepConfig",
        "vbon.sweep:sweep_command",
    ),
    "report": Verb(
        "One self-contained HTML page from runs and evaluations.",
        "vbon report runs/n8 runs/n8-eval --out report.html",
        "ReportConfig",
        "vbon.report.report:report_command",
    ),
    "integrate": Verb(
        "Write what TRL, verl or OpenRLHF needs to run vBoN on a pool.",
        "vbon integrate trl --pool pools/train --n 8 --out trl-n8",
        "IntegrateConfig",
        "vbon.integrations.integrate:integrate_command",
    ),
    "lab": Verb(
        "Measure what the method claims, exactly, on policies small enough to enumerate.",
        "vbon lab backward-kl --preset quick --out lab",
        "LabConfig",
        "vbon.lab.lab:lab_command",
    ),
}

# Optional packages, and the extra that brings each.
EXTRAS = {
    "matplotlib": "report",
    "jinja2": "report",
    "peft": "peft",
    "trl": "trl",
    "ray": "ray",
    "vllm": "vllm",
    "datasets": "datasets",
    "tensorboard": "tracking",
    "wandb": "wandb",
    "trackio": "trackio",
}

_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vbon` with these arguments and return its exit status: 2 for what the user can mend, 130 for Ctrl-C."""
    try:
        status = _answer(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has left; point stdout elsewhere so that Python's own flush at exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        # A verb may say how to go on; Python's own interrupt says nothing.
        print(f"\nvbon: {str(interrupt) or 'interrupted; run the same command again to resume'}", file=sys.stderr)
        return _INTERRUPTED
    except (VbonError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as error:
        line = _explained(error)
        if line is None:
            raise
        print(f"vbon: error: {' '.join(line.split())}", file=sys.stderr)
        return 2


def _answer(args: list[str]) -> int:
    _print_any_character()
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        import vbon

        print(f"vbon {vbon.__version__}")
        return 0
    return _run_verb(args[0], args[1:])


def _run_verb(name: str, args: list[str]) -> int:
    from vbon import config, flags

    verb = _find_verb(name)
    cls = getattr(config, verb.config)
    if {"-h", "--help"} & set(args):
        flags.print_help(cls, prog=f"vbon {name}", description=f"{verb.summary}\n\nexample:\n  {verb.example}")
        return 0
    config_file, args = flags.pull_one(args, "--config")
    json_file, args = flags.pull_one(args, "--json")
    file_values = {} if config_file is None else config.read_values(cls, config_file)
    merged = flags.parse(cls, args, prog=f"vbon {name}", file_values=file_values)
    merged.validate()
    _check_writable(json_file)
    if _is_main_process():
        print(f"vbon {name} with\n{_indented(config.merged_text(config.without_secrets(merged)))}", file=sys.stderr)
    result = _function(verb)(merged)
    if json_file is not None and _is_main_process():
        _write_json(json_file, result)
    return 0


def _find_verb(name: str) -> Verb:
    if name not in VERBS:
        from vbon.config.yaml_file import nearest

        raise VbonError(f"unknown verb {name!r}{nearest(name, list(VERBS))}; see vbon --help")
    return VERBS[name]


def _function(verb: Verb) -> Callable[[Any], Any]:
    module, _, name = verb.function.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


def _overview() -> str:
    rows = "\n".join(f"  {name:<10}{verb.summary}" for name, verb in VERBS.items())
    return f"""usage: vbon VERB …

Variational Best-of-N: train a language model whose single sample is as good as the best of N.

{rows}

example:
  {VERBS["train"].example}

Every verb takes --config FILE.yaml (the command line wins) and --json FILE (the result, for machines).
vbon VERB --help shows its flags; vbon --version the version."""


def _explained(error: Exception) -> str | None:
    """One line on an error that is the user's to mend; None for a bug, which keeps its traceback."""
    if isinstance(error, ModuleNotFoundError):
        return _explained_missing_module(error)
    if isinstance(error, MemoryError | RuntimeError):
        return _explained_memory_error(error)
    return _explained_os_error(error) if isinstance(error, OSError) else str(error)


def _explained_missing_module(error: ModuleNotFoundError) -> str | None:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this needs {package}, which is not installed; in vbon's clone run: pip install -e '.[{EXTRAS[package]}]'"


def _explained_memory_error(error: Exception) -> str | None:
    # numpy raises MemoryError; torch a RuntimeError that only its words tell from a bug.
    if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
        return None
    what = (str(error).splitlines() or [""])[0]
    return f"out of memory ({what[:160]}); smaller batches or fewer samples need less, and what was written is intact"


def _explained_os_error(error: OSError) -> str | None:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in _DISK_FULL:
        return f"no space left on the disk{where}; free some and run the same command again to resume"
    return f"{error.strerror}{where}" if where else None


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _is_main_process() -> bool:
    # Set by `accelerate launch` and torchrun; one process prints and writes for all.
    return os.environ.get("RANK", "0") == "0"


def _print_any_character() -> None:
    # A terminal that cannot show π gets an escape, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _check_writable(json_file: str | None) -> None:
    """Refuse a --json that could not be written, or would write over something else, before the work, not after it."""
    if json_file is None:
        return
    folder = Path(json_file).absolute().parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if Path(json_file).is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise VbonError(f"--json {json_file} cannot be written; name a file in a directory that you may write to")
    if Path(json_file).is_file() and not _is_result(Path(json_file)):
        raise VbonError(f"--json {json_file} is there already, and no result of vbon's; name another file")


def _is_result(path: Path) -> bool:
    """Whether a file may be one that `_write_json` wrote, or is empty; JSON Lines begin otherwise."""
    try:
        with open(path, "rb") as file:
            return file.read(2) in (b"", b"{\n")
    except OSError:
        return False


def _write_json(path: str, result: object) -> None:
    from vbon.artifacts.json_files import json_value, write_json

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), json_value(result if isinstance(result, dict) else {"out": result}))
