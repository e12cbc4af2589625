"""Rounds: N compounds, exactly where training is good; a run that stops goes on; the result stands for N^R."""

import json
from pathlib import Path

import pytest
from tests.enumerable import STEPS, write_pool

from vbon.errors import VbonError
from vbon.evaluation.runs import read_run
from vbon.pool.store import ReferencePool
from vbon.training.rounds import round_folder, train_in_rounds
from vbon.training.train import train

REWARD = "levels"  # with ties; a few dozen steps on whole pools reach best-of-2 of it
SAMPLES = 1000


@pytest.fixture(scope="module")
def levels_pool(world, tmp_path_factory) -> Path:
    return write_pool(world, tmp_path_factory.mktemp("levels") / "pool", SAMPLES, REWARD)


@pytest.fixture
def two_rounds(world, levels_pool, configure):
    """two_rounds(**changes) → the config of two rounds of best-of-2."""

    def make(**changes):
        values = {
            "pool": str(levels_pool),
            "reward": world.reward(REWARD),
            "n": 2.0,
            "rounds": 2,
            "algorithm": "offline",
            "offline_steps": 40,
            "offline_batch_size": 400,
            "offline_learning_rate": 1e-2,
            "validation_fraction": 0.0,
        }
        return configure(**{**values, **changes})

    return make


def weights(run: str) -> bytes:
    return Path(run, "model.safetensors").read_bytes()


def test_two_rounds_of_best_of_2_are_best_of_4(world, levels_pool, two_rounds):
    result = train(two_rounds())
    out = Path(result["out"])
    start = world.kl_policy_bon(world.model, 4, REWARD)
    first, second = (world.kl_policy_bon(path, 4, REWARD) for path in (out / "vbon/rounds/1", out))
    assert second < 0.1 * start < first  # one round alone stays at best-of-2
    run = read_run(str(out), "run").record
    pool = ReferencePool.open(levels_pool)
    assert (run.n, run.pool, run.ref_model) == (4.0, str(levels_pool), world.model)
    assert run.made_with == pool.fingerprint  # what `vbon evaluate` holds against a held-out pool of the reference
    assert set(run.train_prompt_ids) == {prompt.prompt_id for prompt in pool.prompts}
    again = ReferencePool.open(out / "vbon/rounds/2-pool")
    assert [prompt.prompt_id for prompt in again.prompts] == [prompt.prompt_id for prompt in pool.prompts]
    assert set(again.num_samples) == {SAMPLES}
    assert (again.fingerprint.temperature, again.fingerprint.max_new_tokens) == (1.0, STEPS)
    assert weights(out) == weights(out / "vbon/rounds/2")


def stopping_after(number: int):
    """A function that trains one round, which is interrupted when the round of this number is finished."""

    def train_once(config):
        result = train(config)
        if config.out == str(round_folder(Path(config.out).parents[2], number)):
            raise KeyboardInterrupt
        return result

    return train_once


@pytest.mark.parametrize("finished", [1, 2])
def test_a_run_that_stops_between_rounds_continues_to_the_same_bytes(two_rounds, levels_pool, tmp_path, finished):
    few = {"offline_steps": 2}
    whole = train(two_rounds(out=str(tmp_path / "whole"), **few))
    stopped = two_rounds(out=str(tmp_path / "stopped"), **few)
    with pytest.raises(KeyboardInterrupt):
        train_in_rounds(stopped, ReferencePool.open(levels_pool), stopping_after(finished))
    assert not (tmp_path / "stopped/vbon/run.json").exists()
    first = (tmp_path / "stopped/vbon/rounds/1/vbon/run.json").stat().st_mtime_ns
    again = train(two_rounds(out=str(tmp_path / "stopped"), **few))
    assert (tmp_path / "stopped/vbon/rounds/1/vbon/run.json").stat().st_mtime_ns == first  # what is done stays
    assert weights(again["out"]) == weights(whole["out"])
    assert (again["n"], json.loads((tmp_path / "stopped/vbon/run.json").read_text())["n"]) == (4.0, 4.0)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rounds": 3}, "--rounds was 2, now it is 3"), ({"num_iterations": 9}, "--num-iterations was 4, now it is 9")],
)
def test_rounds_of_other_settings_or_of_another_length_are_refused(two_rounds, levels_pool, changes, words):
    with pytest.raises(KeyboardInterrupt):
        train_in_rounds(two_rounds(), ReferencePool.open(levels_pool), interrupt)
    with pytest.raises(VbonError, match=words):
        train(two_rounds(**changes))
