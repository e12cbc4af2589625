"""Where an evaluation may be written, and what a kill while it is written leaves."""

import json
from pathlib import Path

import pytest

from vbon.config.evaluate import EvaluateConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.evaluation.folder import FILES, make_folder

SETTINGS = {"seed": 0, "out": "eval", "device": "cpu"}


def written(folder: Path, settings: object = SETTINGS) -> Path:
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"settings": settings}))
    return folder


def test_the_same_evaluation_may_be_repeated_elsewhere_and_over_leftovers(tmp_path: Path):
    for name in ("new/er", "killed"):
        assert make_folder(str(tmp_path / name), SETTINGS).is_dir()
    for name in (*FILES[1:], ".writing-samples.parquet"):
        (tmp_path / "killed" / name).touch()
    make_folder(str(tmp_path / "killed"), SETTINGS)
    make_folder(str(written(tmp_path / "eval")), {**SETTINGS, "out": "../eval", "device": "cuda"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, r"there is an evaluation of other settings \(seed was 1, now 0\)"),
        ({}, "it does not say its seed"),
        ([], "it does not say its seed"),
    ],
)
def test_another_evaluation_is_not_replaced(tmp_path: Path, settings: object, message: str):
    with pytest.raises(VbonError, match=message):
        make_folder(str(written(tmp_path / "eval", settings)), SETTINGS)


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path):
    (written(tmp_path / "eval") / "model.safetensors").touch()
    with pytest.raises(VbonError, match=r"not empty \(holds model.safetensors\)"):
        make_folder(str(tmp_path / "eval"), SETTINGS)


def test_what_was_not_written_whole_does_not_pass_for_the_evaluation_before(world: Path, tmp_path: Path):
    config = EvaluateConfig(
        runs=(str(world / "policy"),),
        pool=str(world / "pool"),
        out=str(tmp_path / "eval"),
        n=4.0,
        samples_per_prompt=2,
        limit=2,
        throughput=False,
        device="cpu",
    )
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
