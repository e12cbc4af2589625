"""Pairwise rewards: shares of wins against loops, position bias, what is stored, the cost cap, and a served judge."""

import json

import numpy as np
import pytest

from vbon.errors import VbonError
from vbon.rewards import load_reward
from vbon.rewards.pairwise import FILE_NAME, PairwiseReward, chosen

JUDGE = """
from pathlib import Path

ASKED = Path(__file__).with_name("asked")


def longer(prompts, completions, others):
    with open(ASKED, "a") as file:
        file.writelines("x" for _ in completions)
    return [(len(a) > len(b)) - (len(a) < len(b)) for a, b in zip(completions, others)]


def first_if_close(prompts, completions, others):
    return [1 if abs(len(a) - len(b)) < 2 else (len(a) > len(b)) * 2 - 1 for a, b in zip(completions, others)]


def circle(prompts, completions, others):
    return [{"1": 1, "2": -1}.get(str((int(a) - int(b)) % 3), 0) for a, b in zip(completions, others)]


def wrong(prompts, completions, others):
    return [7 for _ in completions]
"""


@pytest.fixture
def judge(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)

    def load(function="longer", most=16, cap=None, *, both=True):
        reward = load_reward(f"pairwise:{tmp_path}/judge.py:{function}")
        assert isinstance(reward, PairwiseReward)
        reward.limit(most, cap, both_orders=both)
        return reward

    load.asked = lambda: len((tmp_path / "asked").read_text())
    return load


def test_a_share_of_wins_against_all_others_of_its_prompt(judge):
    texts = ["a", "bbb", "cc", "ddd", "a"]
    prompts = ["p", "p", "p", "p", "q"]
    np.testing.assert_array_equal(judge()(prompts, texts), [0, 2.5 / 3, 1 / 3, 2.5 / 3, 0.5])


def test_k_opponents_are_chosen_by_the_text(judge):
    texts = ["x" * size for size in range(1, 21)]
    shares = judge(most=5)(["p"] * 20, texts)
    for row, text in enumerate(texts):
        others = [one for one in texts if one != text]
        met = [others[i] for i in chosen(19, 5, text)]
        assert len(set(met)) == 5 and shares[row] == sum(len(text) > len(one) for one in met) / 5


def test_a_preference_for_the_first_place_cancels(judge):
    biased = judge("first_if_close", both=False)(["p"] * 3, ["aa", "bbb", "cccc"])
    fair = judge("first_if_close")(["p"] * 3, ["aa", "bbb", "cccc"])
    np.testing.assert_array_equal(biased, [0.5, 1.0, 1.0])  # first against its neighbours
    np.testing.assert_array_equal(fair, [0.25, 0.5, 0.75])  # neighbours tie


def test_comparisons_are_stored_and_never_asked_twice(judge, tmp_path):
    texts = ["a", "bb", "ccc", "a"]
    first = judge()
    first.keep_in(tmp_path / "pool")
    shares = first(["p"] * 4, texts)
    assert judge.asked() == 6  # three pairs of different texts, both orders
    second = judge()
    second.keep_in(tmp_path / "run", tmp_path / "pool")
    np.testing.assert_array_equal(second(["p"] * 4, texts), shares)
    assert judge.asked() == 6
    with open(tmp_path / "pool" / FILE_NAME, "a") as file:
        file.write('{"pair": "cut o')
    third = judge()
    third.keep_in(tmp_path / "pool")
    np.testing.assert_array_equal(third(["p"] * 4, texts), shares)
    assert judge.asked() == 6


def test_the_cost_cap_stops_with_one_line_and_what_was_asked_is_kept(judge, tmp_path):
    texts = ["x" * size for size in range(1, 13)]  # 132 questions
    with pytest.raises(VbonError, match=r"--max-comparisons is reached with 32 comparisons to go") as error:
        capped = judge(cap=100)
        capped.keep_in(tmp_path)
        capped(["p"] * 12, texts)
    assert "\n" not in str(error.value) and judge.asked() == 100
    continued = judge(cap=100)
    continued.keep_in(tmp_path)
    np.testing.assert_allclose(continued(["p"] * 12, texts), np.arange(12) / 11)
    assert judge.asked() == 132


def test_cycles_are_found(judge):
    reward = judge("circle")
    np.testing.assert_array_equal(reward(["p"] * 3, ["0", "1", "2"]), [0.5, 0.5, 0.5])
    assert reward.cycles("p", ["0", "1", "2"], {}) == (1, 1)


def test_an_answer_that_is_no_preference_is_refused(judge):
    with pytest.raises(VbonError, match=r"answered 7; a preference is in \[-1, 1\]"):
        judge("wrong")(["p", "p"], ["a", "b"])


def test_stored_lines_are_json(judge, tmp_path):
    reward = judge()
    reward.keep_in(tmp_path)
    reward(["p", "p"], ["a", "bb"])
    rows = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert sorted(row["preference"] for row in rows) == [-1.0, 1.0]
