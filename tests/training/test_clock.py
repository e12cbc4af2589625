"""A run that may take so many seconds: where it stops, what it keeps, and that the clock goes on when it is resumed."""

import time

import pytest

from vbon.training import online, trainer
from vbon.training.metrics import read_rows, seconds_of
from vbon.training.train import train

SLOW = 0.2  # seconds that each iteration takes at least, many times what it takes by itself


@pytest.fixture
def slow_iterations(monkeypatch):
    """The real iterations, on a machine as slow as we like: sampling waits."""
    sample = online.sample_rollouts

    def wait_and_sample(*arguments):
        time.sleep(SLOW)
        return sample(*arguments)

    monkeypatch.setattr(online, "sample_rollouts", wait_and_sample)


def iterations(rows):
    return [row["iteration"] for row in rows if "seconds_rollout" in row]


def test_a_run_stops_after_the_first_iteration_past_its_seconds_validated_and_saved(
    configure, slow_iterations, tmp_path
):
    config = configure(num_iterations=40, validation_every=40, max_seconds=2.5 * SLOW)
    result = train(config)
    rows = read_rows(tmp_path / "run/vbon/metrics.jsonl")
    done = iterations(rows)
    spent = [seconds_of(row) for row in rows if "seconds_rollout" in row]
    assert result["out_of_time"] and 1 <= len(done) <= 3 and result["iterations"] == len(done)
    assert sum(spent[:-1]) < config.max_seconds <= sum(spent)
    assert [row["iteration"] for row in rows if "validation/objective" in row] == [0, len(done)]
    assert (tmp_path / "run/model.safetensors").is_file()
    assert (tmp_path / f"run/vbon/checkpoints/step-{len(done):06d}").is_dir()


def test_seconds_spent_before_an_interruption_count(configure, slow_iterations, monkeypatch, tmp_path):
    changes = {"num_iterations": 40, "validation_every": 40, "checkpoint_every": 1, "max_seconds": 3.5 * SLOW}
    whole, count = trainer.run_iteration, iter([None, None])

    def twice(*arguments):
        if next(count, "stop") == "stop":
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(trainer, "run_iteration", twice)
    with pytest.raises(KeyboardInterrupt):
        train(configure(**changes))
    monkeypatch.setattr(trainer, "run_iteration", whole)
    before = sum(map(seconds_of, read_rows(tmp_path / "run/vbon/metrics.jsonl")))
    result = train(configure(resume=True, **changes))
    rows = read_rows(tmp_path / "run/vbon/metrics.jsonl")
    assert before >= 2 * SLOW and result["out_of_time"] and len(iterations(rows)) <= 4
    spent = [seconds_of(row) for row in rows if "seconds_rollout" in row]
    assert sum(spent[:-1]) < changes["max_seconds"] <= sum(spent)


def test_steps_on_the_pool_count_too(configure):
    result = train(configure(method="bon-sft-all", offline_steps=3000, max_seconds=0.3))
    assert result["out_of_time"] and result["iterations"] == 0


def test_a_run_that_ends_in_time_says_so(configure):
    assert not train(configure(num_iterations=1, max_seconds=1000.0))["out_of_time"]
