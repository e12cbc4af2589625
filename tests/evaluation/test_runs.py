"""What run.json contributes, and the refusal of runs that do not belong to the held-out pool."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from vbon.artifacts.fingerprint import FIELDS
from vbon.config.evaluate import EvaluateConfig
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command
from vbon.evaluation.plan import make_plan
from vbon.evaluation.runs import read_runs
from vbon.pool import ReferencePool


def make_run(world: Path, folder: Path, **changes: Any) -> str:
    pool = ReferencePool.open(world / "pool")
    record = {
        "format_version": 1,
        "n": 3.0,
        "objective": "vbon",
        "algorithm": "rloo",
        "pool": "elsewhere",
        "pool_fingerprint": pool.fingerprint.to_json(),
        "ref_model": str(world / "model"),
        "reward": "r",
        "train_prompt_ids": ["0" * 16],
    }
    shutil.copytree(world / "policy", folder)
    (folder / "vbon").mkdir()
    (folder / "vbon" / "run.json").write_text(json.dumps({**record, **changes}))
    return str(folder)


def config_of(world: Path, tmp_path: Path, *runs: str, **changes: Any) -> EvaluateConfig:
    values = {"samples_per_prompt": 2, "limit": 2, "throughput": False, "device": "cpu", **changes}
    return EvaluateConfig(**{"runs": runs, "pool": str(world / "pool"), "out": str(tmp_path / "eval"), **values})


def test_a_run_brings_its_n_and_its_name(world: Path, tmp_path: Path):
    summary = evaluate_command(config_of(world, tmp_path, make_run(world, tmp_path / "n3")))
    row = summary["policies"]["n3"]
    assert summary["n"] == summary["settings"]["n"] == row["n"] == 3.0
    assert (row["objective"], row["algorithm"], row["path"]) == ("vbon", "rloo", str(tmp_path / "n3"))
    assert summary["settings"]["model"] == str(world / "model")
    assert summary["warnings"] == []


def test_prompts_that_were_trained_on_are_warned_of(world: Path, tmp_path: Path):
    ids = [prompt.prompt_id for prompt in ReferencePool.open(world / "pool").prompts]
    run = make_run(world, tmp_path / "seen", train_prompt_ids=ids[1:4])
    plan = make_plan(config_of(world, tmp_path, run, limit=3))
    assert plan.warnings == ["seen was trained on 2 of these 3 prompts: its figures are not held-out ones"]


def test_a_run_from_another_pool_is_refused_by_name(world: Path, tmp_path: Path):
    fingerprint = {**ReferencePool.open(world / "pool").fingerprint.to_json(), "temperature": 0.5}
    run = make_run(world, tmp_path / "cold", pool_fingerprint=fingerprint)
    with pytest.raises(VbonError, match=r"run .*cold does not match .*: temperature is 1\.0 in the pool but 0\.5"):
        make_plan(config_of(world, tmp_path, run))
    assert make_plan(config_of(world, tmp_path, run, allow_mismatch=("temperature",))).task.n == 3.0


OTHER = {
    "model": "m",
    "tokenizer": "t",
    "chat_template": "c",
    "temperature": 0.5,
    "max_new_tokens": 9,
    "stop": [1, 2],
    "reward": "r",
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_a_run_was_really_trained_with_is_held_to_the_pool(world: Path, tmp_path: Path, field: str):
    """`fingerprint` is what the run used, where a mismatch with its own pool was allowed."""
    used = {**ReferencePool.open(world / "pool").fingerprint.to_json(), field: OTHER[field]}
    run = make_run(world, tmp_path / "other", fingerprint=used)
    with pytest.raises(VbonError, match=rf"other does not match the pool: {field} is .* --allow-mismatch {field}"):
        make_plan(config_of(world, tmp_path, run))
    others = tuple(name for name in FIELDS if name != field)
    with pytest.raises(VbonError, match=f"--allow-mismatch {field}"):
        make_plan(config_of(world, tmp_path, run, allow_mismatch=others))
    summary = evaluate_command(config_of(world, tmp_path, run, allow_mismatch=(field, "model")))
    assert summary["settings"]["allowed_mismatches"] == [field]


def test_another_reward_or_reference_is_refused(world: Path, tmp_path: Path):
    run = make_run(world, tmp_path / "run")
    with pytest.raises(VbonError, match="reward is"):
        make_plan(config_of(world, tmp_path, run, reward="builtin:length"))
    with pytest.raises(VbonError, match="model is"):
        make_plan(config_of(world, tmp_path, run, model=str(world / "policy")))


def test_one_n_for_all(world: Path, tmp_path: Path):
    runs = [make_run(world, tmp_path / "n3"), make_run(world, tmp_path / "n5", n=5)]
    with pytest.raises(VbonError, match=re.escape("one N (n3 for N = 3, n5 for N = 5); choose with --n")):
        make_plan(config_of(world, tmp_path, *runs))
    assert make_plan(config_of(world, tmp_path, *runs, n=4.0)).task.n == 4.0
    with pytest.raises(VbonError, match="name it with --n"):
        make_plan(config_of(world, tmp_path, str(world / "policy")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "malformed JSON"),
        ("[]", "must hold a JSON object"),
        ('{"format_version": 2}', "format_version is 2; this vbon reads 1"),
        ('{"format_version": 1, "n": "8"}', "'n' must be a number"),
        ('{"format_version": 1, "n": true}', "'n' must be a number"),
        ('{"format_version": 1, "n": 0.5}', "greater than 1"),
        ('{"format_version": 1, "pool_fingerprint": {"colour": "red"}}', "unknown field 'colour'"),
        ('{"format_version": 1, "train_prompt_ids": "all"}', "'train_prompt_ids' must be a list"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str, message: str):
    (tmp_path / "run" / "vbon").mkdir(parents=True)
    (tmp_path / "run" / "vbon" / "run.json").write_text(content)
    with pytest.raises(VbonError, match=message) as error:
        read_runs([str(tmp_path / "run")])
    assert "run.json" in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_is_not_finished_is_refused_though_a_model_is_there(world: Path, tmp_path: Path):
    run = Path(make_run(world, tmp_path / "run"))
    (run / "vbon/run.json").unlink()
    (run / "vbon/config.yaml").touch()  # what the extension of a finished run looks like
    with pytest.raises(VbonError, match="run: this run is not finished; repeat its `vbon train` command"):
        read_runs([str(run)])


def test_names_are_last_parts_unless_shared():
    assert [run.name for run in read_runs(["a/n8/", "b/n8", "c"])] == ["a/n8/", "b/n8", "c"]
    with pytest.raises(VbonError, match="a is given twice"):
        read_runs(["a", "b", "a"])


def test_a_run_of_another_tie_rule_is_warned_of(world: Path, tmp_path: Path):
    """Its target breaks ties by an order that evaluate does not count by."""
    run = make_run(world, tmp_path / "ordered", config={"tie_rule": "order"})
    assert make_plan(config_of(world, tmp_path, run)).warnings == [
        "ordered was trained with --tie-rule order, and ties count at random here: where rewards tie, its KL to "
        "best-of-N stays above the floor even if it is perfect"
    ]


def test_a_model_that_the_pool_names_and_that_has_moved_is_asked_for(world: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    moved = tmp_path / "pool"
    shutil.copytree(world / "pool", moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps(manifest | {"model": "models/gone"}))
    with pytest.raises(VbonError, match="pool names this model: say with --model where it lies now"):
        make_plan(config_of(world, tmp_path, str(world / "policy"), n=2.0, pool=str(moved)))
