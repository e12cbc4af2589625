"""Where an evaluation may be written, and what a kill while it is written leaves."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vbon.artifacts.evaluation import PER_PROMPT, THROUGHPUT, EvaluationFolder
from vbon.config.evaluate import EvaluateConfig
from vbon.errors import VbonError
from vbon.evaluation import evaluate as evaluate_module
from vbon.evaluation.evaluate import evaluate, evaluate_command
from vbon.evaluation.measurements import Measured, read_measured, write_measured
from vbon.evaluation.plan import make_plan
from vbon.evaluation.throughput import Speed

SETTINGS = {"seed": 0, "out": "eval", "device": "cpu"}
SOURCES = {"pool": "1"}


def written(folder: Path, settings: object = SETTINGS) -> Path:
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"settings": settings}))
    return folder


def opened(folder: Path, settings: dict = SETTINGS, sources: dict = SOURCES) -> bool:
    made = EvaluationFolder(str(folder))
    complete = made.open(settings, sources)
    made.close()
    return complete


def test_the_same_evaluation_may_be_repeated_elsewhere_and_over_leftovers(tmp_path: Path):
    for name in ("new/er", "killed"):
        assert not opened(tmp_path / name)
        assert not (tmp_path / name).exists()  # nothing was measured
    (tmp_path / "killed").mkdir()
    for name in (PER_PROMPT, THROUGHPUT, ".writing-samples.parquet"):
        (tmp_path / "killed" / name).touch()
    assert not opened(tmp_path / "killed")
    assert not opened(written(tmp_path / "eval"), {**SETTINGS, "out": "../eval", "device": "cuda", "new": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, r"--out \S+eval: was started with other settings \(--seed was 1, now it is 0\)"),
        ({}, "does not say its settings"),
        ([], "does not say its settings"),
    ],
)
def test_another_evaluation_is_not_replaced(tmp_path: Path, settings: object, message: str):
    with pytest.raises(VbonError, match=message):
        opened(written(tmp_path / "eval", settings))


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path):
    (written(tmp_path / "eval") / "model.safetensors").touch()
    with pytest.raises(VbonError, match=r"not empty \(holds model.safetensors\)"):
        opened(tmp_path / "eval")


def test_one_process_writes_an_evaluation(tmp_path: Path):
    first = EvaluationFolder(str(tmp_path / "eval"))
    first.open(SETTINGS, SOURCES)
    with pytest.raises(VbonError, match="another process"):
        opened(tmp_path / "eval")
    first.close()


def test_what_is_measured_is_stored_bit_by_bit_and_never_half(world: Path, tmp_path: Path):
    task = make_plan(small(world, tmp_path)).task
    made = evaluate([], task)
    kept = Measured(made.samples["reference"], made.per_prompt["reference"], {"reference": Speed(1 / 3, 2.0)})
    write_measured(tmp_path / "0.safetensors", kept)
    again = read_measured(tmp_path / "0.safetensors")
    assert again is not None and again.speeds == kept.speeds and list(again.per_prompt) == list(kept.per_prompt)
    assert again.samples.completions == kept.samples.completions
    for one, two in zip(arrays_of(again), arrays_of(kept), strict=True):
        assert one.dtype == two.dtype and one.tobytes() == two.tobytes() and one.shape == two.shape
    content = (tmp_path / "0.safetensors").read_bytes()
    for share in range(10):
        (tmp_path / "0.safetensors").write_bytes(content[: len(content) * share // 10])
        assert read_measured(tmp_path / "0.safetensors") is None


def arrays_of(measured: Measured) -> list[np.ndarray]:
    samples = measured.samples
    arrays = [samples.finished, samples.rewards, samples.k_lt, samples.k_eq, samples.log_weight, *samples.divergence]
    return [*arrays, *samples.judge_rewards.values(), *measured.per_prompt.values()]


def small(world: Path, tmp_path: Path, *more: str, out: str = "eval") -> EvaluateConfig:
    return EvaluateConfig(
        runs=(str(world / "policy"), *more),
        pool=str(world / "pool"),
        out=str(tmp_path / out),
        n=4.0,
        samples_per_prompt=2,
        limit=2,
        judges=(f"{world}/reward.py:length",),
        throughput=False,
        device="cpu",
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_evaluation_stopped_after_any_policy_measures_only_the_others(world: Path, tmp_path: Path, monkeypatch):
    """The stopped and the uninterrupted evaluation have the same bytes; every policy was drawn from once."""
    shutil.copytree(world / "policy", tmp_path / "second")
    whole, stopped = (small(world, tmp_path, str(tmp_path / "second"), out=out) for out in ("whole", "stopped"))
    evaluate_command(whole)
    drawn: list[int] = []
    draw = evaluate_module.draw_samples

    def draw_and_stop(*args):
        if len(drawn) == stop_after:
            raise KeyboardInterrupt
        drawn.append(1)
        return draw(*args)

    monkeypatch.setattr(evaluate_module, "draw_samples", draw_and_stop)
    for stop_after in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt, match="run the same command to continue"):
            evaluate_command(stopped)
        assert (tmp_path / "stopped").exists() == (stop_after > 0) and len(drawn) == stop_after
    with pytest.raises(VbonError, match="--seed was 0, now it is 5"):
        evaluate_command(dataclasses.replace(stopped, seed=5))
    stop_after = -1
    record = evaluate_command(stopped)
    assert len(drawn) == 3
    assert evaluate_command(stopped) == record and len(drawn) == 3  # complete: nothing is drawn
    ours, theirs = files_of(tmp_path / "stopped"), files_of(tmp_path / "whole")
    for name in ("per_prompt.parquet", "samples.parquet", "reference.parquet"):
        assert ours[name] == theirs[name]
    assert ours["evaluation.json"] == theirs["evaluation.json"].replace(b"/whole", b"/stopped")
    assert set(ours) == {"per_prompt.parquet", "samples.parquet", "reference.parquet", "inputs.json", "evaluation.json"}


def test_other_weights_at_the_same_path_are_measured_again(world: Path, tmp_path: Path):
    shutil.copytree(world / "policy", tmp_path / "run")
    config = dataclasses.replace(small(world, tmp_path), runs=(str(tmp_path / "run"),))
    before = evaluate_command(config)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(world / "model", tmp_path / "run")
    after = evaluate_command(config)
    assert after["policies"]["run"]["metrics"]["kl_policy_ref"]["value"] == 0
    assert before["policies"]["run"]["metrics"]["kl_policy_ref"]["value"] > 0


def test_what_was_not_written_whole_does_not_pass_for_the_evaluation_before(world: Path, tmp_path: Path):
    config = small(world, tmp_path)
    evaluate_command(config)
    samples = tmp_path / "eval/samples.parquet"
    samples.unlink()
    samples.mkdir()  # so that the second of the files cannot be written
    with pytest.raises(VbonError, match=r"samples\.parquet: cannot be written"):
        evaluate_command(config)
    assert not (tmp_path / "eval/evaluation.json").exists()
    samples.rmdir()
    evaluate_command(config)
    assert (tmp_path / "eval/evaluation.json").is_file()
