"""`vbon lab` through its own function: files, provenance, seeds; and a run of the trainer in a small world."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vbon.config import LabConfig
from vbon.errors import VbonError
from vbon.lab.exact import kl
from vbon.lab.experiments import beyond_m, bound, monotone
from vbon.lab.experiments.weak_reference import converged_at
from vbon.lab.lab import lab_command
from vbon.lab.training import Job, Scale, run, truth_of

pytest.importorskip("matplotlib")


def test_an_exact_experiment_writes_what_it_prints(tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(bound, "WORLDS", {"default": small})
    monkeypatch.setitem(bound.PRESETS, "quick", bound.Preset(ns=(2,), rewards=("levels",)))
    result = lab_command(LabConfig(experiment="bound", out=str(tmp_path)))
    written = json.loads((tmp_path / "bound-quick.json").read_text())
    assert written["rows"] == result["rows"] and len(result["rows"]) == 3
    assert written["command"] == "vbon lab bound --preset quick --seeds 0"
    # N = 2: W = F_< + F_≤, so the middle is the exact form
    assert {row["form"]: row["kl_form_bon"] for row in result["rows"]}["mid"] == pytest.approx(0, abs=1e-12)
    assert (tmp_path / "bound-quick.svg").read_text().startswith("<?xml")
    assert "one-sided" in capsys.readouterr().out


def test_an_unknown_preset_is_one_line(tmp_path):
    with pytest.raises(VbonError, match="--preset long: bound has quick, full"):
        lab_command(LabConfig(experiment="bound", preset="long", out=str(tmp_path)))


def test_training_moves_towards_best_of_n(tmp_path, small):
    """A short run in a small world ends closer to π_bon than π_ref is."""
    world = replace(small, prompts=("one",))
    scale = Scale(num_iterations=5, rollouts_per_iteration=64, offline_steps=60)
    job = Job(world=world, reward="continuous", n=8, seed=0, scale=scale, work=tmp_path, num_samples=500)
    truth = truth_of(world)
    assert run(job)["kl_policy_bon"] < 0.3 * kl(np.log(truth.ref_probs), truth.log_bon(8))


@pytest.mark.parametrize(
    ("rewards", "expected"), [([1.0] * 30, 10), ([0.0] * 30, None), ([0.0] * 10 + [1.0] * 20, 20), ([1.0] * 5, None)]
)
def test_convergence_is_the_last_crossing(rewards, expected):
    assert converged_at(rewards, 0.95) == expected


SHORT = Scale(num_iterations=4, rollouts_per_iteration=64, offline_steps=20)


def test_every_way_past_m_is_trained_measured_and_drawn(tmp_path, monkeypatch, capsys, small):
    """plain, --refine-tail and --rounds 2, N = 4·M, through collect and train: each ends nearer than π_ref starts."""
    world = replace(small, prompts=("one",))
    monkeypatch.setattr(beyond_m, "World", lambda: world)
    preset = beyond_m.Preset(num_samples=(), trained=((16, 64),), scale=SHORT, seeds=(0,))
    monkeypatch.setitem(beyond_m.PRESETS, "quick", preset)
    result = lab_command(LabConfig(experiment="beyond-m", out=str(tmp_path), work=str(tmp_path / "work")))
    truth = truth_of(world)
    start = kl(np.log(truth.ref_probs), truth.log_bon(64))
    assert [run["way"] for run in result["trained"]] == ["plain", "refined", "2 rounds"]
    distances = [run["kl_policy_bon"] for run in result["trained"]]
    assert max(distances) < 0.5 * start and len(set(distances)) == 3
    ends = [run["n"] for run in map(_run_json, (tmp_path / "work").glob("*/runs/*/vbon/run.json"))]
    assert ends == [64, 64, 64]
    assert "trained, M = 16" in (tmp_path / "beyond-m-quick.svg").read_text()
    assert "2 rounds" in capsys.readouterr().out


def _run_json(path):
    return json.loads(path.read_text())


def test_a_map_that_keeps_the_order_moves_no_trained_policy_of_vbon(tmp_path, monkeypatch, capsys, small):
    """Its runs are the same bit for bit; those trained on the reward itself are not."""
    world = replace(small, prompts=("one",))
    monkeypatch.setattr(monotone, "World", lambda: world)
    preset = monotone.Preset(ns=(2,), trained_maps=("exponential",), num_samples=64, scale=SHORT, seeds=(0,))
    monkeypatch.setitem(monotone.PRESETS, "quick", preset)
    runs = lab_command(LabConfig(experiment="monotone", out=str(tmp_path), work=str(tmp_path / "work")))["trained"]
    moved = {(run["trained_on"], run["map"]): (run["moved"], run["largest_change"]) for run in runs}
    assert moved["vbon", "exponential"] == (0.0, 0.0)
    assert moved["reward", "exponential"] > (1e-6, 1e-6)
    assert all(run["objective"] == pytest.approx(-run["kl_policy_bon"]) for run in runs)
    assert "trained: moved by the map" in (tmp_path / "monotone-quick.svg").read_text()
    assert "trained_on" in capsys.readouterr().out
