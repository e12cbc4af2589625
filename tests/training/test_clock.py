"""A run that may take so many seconds: where it stops, what it keeps, and that the clock goes on when it is resumed."""

import itertools
from types import SimpleNamespace

import pytest

from vbon.artifacts.run import read_rows
from vbon.training import offline, online, trainer
from vbon.training.train import train

ITERATION = 2  # seconds of one, by the clock below: it is read before, between and after its two halves


@pytest.fixture
def steady_clock(monkeypatch):
    """A second passes between two looks at the clock, however busy the machine is."""
    monkeypatch.setattr(online, "time", SimpleNamespace(perf_counter=itertools.count().__next__))


def iterations(run):
    return [row["iteration"] for row in read_rows(run / "vbon/metrics.jsonl") if "seconds_rollout" in row]


def test_a_run_stops_after_the_first_iteration_past_its_seconds_validated_and_saved(configure, steady_clock, tmp_path):
    result = train(configure(num_iterations=40, validation_every=40, max_seconds=2 * ITERATION + 0.5))
    run = tmp_path / "run"
    assert iterations(run) == [1, 2, 3] and result["iterations"] == 3 and result["out_of_time"]
    rows = read_rows(run / "vbon/metrics.jsonl")
    assert [row["iteration"] for row in rows if "validation/objective" in row] == [0, 3]
    assert (run / "model.safetensors").is_file() and (run / "vbon/checkpoints/step-000003").is_dir()


def test_more_seconds_continue_a_run_that_ran_out_of_them(configure, steady_clock, tmp_path):
    changes = {"num_iterations": 5, "validation_every": 40}
    first = train(configure(max_seconds=2 * ITERATION + 0.5, **changes))
    assert train(configure(max_seconds=2 * ITERATION + 0.5, **changes)) == first and first["out_of_time"]
    result = train(configure(max_seconds=None, **changes))
    assert (result["iterations"], result["out_of_time"]) == (5, False)
    assert iterations(tmp_path / "run") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("changes", [{"method": "bon-sft-all"}, {"warm_start": "offline", "lr_schedule": "cosine"}])
def test_more_seconds_continue_the_steps_on_the_pool_too(configure, steady_clock, monkeypatch, tmp_path, changes):
    monkeypatch.setattr(offline, "time", SimpleNamespace(perf_counter=itertools.count().__next__))  # a second a step
    whole = configure(out=str(tmp_path / "whole"), **changes)
    train(whole)
    cut = train(configure(max_seconds=1.5, **changes))
    assert cut["out_of_time"] and cut["iterations"] == 0
    result = train(configure(**changes))
    assert not result["out_of_time"]
    last = max((tmp_path / "whole/vbon/checkpoints").glob("step-*")).name
    ended = [(out / "vbon/checkpoints" / last / "policy.safetensors").read_bytes() for out in tmp_path.iterdir()]
    assert len(ended) == 2 and ended[0] == ended[1]


def test_seconds_spent_before_an_interruption_count(configure, steady_clock, monkeypatch, tmp_path):
    changes = {"num_iterations": 40, "checkpoint_every": 1, "max_seconds": 3 * ITERATION + 0.5}
    whole, started = trainer.run_iteration, itertools.count()

    def interrupted(*arguments):
        if next(started) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(trainer, "run_iteration", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(configure(**changes))
    assert iterations(tmp_path / "run") == [1, 2]
    assert train(configure(**changes))["out_of_time"]
    assert iterations(tmp_path / "run") == [1, 2, 3, 4]


def test_steps_on_the_pool_count_too(configure):
    result = train(configure(method="bon-sft-all", offline_steps=3000, max_seconds=0.3))
    assert result["out_of_time"] and result["iterations"] == 0


def test_a_run_that_ends_in_time_says_so(configure):
    assert not train(configure(num_iterations=1, max_seconds=1000.0))["out_of_time"]
