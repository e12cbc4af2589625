"""The demo at a small scale, every stage for real: what it writes, what it skips, what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vbon.config import DemoConfig
from vbon.core import best_of_n
from vbon.demo import corpus
from vbon.demo.closing import KL_BAR, WIN_RATE_BAR
from vbon.demo.story import JUDGE, RUN, StorySize, reward_of, tell
from vbon.errors import VbonError
from vbon.pool import read_prompts
from vbon.pool.store import ReferencePool
from vbon.rewards import load_reward
from vbon.rewards.builtin import NEGATIVE_WORDS, POSITIVE_WORDS

TINY = StorySize(
    texts=300,
    reference_steps=15,
    classifier_steps=15,
    train_prompts=8,
    heldout_prompts=6,
    num_samples=16,
    offline_steps=3,
    num_iterations=2,
    rollouts_per_iteration=32,
    samples_per_prompt=4,
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad"),
    pytest.mark.filterwarnings("ignore:reward .* texts beyond"),  # what so little training leaves is long
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, tell(DemoConfig(out=str(folder)), TINY)


@pytest.mark.recipes
def test_every_stage_leaves_its_files(told):
    folder, result = told
    for name in (
        "reference/model.safetensors",
        "classifier/model.safetensors",
        "pool-train/manifest.json",
        "pool-heldout/manifest.json",
        f"{RUN}/model.safetensors",
        f"{RUN}/vbon/run.json",
        "evaluation/evaluation.json",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    assert result["report"] == str(folder / "report.html")
    assert f"One sample of {RUN} " in (folder / "report.html").read_text()


@pytest.mark.recipes
def test_held_out_prompts_were_never_trained_on(told):
    folder, _ = told
    train, heldout = (read_prompts(folder / f"prompts-{split}.jsonl") for split in ("train", "heldout"))
    trained_on = set(json.loads((folder / RUN / "vbon/run.json").read_text())["train_prompt_ids"])
    assert trained_on <= {prompt.prompt_id for prompt in train}
    assert not trained_on & {prompt.prompt_id for prompt in heldout}


@pytest.mark.recipes
def test_closing_figures_are_means_of_the_per_prompt_ones(told):
    folder, result = told
    rows = pq.read_table(folder / "evaluation/per_prompt.parquet").to_pylist()
    for key in ("win_rate", "kl_policy_ref", "reward"):
        values = {name: [row[key] for row in rows if row["policy"] == name] for name in (RUN, "reference", "best-of-n")}
        assert result["policy"][key]["value"] == pytest.approx(np.mean(values[RUN]), abs=1e-12)
        assert result["reference"][key]["value"] == pytest.approx(np.mean(values["reference"]), abs=1e-12)
        assert result["target"][key] == pytest.approx(np.mean(values["best-of-n"]), abs=1e-12)
    assert result["bars"]["win_rate"] == pytest.approx(WIN_RATE_BAR * 8 / 9)
    assert result["bars"]["kl_policy_ref"] == pytest.approx(KL_BAR * result["target"]["kl_policy_ref"])
    assert result["target"]["kl_policy_ref"] <= best_of_n.kl_from_reference(8) + 1e-9


@pytest.mark.recipes
def test_told_again_it_skips_what_is_done_and_ends_the_same(told, capsys):
    folder, result = told
    kept = (
        "reference/model.safetensors",
        "classifier/model.safetensors",
        f"{RUN}/model.safetensors",
        "evaluation/evaluation.json",
    )
    before = [(folder / name).stat().st_mtime_ns for name in kept]
    page = (folder / "report.html").read_bytes()
    assert tell(DemoConfig(out=str(folder)), TINY) == result
    assert [(folder / name).stat().st_mtime_ns for name in kept] == before
    assert (folder / "report.html").read_bytes() == page
    assert len(re.findall("done before", capsys.readouterr().err)) == 5


@pytest.mark.recipes
def test_a_story_told_otherwise_and_a_strange_folder_are_refused(told, tmp_path):
    folder, _ = told
    with pytest.raises(VbonError, match="other settings"):
        tell(DemoConfig(out=str(folder), seed=1), TINY)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(VbonError, match="not the demo's"):
        tell(DemoConfig(out=str(tmp_path)), TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.recipes
def test_the_reward_is_the_demos_own_classifier_and_the_judge_is_the_lexicon(told):
    folder, result = told
    pool = ReferencePool.open(folder / "pool-heldout")
    prompts = [one.prompt for one in pool.prompts for _ in range(TINY.num_samples)]
    rewards = load_reward(reward_of(folder))(prompts, list(pool.completions))
    np.testing.assert_allclose(pool.rewards, rewards, atol=1e-5)
    rows = pq.read_table(folder / "evaluation/samples.parquet").to_pylist()
    mine = [row["completion"] for row in rows if row["policy"] == RUN]
    judged = load_reward(JUDGE)([""] * len(mine), mine).mean()
    assert result["policy"][f"judge_reward/{JUDGE}"]["value"] == pytest.approx(judged)


def test_stars_are_the_mood_of_the_words():
    """Of all words of opinion in five-star texts 85 % are kind, in one-star texts 15 %: what the classifier learns."""
    kind, unkind = {*corpus.GOOD, *corpus.PRAISE}, {*corpus.BAD, *corpus.SCORN}
    found: dict[int, list[bool]] = {stars: [] for stars in range(1, 6)}
    for one, _ in zip(corpus.opinions(0), range(4000), strict=False):
        words = re.findall("[a-z]+", one.text.lower())
        found[one.stars] += [word in kind for word in words if word in kind | unkind]
    for stars, mood in enumerate(corpus.MOODS, 1):
        assert np.mean(found[stars]) == pytest.approx(mood, abs=5 * 0.5 / len(found[stars]) ** 0.5)


def test_corpus_is_a_function_of_its_seed():
    first, again, other = (
        [one for one, _ in zip(corpus.opinions(seed), range(50), strict=False)] for seed in (3, 3, 4)
    )
    assert first == again != other
    assert len(set(corpus.distinct_prompts(0, 260))) == 260


def test_opinions_are_in_the_lexicon_and_plain_words_are_not():
    assert {*corpus.GOOD, *corpus.PRAISE} <= POSITIVE_WORDS
    assert {*corpus.BAD, *corpus.SCORN} <= NEGATIVE_WORDS
    rest = {*corpus.PLAIN, *corpus.SAW, *corpus.ADVERBS, *corpus.THINGS, *corpus.PARTS}
    assert not rest & (POSITIVE_WORDS | NEGATIVE_WORDS)
