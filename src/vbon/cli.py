"""The command line, `vbon VERB …`. Help and errors need no torch: the module of a verb is imported when it runs."""

import errno
import importlib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.errors import VbonError


@dataclass(frozen=True)
class Verb:
    """One row of the command line: `function` takes the config and returns the result for --json, or a folder."""

    summary: str
    example: str
    config: str
    function: str


VERBS = {
    "collect": Verb(
        "Sample M completions per prompt from a model, and score them.",
        "vbon collect --model gpt2 --reward reward.py:score --prompts prompts.jsonl --num-samples 64 --out pools/train",
        "CollectConfig",
        "vbon.pool.collect:collect",
    ),
    "inspect": Verb(
        "Check a pool, and predict the gain of best-of-N for each N.",
        "vbon inspect pools/train --n 2 8 32",
        "InspectConfig",
        "vbon.pool.inspect:inspect_command",
    ),
    "train": Verb(
        "Train a policy whose single sample comes close to the best of N.",
        "vbon train --pool pools/train --model gpt2 --reward reward.py:score --n 8 --out runs/n8 --algorithm ppo "
        "--warm-start critic --gae-lambda 0.5",
        "TrainConfig",
        "vbon.training.train:train",
    ),
    "evaluate": Verb(
        "Compare runs with the reference and best-of-N, on held-out prompts.",
        "vbon evaluate runs/n8 --pool pools/heldout --out runs/n8-eval",
        "EvaluateConfig",
        "vbon.evaluation.evaluate:evaluate_command",
    ),
    "report": Verb(
        "Write one HTML page about runs and evaluations.",
        "vbon report runs/n8 runs/n8-eval --out report.html",
        "ReportConfig",
        "vbon.report.report:report_command",
    ),
    "demo": Verb(
        "Run all stages with small models on two cores, without a network.",
        "vbon demo --out runs/demo",
        "DemoConfig",
        "vbon.demo:demo",
    ),
    "generate": Verb(
        "Sample from a model, or take the best of N of its samples.",
        "vbon generate --model gpt2 --prompts prompts.jsonl --best-of 8 --reward reward.py:score --out best.jsonl",
        "GenerateConfig",
        "vbon.evaluation.generate:generate_command",
    ),
    "verify": Verb(
        "Test whether a server samples as the same model does here.",
        "vbon verify --model runs/n8 --base-url http://127.0.0.1:8000/v1 --reward reward.py:score "
        "--prompts prompts.jsonl --out served",
        "VerifyConfig",
        "vbon.evaluation.verify:verify",
    ),
    "import": Verb(
        "Turn samples that were scored elsewhere into a pool.",
        "vbon import samples.jsonl --out pools/train --declare temperature=1.0 --declare max_new_tokens=40",
        "ImportConfig",
        "vbon.pool.importers:import_pool",
    ),
    "rescore": Verb(
        "Score the samples of a pool with another reward.",
        "vbon rescore pools/train --reward judge.py:score --out pools/train-judge",
        "RescoreConfig",
        "vbon.pool.rescore:rescore_pool",
    ),
    "export": Verb(
        "Write best-of-N of a pool as training data for another trainer.",
        "vbon export pools/train --best-of 8 --format dpo --out pairs.jsonl",
        "ExportConfig",
        "vbon.pool.export:export_command",
    ),
    "sweep": Verb(
        "Compare methods on one pool, over a grid of N and several seeds.",
        "vbon sweep recipes/demo/sweep.yaml --num-workers 2",
        "SweepConfig",
        "vbon.sweep:sweep_command",
    ),
    "integrate": Verb(
        "Write the files that TRL, verl or OpenRLHF need to train on a pool.",
        "vbon integrate trl --pool pools/train --n 8 --out trl-n8",
        "IntegrateConfig",
        "vbon.integrations.integrate:integrate_command",
    ),
    "lab": Verb(
        "Check the method's claims exactly, on policies of a few tokens.",
        "vbon lab backward-kl --preset quick --out lab",
        "LabConfig",
        "vbon.lab.lab:lab_command",
    ),
}
STORY = ("collect", "inspect", "train", "evaluate")

# Optional packages, and the extra that installs each.
EXTRAS = {
    "matplotlib": "report",
    "jinja2": "report",
    "peft": "peft",
    "gguf": "gguf",
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
    """Run `vbon` with these arguments and return its exit status: 2 for an error of the user, 130 for Ctrl-C."""
    try:
        status = _answer(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output is gone. With stdout elsewhere, Python's own flush at exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        # A verb may say how to continue; Python's own interrupt has no message.
        print(f"\nvbon: {str(interrupt) or 'interrupted; repeat the command to resume'}", file=sys.stderr)
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
        from vbon.version import __version__

        print(f"vbon {__version__}")
        return 0
    return _run_verb(args[0], args[1:])


def _run_verb(name: str, args: list[str]) -> int:
    from vbon import config, flags

    verb, prog = _find_verb(name), f"vbon {name}"
    cls = getattr(config, verb.config)
    if {"-h", "--help", "--help-all"} & set(args):
        print(_verb_help(name, show_all="--help-all" in args), end="")
        return 0
    given = flags.parse_args(cls, args, prog=prog)
    config_file, json_file = given.pop("config", None), given.pop("json", None)
    file_values = {} if config_file is None else config.read_values(cls, config_file)
    merged = flags.make_config(cls, file_values | given, prog=prog)
    merged.validate()
    warn_of_filled_defaults(config_file, set(given))
    if name != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise VbonError(f"vbon {name} runs in one process; start it without torchrun or accelerate launch")
    _check_writable(json_file)
    if _is_main_process():
        print(f"vbon {name} with\n{_indented(config.merged_text(config.without_secrets(merged)))}", file=sys.stderr)
    result = _function(verb)(merged)
    if json_file is not None and _is_main_process():
        _write_json(Path(json_file), result)
    return 0


def warn_of_filled_defaults(config_file: str | None, given: set[str]) -> None:
    """Say that a run's own config holds defaults that were filled in for its own N and method."""
    changed = sorted({"n", "method", "algorithm", "objective", "tilt"} & given)
    if config_file is not None and changed and Path(config_file).parts[-2:] == ("vbon", "config.yaml"):
        names = " and ".join(f"--{name}" for name in changed)
        print(
            f"vbon: warning: {config_file} holds what that run filled in for its own settings (offline_steps, "
            f"warm_start, learning rates), and it stays as it is beside {names}; delete the lines that were not given "
            "to that run",
            file=sys.stderr,
        )


def _find_verb(name: str) -> Verb:
    if name not in VERBS:
        from vbon.config.conversion import nearest

        raise VbonError(f"unknown verb {name!r}{nearest(name, list(VERBS))}; see vbon --help")
    return VERBS[name]


def _function(verb: Verb) -> Callable[[Any], Any]:
    module, _, name = verb.function.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


def _verb_help(name: str, *, show_all: bool) -> str:
    from vbon import config, flags
    from vbon.config.methods import METHODS

    verb = VERBS[name]
    description = f"{verb.summary}\n\nexample:\n{_wrapped(verb.example)}"
    methods = [
        textwrap.fill(method.summary, flags.COLUMNS, initial_indent=f"  {key:<12}", subsequent_indent=" " * 14)
        for key, method in METHODS.items()
        if method.trained
    ]
    return flags.format_help(
        getattr(config, verb.config),
        prog=f"vbon {name}",
        description=description,
        epilog="\n".join(["methods:", *methods]) if name == "train" else "",
        show_all=show_all,
    )


def _overview() -> str:
    steps = "\n".join(
        f"  {i}. {VERBS[name].summary}\n{_wrapped(VERBS[name].example)}" for i, name in enumerate(STORY, 1)
    )
    rows = "\n".join(f"  {name:<11}{verb.summary}" for name, verb in VERBS.items())
    return f"""usage: vbon VERB FLAGS

Variational Best-of-N: train a language model whose single sample is as good as
the best of N.

Four commands lead from a model to a trained and evaluated one:

{steps}

verbs:
{rows}

vbon VERB --help shows the flags of a verb, vbon --version the version."""


def _wrapped(command: str) -> str:
    """A shell command in lines of less than 80 columns."""
    # A no-break space keeps a flag and its value on one line.
    joined = re.sub(r"(--\S+) ", "\\1\N{NO-BREAK SPACE}", command)
    lines = textwrap.wrap(joined, 70, break_long_words=False, break_on_hyphens=False)
    return "     " + " \\\n       ".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _explained(error: Exception) -> str | None:
    """One line about an error that the user can fix; None for a bug, which keeps its traceback."""
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
    # numpy raises MemoryError. torch raises a RuntimeError, which only its message distinguishes from a bug.
    if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
        return None
    what = (str(error).splitlines() or [""])[0]
    return f"out of memory ({what[:160]}); lower the batch size or the number of samples; written files are intact"


def _explained_os_error(error: OSError) -> str | None:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in _DISK_FULL:
        return f"no space left on the disk{where}; free some and repeat the command to resume"
    return f"{error.strerror}{where}" if where else None


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _is_main_process() -> bool:
    # `accelerate launch` and torchrun set RANK. One process prints and writes for all.
    return os.environ.get("RANK", "0") == "0"


def _print_any_character() -> None:
    # A terminal that cannot show π gets an escape sequence instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdout, "reconfigure") and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # data for another program, whatever the terminal's encoding is


def _check_writable(json_file: str | None) -> None:
    """Raise VbonError, before the work starts, if --json names a file that cannot be written or is no result."""
    if json_file is None:
        return
    folder = Path(json_file).absolute().parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if Path(json_file).is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise VbonError(f"--json {json_file} cannot be written; name a file in a directory that you may write to")
    if Path(json_file).is_file() and not _is_result(Path(json_file)):
        raise VbonError(f"--json {json_file} exists and is not a result of vbon; name another file")


def _is_result(path: Path) -> bool:
    """True if the file is empty or begins as a result of `_write_json` does, which JSON Lines do not."""
    try:
        with open(path, "rb") as file:
            return file.read(2) in (b"", b"{\n")
    except OSError:
        return False


def _write_json(path: Path, result: object) -> None:
    from vbon.artifacts.json_files import json_value, write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, json_value(result if isinstance(result, dict) else {"out": result}))
