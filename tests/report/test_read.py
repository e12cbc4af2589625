"""Folders in, values out; and one line for each way in which a folder can be wrong."""

import json
from pathlib import Path

import pytest
from tests.report.folders import policy_metrics, write_evaluation, write_run

from vbon.core.estimate import Estimate
from vbon.errors import VbonError
from vbon.report.plots import evaluation_plots
from vbon.report.read import read_folders


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "eval", {"n8": policy_metrics(0.8, 1.4, 0.3, 1.9)}, prompts=["a", "b"])


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_reads_what_was_written(tmp_path, evaluation):
    run = write_run(tmp_path / "n8", iterations=40)
    runs, evaluations = read_folders([str(run), str(evaluation)])
    assert [row["iteration"] for row in runs[0].history if "win_rate" in row] == list(range(1, 41))
    assert [row["iteration"] for row in runs[0].history if "validation/win_rate" in row] == [0, 20, 40]
    one = evaluations[0]
    assert one.policies["n8"]["win_rate"] == Estimate(0.8, pytest.approx(0.79), pytest.approx(0.81))
    assert "kl_bon_policy" not in one.policies["n8"]  # null there
    assert one.target["win_rate"].value == pytest.approx(8 / 9)
    assert (one.throughput["best-of-n"], one.latency["best-of-n"]) == (120.0, 0.5)
    assert len(one.samples) == 2 * 2 * 2
    k, best = one.best_of_k["n8"][2]
    assert (k, set(best), best["win_rate"].value) == (3, {"reward", "win_rate"}, pytest.approx(12 / 13))
    assert one.best_of_k["reference"][0][1]["win_rate"].value == 0.5
    assert [row["reward_quantiles"][0] for row in one.reward_cdfs] == [0.0, 1.0]


def test_an_evaluation_of_an_earlier_version_is_read_without_what_it_lacks(evaluation):
    (evaluation / "reference.parquet").unlink()
    (evaluation / "throughput.json").write_text('{"completions_per_second": {"n8": 3.0}}')
    record = json.loads((evaluation / "evaluation.json").read_text())
    for row in (*record["policies"].values(), record["reference"]):
        del row["best_of_k"]
    (evaluation / "evaluation.json").write_text(json.dumps(record))
    one = read_folders([str(evaluation)])[1][0]
    assert (one.reward_cdfs, one.latency, one.best_of_k) == ([], {}, {"n8": [], "reference": []})
    drawn = [drawing.title for drawing in evaluation_plots(one, "e")]
    assert drawn == ["Win rate against KL", "Reward against KL", "Distance to best-of-N", "Speed"]


def test_a_torn_last_line_is_left_out_and_a_torn_earlier_one_is_named(tmp_path):
    run = write_run(tmp_path / "n8", iterations=3)
    metrics = run / "vbon/metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"iteration": 4, "rew')
    assert max(row["iteration"] for row in read_folders([str(run)])[0][0].history) == 3
    metrics.write_text('{"iteration": 0\n' + whole)
    with pytest.raises(VbonError, match=r"metrics\.jsonl:1: malformed JSON"):
        read_folders([str(run)])


def test_folders_of_one_name_are_told_apart(tmp_path):
    first, second = write_run(tmp_path / "a/run"), write_run(tmp_path / "b/run")
    runs, _ = read_folders([str(first), str(second)])
    assert [run.name for run in runs] == [str(first), str(second)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version is 2; this vbon reads 1"),
        ({"n": 1}, "'n' is 1"),
        ({"n": None}, "'n' is None"),
        ({"policies": []}, "'policies' must be a mapping"),
        ({"policies": {"n8": {"metrics": {"reward": "high"}}}}, "'reward' must hold value, low and high"),
        ({"target": None}, "'metrics' must be a mapping"),
        ({"policies": {"n8": {"metrics": {}, "best_of_k": [{"reward": 1.0}]}}}, "'best_of_k' must be a list"),
        ({"policies": {"n8": {"metrics": {}, "best_of_k": [{"k": 1, "reward": "x"}]}}}, "'reward' must hold value"),
    ],
)
def test_a_malformed_evaluation_is_one_line_with_its_file(evaluation, changes, message):
    rewrite(evaluation / "evaluation.json", **changes)
    with pytest.raises(VbonError, match=message) as error:
        read_folders([str(evaluation)])
    assert "evaluation.json" in str(error.value) and "\n" not in str(error.value)


def test_other_faults_are_one_line_too(tmp_path, evaluation):
    (evaluation / "samples.parquet").write_bytes(b"PAR1 no")
    for path in (evaluation, tmp_path, tmp_path / "missing"):
        with pytest.raises(VbonError) as error:
            read_folders([str(path)])
        assert str(path) in str(error.value) and "\n" not in str(error.value)
