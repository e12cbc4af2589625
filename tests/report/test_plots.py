"""Which figures an evaluation has, and that they show its figures."""

from pathlib import Path

import pytest
from tests.report.folders import policy_metrics, write_evaluation

from vbon.report import plots
from vbon.report.plots import Drawing
from vbon.report.read import read_folders

PROMPTS = ["first", "second", "third", "fourth", "fifth"]


@pytest.fixture
def drawings(tmp_path: Path) -> dict[str, Drawing]:
    folder = write_evaluation(tmp_path / "eval", {"n8": policy_metrics(0.8, 1.4, 0.3, 1.9)}, prompts=PROMPTS)
    return {drawing.title: drawing for drawing in plots.evaluation_plots(read_folders([str(folder)])[1][0], "e")}


def test_best_of_k_goes_from_the_policys_win_rate_up_to_k_of_n(drawings: dict[str, Drawing]):
    """Of a policy at odds of 4 to 1, the best of 8 wins at 32 to 1; the reference at 8 to 1."""
    svg = drawings["Best of k of each policy"].svg
    assert "n8 from 0.800 to 0.970; reference from 0.500 to 0.889" in svg
    assert "best-of-8 of the reference" in svg and "k, samples to choose from" in svg


def test_latency_is_shown_beside_the_rate(drawings: dict[str, Drawing]):
    assert "n8 0.25 s; reference 0.25 s; best-of-8 0.5 s" in drawings["Latency at batch 1"].svg
    assert "best-of-8 120 completions per second" in drawings["Speed"].svg


def test_reward_cdfs_of_the_first_four_prompts_mark_the_policys_samples(drawings: dict[str, Drawing]):
    svg, caption = (
        drawings["Ranks of rewards for a few prompts"].svg,
        drawings["Ranks of rewards for a few prompts"].caption,
    )
    assert all(f"prompt {place}, samples of n8 at 0.50, 0.62" in svg for place in (1, 2, 3, 4))
    assert "prompt 5" not in svg and "samples of reference" not in svg
    assert "1 “first”" in caption and "4 “fourth”" in caption and "fifth" not in caption
