"""The command line as a process: what it prints, where, and with which exit status."""

import contextlib
import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vbon
from vbon import cli, config
from vbon.config.methods import METHODS

LIGHT = re.compile("vbon|_?yaml|_?cython.*")
"""What may be imported beside the standard library before a verb runs, for the README's promise of half a second."""

# Verbs of the test's own, each one row in the table, run as a process.
PROBE = """
import os, sys, time
from pathlib import Path
import numpy as np
from vbon import cli
from vbon.errors import VbonError

def result(config): return {"n": np.int64(3), "kl": np.float32(0.5), "bad": [float("nan"), float("-inf")],
                            "curve": np.array([1.0, 2.0]), "path": Path("a/b"), "ok": True, "none": None, "π": "β"}
def folder(config): return Path(config.pool)
def advice(config): raise KeyboardInterrupt("pool p: go on with this")
def refused(config): raise VbonError("first line\\nsecond line")
def bug(config): raise ValueError("a bug")
def full(config):
    with open("/dev/full", "w") as file: file.write("x" * 100_000)
def forbidden(config): open(config.pool)
def sleep(config): print("sleeping", flush=True); time.sleep(60)
def chatter(config):
    while True: print("x" * 1000)
def shout(config): print("é π 🙂")
def last_word(config): print("ready", flush=True); sys.stdin.read(); print("x")
def needs_jinja2(config): raise ModuleNotFoundError("No module named 'jinja2.ext'", name="jinja2.ext")
def needs_other(config): raise ModuleNotFoundError("No module named 'other'", name="other")

probes = [result, folder, advice, refused, bug, full, forbidden, sleep, chatter, shout, last_word, needs_jinja2]
probes += [needs_other]
for probe in probes:
    name = probe.__name__
    cli.VERBS[name] = cli.Verb("A probe.", f"vbon {name} POOL", "InspectConfig", f"__main__:{name}")
sys.exit(cli.main())
"""


def vbon_command(*args: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "vbon", *args], capture_output=True, text=True, **options)


@pytest.fixture
def probe(tmp_path):
    script = tmp_path / "probe.py"
    script.write_text(PROBE, encoding="utf-8")

    def command(*args: str) -> list[str]:
        return [sys.executable, str(script), *args]

    return command


def ran(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--version"], ["train", "--help-all"], ["train", "--n", "1"]])
def test_nothing_heavy_is_imported_before_a_verb_runs(args):
    """So that help answers in less than half a second; a clock would say more of the machine than of the code."""
    code = (
        "import sys; before = set(sys.modules); import vbon.cli; "
        f"vbon.cli.main({args!r}); "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    imported = set(ran([sys.executable, "-c", code]).stderr.splitlines()[-1].split())
    assert all(LIGHT.fullmatch(name) for name in imported - set(sys.stdlib_module_names)), imported


def test_version():
    assert vbon_command("--version").stdout == f"vbon {vbon.__version__}\n"


def test_the_overview_has_a_line_for_every_verb():
    lines = vbon_command("--help").stdout.splitlines()
    for name, verb in cli.VERBS.items():
        assert f"  {name:<11}{verb.summary}" in lines


def test_the_overview_tells_the_story_in_four_commands():
    printed = vbon_command().stdout
    commands = [" ".join(cli.VERBS[name].example.split()) for name in ("collect", "inspect", "train", "evaluate")]
    joined = " ".join(printed.replace("\\\n", " ").split())
    positions = [joined.find(command) for command in commands]
    assert positions == sorted(positions)
    assert -1 not in positions


@pytest.mark.parametrize("args", [[], *([name, "--help-all"] for name in cli.VERBS)])
def test_what_the_command_line_says_of_itself_fits_80_columns(args, capsys):
    cli.main(args)
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_help_of_train_lists_every_method_that_trains(capsys):
    assert cli.main(["train", "--help"]) == 0
    joined = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert (f" {name} {method.summary}" in joined) == method.trained


def test_no_verb_is_a_mistake_and_shows_the_overview(capsys):
    assert cli.main([]) == 2
    assert "usage: vbon VERB" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_help_with_its_example(name, capsys):
    assert cli.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"vbon {name}" in printed
    assert " ".join(cli.VERBS[name].example.split()) in " ".join(printed.replace("\\\n", " ").split())


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_example_is_a_valid_command(name):
    from vbon import flags

    words = cli.VERBS[name].example.split()
    cls = getattr(config, cli.VERBS[name].config)
    assert words[:2] == ["vbon", name]
    flags.make_config(cls, flags.parse_args(cls, words[2:], prog="vbon"), prog="vbon").validate()


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_leads_to_a_function(name):
    module, _, function = cli.VERBS[name].function.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trian"], "unknown verb 'trian' (did you mean train?); see vbon --help"),
        (["--trian"], "unknown verb '--trian'"),
        (["inspect"], "missing POOL; see vbon inspect --help"),
        (["inspect", "p", "--sed", "1"], "unknown flag --sed (did you mean --seed?); see vbon inspect --help"),
        (["inspect", "p", "--n", "1"], "--n holds 1, but each must be at least 2"),
        (["inspect", "p", "--config", "nothing.yaml"], "nothing.yaml: cannot be read (No such file or directory)"),
        (["inspect", "p", "--json"], "--json: expected one argument; see vbon inspect --help"),
        (["inspect", "p", "--json", "."], "--json . cannot be written"),
        (
            ["train", "--pool", "p", "--model", "m", "--reward", "r", "--out", "o", "--n", "1"],
            "--n is 1.0, but must be",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, line, tmp_path):
    done = vbon_command(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"vbon: error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_config_file_then_flags_then_the_merged_config_is_shown(probe, tmp_path):
    (tmp_path / "inspect.yaml").write_text("pool: from file\nseed: 3\nn: [2, 4]\n")
    done = ran(probe("result", "--config", "inspect.yaml", "--seed", "5"), cwd=tmp_path)
    assert done.returncode == 0
    shown = done.stderr.splitlines()
    assert shown[:3] == ["vbon result with", "  pool: from file", "  n: [2, 4]"] and "  seed: 5" in shown


def test_json_holds_the_result_in_plain_types(probe, tmp_path):
    assert ran(probe("result", "p", "--json", "new/result.json"), cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "new/result.json").read_text(encoding="utf-8")) == {
        "n": 3,
        "kl": 0.5,
        "bad": [None, None],
        "curve": [1.0, 2.0],
        "path": "a/b",
        "ok": True,
        "none": None,
        "π": "β",
    }
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["result.json"]


def test_json_of_a_verb_that_makes_a_folder_names_it(probe, tmp_path):
    assert ran(probe("folder", "p", "--json", "result.json"), cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "result.json").read_text()) == {"out": "p"}


def test_a_verb_may_say_itself_how_to_go_on(probe):
    done = ran(probe("advice", "p"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "vbon: pool p: go on with this")


def test_only_the_main_process_prints_and_writes(probe, tmp_path):
    done = ran(probe("result", "p", "--json", "result.json"), cwd=tmp_path, env=os.environ | {"RANK": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("refused", "first line second line"),
        ("forbidden", "No such file or directory: missing pool"),
        ("needs_jinja2", "this needs jinja2, which is not installed; in vbon's clone run: pip install -e '.[report]'"),
        pytest.param(
            "full",
            "no space left on the disk; free some and repeat the command to resume",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
        ),
    ],
)
def test_what_a_verb_cannot_do_is_one_line(probe, verb, line):
    done = ran(probe(verb, "missing pool"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"vbon: error: {line}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "line"), [("bug", "ValueError: a bug"), ("needs_other", "No module named 'other'")])
def test_a_bug_keeps_its_traceback(probe, verb, line):
    done = ran(probe(verb, "p"))
    assert done.returncode == 1
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" in done.stderr


def test_ctrl_c_is_one_line_and_status_130(probe):
    process = subprocess.Popen(probe("sleep", "p"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "sleeping\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "vbon: interrupted; repeat the command to resume"
    assert "Traceback" not in stderr


@pytest.mark.parametrize("verb", ["chatter", "last_word"])
def test_a_reader_that_leaves_is_no_error(probe, verb):
    pipes = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
    with subprocess.Popen(probe(verb, "p"), text=True, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        stderr = process.stderr.read()
    assert process.returncode == 141
    assert stderr.startswith(f"vbon {verb} with\n  pool: p\n  n: []\n") and stderr.endswith("\n\n")
    assert "Traceback" not in stderr


def test_a_terminal_without_greek_still_gets_help():
    ours, terminal = pty.openpty()
    command, shown = [sys.executable, "-m", "vbon", "train", "--help-all"], b""
    with subprocess.Popen(command, stdout=terminal, env=os.environ | {"PYTHONIOENCODING": "ascii"}) as done:
        os.close(terminal)
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as reader:  # Linux ends with EIO, macOS empty
            while part := reader.read(4096):
                shown += part
    assert done.returncode == 0
    assert rb"\u03c0_\u03b8" in shown


def test_every_extra_is_declared():
    metadata = importlib.import_module("importlib.metadata").metadata("vbon")
    assert set(cli.EXTRAS.values()) <= set(metadata.get_all("Provides-Extra"))


def test_importing_vbon_needs_no_torch_and_lists_its_exports():
    code = "import sys, vbon; print('torch' in sys.modules, dir(vbon) == sorted(vbon.__all__))"
    assert ran([sys.executable, "-c", code]).stdout == "False True\n"


def test_lazy_exports_are_the_things_themselves():
    from vbon.core import best_of_n, reward_cdf

    assert vbon.best_of_n is best_of_n
    assert vbon.RewardCDF is reward_cdf.RewardCDF
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vbon.nothing  # noqa: B018


@pytest.mark.parametrize("verb", sorted(set(cli.VERBS) - {"train"}))
def test_verbs_of_one_process_say_so_under_a_launcher(verb, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = [part for part in cli.VERBS[verb].example.split()[2:] if part]
    assert cli.main([verb, *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vbon: error:") and "runs in one process" in last


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_data_on_standard_output_is_utf_8(probe, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(probe("shout", "p"), env=environment, capture_output=True, check=True)
    assert done.stdout.decode("utf-8").splitlines()[0] == "é π 🙂"


@pytest.mark.parametrize(
    ("file", "given", "warned"),
    [
        ("runs/n8/vbon/config.yaml", {"n", "out"}, True),
        ("runs/n8/vbon/config.yaml", {"method"}, True),
        ("runs/n8/vbon/config.yaml", {"out", "seed"}, False),
        ("train.yaml", {"n"}, False),
        (None, {"n"}, False),
    ],
)
def test_a_runs_own_config_with_another_n_or_method_is_warned_of(file, given, warned, capsys):
    """It holds the steps and rates that were filled in for its own N."""
    cli.warn_of_filled_defaults(file, given)
    assert ("what that run filled in for its own settings" in capsys.readouterr().err) == warned
