"""Built-in rewards against counts made by hand and by a second formula."""

import itertools

import numpy as np
import pytest

from vbon.errors import VbonError
from vbon.rewards import load_reward
from vbon.rewards.builtin import NEGATIVE_WORDS, POSITIVE_WORDS


@pytest.mark.parametrize(
    ("text", "balance"),
    [
        ("", 0),
        ("A GREAT, great film.", 2),
        ("terrible but funny; boring", -1),
        ("greatest goodness", 0),
        ("dull-dull wonderful", -1),
    ],
)
def test_the_lexicon_counts_whole_words(text, balance):
    reward = load_reward("builtin:lexicon")(["a great prompt does not count"], [text])[0]
    assert balance + 0.002 * len(text) <= reward < balance + 0.002 * (len(text) + 1)


def test_distinct_completions_have_distinct_lexicon_rewards():
    texts = [" ".join(words) for words in itertools.product(["good", "nice", "calm", "dull", "flat"], repeat=5)]
    rewards = load_reward("builtin:lexicon")([""] * len(texts), texts)
    assert len(set(rewards)) == len(texts) == 3125
    np.testing.assert_array_equal(rewards, load_reward("builtin:lexicon")(["other"] * len(texts), texts))


def test_no_word_is_both():
    assert not POSITIVE_WORDS & NEGATIVE_WORDS


def test_length_counts_characters_and_ties():
    rewards = load_reward("builtin:length")(["p"] * 4, ["", "ab", "cd", "é\n!"])
    np.testing.assert_array_equal(rewards, [0, 2, 2, 3])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(VbonError, match="no such built-in, there are builtin:lexicon, builtin:length"):
        load_reward("builtin:sentiment")
