"""Rewards that need no file: `builtin:lexicon` and `builtin:length`. They read the completion alone."""

import hashlib
import re
from typing import Any

from vbon.errors import VbonError
from vbon.rewards.checked import CheckedReward, checked
from vbon.rewards.protocol import Prompt

PREFIX = "builtin:"

POSITIVE_WORDS = frozenset(
    """
    amazing beautiful best brilliant captivating charming clever delight delightful elegant enjoyable enjoyed
    excellent fantastic fine fresh fun funny good gorgeous great gripping happy hilarious inspired love loved lovely
    magical masterful memorable moving outstanding perfect pleasant powerful remarkable rewarding satisfying sharp
    smart splendid strong stunning superb sweet terrific thrilling touching triumph warm witty wonderful
    """.split()  # noqa: SIM905
)
NEGATIVE_WORDS = frozenset(
    """
    annoying awful bad bland boring cheap clumsy confusing disappointed disappointing dreadful dreary dull empty
    flat forgettable hate hated hollow horrible lame lazy lifeless mediocre messy miserable painful pathetic
    pointless poor predictable ridiculous sad shallow silly slow stale stupid tedious terrible tired tiresome ugly
    uninspired unfunny unpleasant waste wasted weak worst wooden
    """.split()  # noqa: SIM905
)

LENGTH_BONUS = 0.002  # a character; small beside one word
TIE_BREAK = 1e-3  # times a number in [0, 1): below LENGTH_BONUS, so that it only ever decides between equals


def hash_fraction(text: str) -> float:
    """A number in [0, 1) of 32 bits that depends on `text` alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def lexicon(text: str) -> float:
    """Positive minus negative words, a little for length, and less than that from a hash of the text.

    Distinct texts get distinct rewards, up to collisions of 32 hash bits among texts of one length and balance.
    """
    words = re.findall(r"[a-z]+", text.lower())
    balance = sum(word in POSITIVE_WORDS for word in words) - sum(word in NEGATIVE_WORDS for word in words)
    return balance + LENGTH_BONUS * len(text) + TIE_BREAK * hash_fraction(text)


def length(text: str) -> float:
    """The number of characters: a reward with many ties."""
    return float(len(text))


BUILTINS = {"lexicon": lexicon, "length": length}


def builtin_reward(spec: str) -> CheckedReward:
    """The reward `builtin:NAME`; raises VbonError listing the names."""
    function = BUILTINS.get(spec.removeprefix(PREFIX))
    if function is None:
        raise VbonError(f"reward {spec}: no such built-in, there are {', '.join(PREFIX + name for name in BUILTINS)}")

    def score(prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> list[float]:
        return [function(completion) for completion in completions]

    return checked(score, name=spec, fingerprint=spec)
