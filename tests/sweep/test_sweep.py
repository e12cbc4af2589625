"""A sweep as its users run it: killed and interrupted, with runs that fail, and equal budgets for all."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.sweep.conftest import COMMAND, LIMIT, write_sweep

from vbon import cli
from vbon.artifacts.run import read_rows, seconds_of
from vbon.sweep.table import print_table

pytestmark = pytest.mark.timeout(LIMIT)


def finished_runs(out: Path) -> dict[str, tuple[int, int]]:
    """What a finished run has left, and when: a run that is repeated leaves it anew."""
    done = [*out.glob("*/*/vbon/run.json"), *out.glob("*/*/evaluation.json")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in done if ".writing-" not in str(path)}


def stop_when(arguments: list[str], out: Path, pattern: str, count: int, how: signal.Signals) -> tuple[int, str]:
    """Start the command; once so many files match, send the signal. Its status and what it said."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and len(list(out.glob(pattern))) < count:
        time.sleep(0.005)
    process.send_signal(how)
    said, _ = process.communicate(timeout=LIMIT)
    return process.returncode, said


def test_a_sweep_stopped_at_any_time_repeats_no_finished_run_and_ends_in_the_same_table(
    settings_of, finished, tmp_path
):
    out = tmp_path / "out"
    command = [*COMMAND, str(write_sweep(tmp_path, settings_of(out))), "--num-workers", "2"]
    seen: dict[str, tuple[int, int]] = {}
    for pattern, count, how in (
        ("search/*/vbon/metrics.jsonl", 1, signal.SIGKILL),  # in the search
        ("runs/*/vbon/checkpoints/offline-*", 1, signal.SIGKILL),  # in a run, among its steps
        ("evaluations/*/evaluation.json", 3, signal.SIGINT),
        ("runs/*/vbon/run.json", 7, signal.SIGKILL),
    ):
        status, said = stop_when(command, out, pattern, count, how)
        if how == signal.SIGINT:
            assert status == 130 and "the same command continues" in said.splitlines()[-1]
        else:
            assert status == -signal.SIGKILL, said[-2000:]
        now = finished_runs(out)
        assert seen.items() <= now.items()
        seen = now
    assert len(seen) > 10 and not (out / "table.md").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    after = finished_runs(out)
    assert seen.items() <= after.items() and len(after) == 2 + 8 * 2
    for name in ("table.md", "sweep.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert again.returncode == 0 and finished_runs(out) == after


def test_every_method_has_the_same_budget_and_the_rate_with_the_best_objective(finished):
    record = json.loads((finished / "sweep.json").read_text())
    assert [run["status"] for run in record["runs"]] == ["done"] * 8
    costs = {(run["method"], run["n"], run["seed"]): run["cost"] for run in record["runs"]}
    assert {m: {json.dumps(c) for (name, *_), c in costs.items() if name == m} for m in ("vbon", "bonbon")} == {
        "vbon": {'{"rollouts": 96, "reward_calls": 96, "offline_steps": 0}'},  # 3 × 32
        "bonbon": {'{"rollouts": 0, "reward_calls": 0, "offline_steps": 6}'},
    }
    tried = {
        rate: read_rows(finished / f"search/bonbon-n4-s0-rate{rate:g}/vbon/metrics.jsonl")[-1]["validation/objective"]
        for rate in (0.001, 0.01)
    }
    assert record["methods"]["bonbon"]["learning_rate"] == max(tried, key=tried.__getitem__)
    assert {row["learning_rate"]: row["objective"] for row in record["methods"]["bonbon"]["search"]} == tried
    assert record["methods"]["vbon"]["learning_rate"] == 0.001 and not record["methods"]["vbon"]["search"]
    seconds = json.loads((finished / "timings.json").read_text())["seconds"]
    assert len(seconds) == 8 and all(one["total"] > 0 for one in seconds.values())


def test_the_winner_of_the_search_is_not_trained_again_in_the_grid(finished):
    record = json.loads((finished / "sweep.json").read_text())
    rate = record["methods"]["bonbon"]["learning_rate"]
    searched, run = finished / f"search/bonbon-n4-s0-rate{rate:g}", finished / "runs/bonbon-n4-s0"
    files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    assert Path("vbon/run.json") in files and Path("model.safetensors") in files
    assert all((run / name).samefile(searched / name) for name in files)
    assert not (finished / "runs/bonbon-n4-s1/model.safetensors").samefile(searched / "model.safetensors")
    trained = "KL to reference"
    assert trained in (finished / "logs/bonbon-n4-s1.txt").read_text()
    assert trained not in (finished / "logs/bonbon-n4-s0.txt").read_text()


def test_the_table_holds_what_the_evaluations_say(finished):
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in (finished / "table.md").read_text().split("\n")
    ]
    cells = {(row[0], row[1]): row for row in rows if len(row) == 9}
    assert {key for key in cells if key[1] in ("2", "4")} == {
        (m, n) for m in ("best-of-n", "vbon", "bonbon") for n in ("2", "4")
    }
    for method, n in (("vbon", "2"), ("bonbon", "4")):
        values = [
            json.loads((finished / f"evaluations/{method}-n{n}-s{seed}/evaluation.json").read_text())["policies"][
                f"{method}-n{n}-s{seed}"
            ]["metrics"]["kl_policy_bon"]["value"]
            for seed in (0, 1)
        ]
        text = f"{sum(values) / 2:.3f} ({min(values):.3f} to {max(values):.3f})"
        assert cells[method, n][7] == text


def test_the_printed_table_has_the_figures_of_the_file_in_80_columns(finished, capsys):
    """Cells of several lines joined again: the mean, then the lowest and the highest seed."""
    print_table(json.loads((finished / "sweep.json").read_text()), Console(width=80))
    table, _, notes = capsys.readouterr().out.partition("Held-out prompts")
    assert max(map(len, table.splitlines())) <= 80
    assert "KL(π_θ‖π_bon) reads at best-of-N itself" in notes
    printed = table.split()
    file = (finished / "table.md").read_text().partition("Held-out prompts")[0]
    means_and_ranges = re.findall(r"(\d+\.\d+) \((\d+\.\d+) to (\d+\.\d+)\)", file)
    assert len(means_and_ranges) == 4 * 2 * 2  # metrics, methods, values of N
    for mean, low, high in means_and_ranges:
        assert mean in printed
        assert f"{low}…{high}" in printed


def test_a_run_that_fails_is_named_and_the_others_go_on(settings_of, tmp_path, capsys):
    changes = {"n": [2, 100], "seeds": [0], "methods": {"bonbon": {}}, "offline_learning_rates": [0.01]}
    sweep = write_sweep(tmp_path, settings_of(tmp_path / "out", **changes))
    assert cli.main(["sweep", str(sweep)]) == 2
    printed, said = capsys.readouterr()
    assert "1 of 2 runs failed" in said and "the same command tries again" in said
    assert "1 of 2 runs done, 1 failed" in printed
    assert "* bonbon-n100-s0: " in printed and "takes sets of --n 100 samples, but a prompt has only 64" in printed
    assert "takes sets of --n 100" in (tmp_path / "out/report.html").read_text()


def test_a_budget_of_seconds_stops_every_method_alike_and_the_table_says_so(settings_of, tmp_path, capsys):
    """Two hundred iterations and two thousand steps fit into a second nowhere; both kinds of method stop there."""
    settings = settings_of(tmp_path / "out", n=[2], seeds=[0], offline_learning_rates=[0.01])
    settings["train"] |= {"num_iterations": 200, "offline_steps": 2000, "warm_start": "none", "max_seconds": 1.0}
    assert cli.main(["sweep", str(write_sweep(tmp_path, settings))]) == 0
    assert "Stopped by max_seconds, on this machine: vbon-n2-s0, bonbon-n2-s0." in capsys.readouterr().out
    costs = {run["method"]: run["cost"] for run in json.loads((tmp_path / "out/sweep.json").read_text())["runs"]}
    assert 0 < costs["vbon"]["rollouts"] < 200 * 32 and 0 < costs["bonbon"]["offline_steps"] < 2000
    seconds = json.loads((tmp_path / "out/timings.json").read_text())["seconds"]
    last = {  # a run may go past its seconds by its last iteration or step
        name: seconds_of([row for row in read_rows(tmp_path / f"out/runs/{name}/vbon/metrics.jsonl") if key in row][-1])
        for name, key in (("vbon-n2-s0", "seconds_rollout"), ("bonbon-n2-s0", "offline_step"))
    }
    assert all(1 <= one["total"] < 1 + last[name] for name, one in seconds.items())
    page = (tmp_path / "out/report.html").read_text()
    assert "max_seconds stopped 2 of 2 runs (vbon, bonbon)" in page


def test_other_settings_than_it_was_started_with_are_refused(settings_of, finished, tmp_path, capsys):
    settings = settings_of(finished)
    settings["train"]["num_iterations"] = 4
    assert cli.main(["sweep", str(write_sweep(tmp_path, settings))]) == 2
    said = capsys.readouterr().err
    assert "was started with other settings (train.num_iterations was 3, now it is 4); repeat them" in said


def test_two_processes_do_not_write_one_sweep(settings_of, tmp_path, capsys):
    sweep = write_sweep(tmp_path, settings_of(tmp_path / "out"))
    first = subprocess.Popen([*COMMAND, str(sweep)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out/sweep.yaml").exists():
        time.sleep(0.01)
    assert cli.main(["sweep", str(sweep)]) == 2
    assert "another process" in capsys.readouterr().err
    first.send_signal(signal.SIGINT)
    assert first.wait(LIMIT) == 130
