"""Repeating `vbon train`: it returns a finished result, continues with another time-out, and extends a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tests.training.runs import interrupt_after, refuse, rows, weights

from vbon.artifacts.run import RunFolder
from vbon.evaluation.runs import read_run
from vbon.models import load
from vbon.pool import ReferencePool
from vbon.training import train as train_module
from vbon.training import trainer
from vbon.training.train import train


def files_of(run: str | Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file but the lock, which a process that looks at the run may touch."""
    found = (path for path in Path(run).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def interrupted(configure, monkeypatch, count: int, **changes) -> None:
    """A run that Ctrl-C stops in the iteration after `count`, within this call or not at all."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, count)
        train(configure(**changes))


def test_a_finished_run_is_returned_without_loading_anything(configure, monkeypatch):
    config = configure(learning_rate=None, warm_start="auto")
    first = train(config)
    before = files_of(config.out)
    monkeypatch.setattr(train_module.load, "load_policy", None)
    assert train(config) == first
    assert files_of(config.out) == before


def test_a_finished_run_of_another_time_out_is_returned_as_it_is(configure, world):
    config = configure()
    first = train(config)
    before = files_of(config.out)
    again = configure(reward_timeout=1.0, learning_rate=1e-3)
    assert train(again) == first
    assert files_of(config.out) == before


def test_the_trainer_of_a_finished_run_has_its_policy(configure, monkeypatch):
    train(configure())
    made = []

    class Kept(trainer.VBoNTrainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(train_module, "VBoNTrainer", Kept)
    train(configure(reward_timeout=1.0))
    expected = load.load_policy(configure().out).state_dict()
    policy = made[0].policy.state_dict()
    assert all(torch.equal(policy[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "changes", [{"reward_timeout": 120.0}, {"reward_batch_size": 5}, {"max_seconds": 1e6}, {"checkpoint_every": 1}]
)
def test_what_says_where_and_when_may_change_on_the_way(configure, tmp_path, monkeypatch, changes):
    whole = configure(out=str(tmp_path / "whole"))
    train(whole)
    interrupted(configure, monkeypatch, 3)
    resumed = configure(**changes)
    train(resumed)
    assert weights(resumed.out) == weights(whole.out)
    assert rows(resumed.out) == rows(whole.out)


def rates(run: str | Path) -> list[float]:
    return [row["learning_rate"] for row in rows(run) if "learning_rate" in row and "offline_step" not in row]


def test_an_extended_run_follows_the_longer_schedule_from_there_on(configure):
    assert train(configure(num_iterations=4))["iterations"] == 4
    run = RunFolder(configure().out)
    result = train(configure(num_iterations=8))
    assert (result["iterations"], run.read_record().result["iterations"]) == (8, 8)
    assert yaml.safe_load(run.settings.read_text())["num_iterations"] == 8
    left = [1 - i / 4 for i in range(4)] + [1 - i / 8 for i in range(4, 8)]
    assert rates(run.path) == pytest.approx([1e-3 * share for share in left])


def test_with_a_constant_rate_an_extended_run_is_the_longer_run(configure, tmp_path):
    long = configure(out=str(tmp_path / "long"), num_iterations=8, lr_schedule="constant", algorithm="ppo")
    train(long)
    for count in (4, 8):
        train(configure(num_iterations=count, lr_schedule="constant", algorithm="ppo"))
    assert weights(configure().out) == weights(long.out)
    assert rows(configure().out) == rows(long.out)  # both validate every 2 iterations, the end of the first among them


def test_an_extension_that_is_cut_continues_and_the_run_is_not_finished_meanwhile(configure, tmp_path, monkeypatch):
    for name in ("whole", "cut"):
        train(configure(out=str(tmp_path / name)))
    train(configure(out=str(tmp_path / "whole"), num_iterations=9))
    interrupted(configure, monkeypatch, 3, out=str(tmp_path / "cut"), num_iterations=9)
    cut = RunFolder(tmp_path / "cut")
    assert cut.is_started and not cut.is_finished
    train(configure(out=str(cut.path), num_iterations=9))
    assert weights(cut.path) == weights(tmp_path / "whole")
    assert rows(cut.path) == rows(tmp_path / "whole")


def test_fewer_iterations_than_done_are_refused_and_fewer_than_planned_are_not(configure, monkeypatch):
    interrupted(configure, monkeypatch, 4, num_iterations=9, validation_every=9, checkpoint_every=3)
    few = "has done 3 iterations; ask for as many or more"
    refuse(configure(num_iterations=2, validation_every=9), f"--num-iterations 2: .* {few}")
    assert train(configure(num_iterations=3, validation_every=9))["iterations"] == 3
    assert [row["iteration"] for row in rows(configure().out) if "validation/objective" in row] == [0, 3]
    refuse(configure(num_iterations=2, validation_every=9), f"--num-iterations 2: .* {few}")


def test_a_finished_run_without_checkpoints_is_returned_and_not_extended(configure):
    first = train(configure())
    shutil.rmtree(RunFolder(configure().out).checkpoints)
    assert train(configure()) == train(configure(reward_timeout=1.0)) == first
    refuse(configure(num_iterations=8), "checkpoints: holds no checkpoint to continue from")
    assert RunFolder(configure().out).is_finished


def make_old(run: RunFolder) -> None:
    """A run as the version before wrote it: `resume` is a setting, warnings are `said`, run.json knows less."""
    run.settings.write_text(run.settings.read_text() + "resume: false\n")
    for path in run.checkpoints.glob("*/state.json"):
        state = json.loads(path.read_text())
        if "said" not in state["progress"] and "warnings_given" in state["progress"]:
            failed = state["progress"].pop("failed_rank_test")
            state["progress"]["said"] = state["progress"].pop("warnings_given") + ["rank_test"] * failed
            path.write_text(json.dumps(state))
    if run.is_finished:
        record = json.loads(run.record.read_text())
        del record["given"], record["validation_prompt_ids"]
        record["config"]["resume"] = False
        run.record.write_text(json.dumps(record))


def test_a_run_of_the_format_before_is_continued_to_the_same_bytes_and_returned(configure, tmp_path, monkeypatch):
    whole = configure(out=str(tmp_path / "whole"), allow_mismatch=("rank_test",))
    first = train(whole)
    interrupted(configure, monkeypatch, 3, allow_mismatch=("rank_test",))
    old = RunFolder(configure().out)
    make_old(old)
    assert train(configure(allow_mismatch=("rank_test",))) == {**first, "out": str(old.path)}
    assert weights(old.path) == weights(whole.out) and rows(old.path) == rows(whole.out)
    make_old(old)
    assert (read_run(str(old.path), "old").record.n, old.read_record().validation_prompt_ids) == (4.0, None)
    before = files_of(old.path)
    assert train(configure(allow_mismatch=("rank_test",))) == {**first, "out": str(old.path)}
    assert files_of(old.path) == before


def test_the_record_names_the_prompts_that_were_validated(configure, pool):
    train(configure())
    record = RunFolder(configure().out).read_record()
    everyone = [prompt.prompt_id for prompt in ReferencePool.open(pool).prompts]
    assert sorted([*record.validation_prompt_ids, *record.train_prompt_ids]) == sorted(everyone)


def test_checkpoints_that_a_kill_left_behind_are_removed(configure):
    """A kill between saving a checkpoint and removing older ones: the repeated command ends with the same folders."""
    config = configure(keep_checkpoints=1)
    train(config)
    folder = RunFolder(config.out)
    expected = sorted(path.name for path in folder.checkpoints.iterdir() if path.is_dir())
    last = max(name for name in expected if name.startswith("step-"))
    for left in ("step-000000", "best-999999"):
        shutil.copytree(folder.checkpoints / last, folder.checkpoints / left)
    (folder.own / "run.json").unlink()
    train(config)
    assert sorted(path.name for path in folder.checkpoints.iterdir() if path.is_dir()) == expected
