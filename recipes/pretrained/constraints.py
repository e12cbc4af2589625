"""Instructions with constraints that a program checks exactly, and the check.

Each prompt asks for a short text or a short list about a topic and names two or three constraints. The reward of a
completion is the share of its prompt's constraints that hold, so that many completions of a prompt tie.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

TOPICS = """the sea|a cat|winter|bread|a train|the moon|a garden|music|rain|a mountain|coffee|a bridge|school|a horse
the desert|a library|football|honey|a river|the city|a doctor|an island|sleep|a clock|fire|a market|the forest|a letter
apples|a storm|friends|a museum|spring|a dog|snow|a bicycle|the sun|a castle|tea|birds|a farm|the wind|a teacher
chocolate|a ship|autumn|a painting|the stars|a kitchen|a road|cheese|a lake|dreams|a village|a song|the beach|a hat
flowers|a robot|the night""".replace("\n", "|").split("|")
COMMON = ("always", "life", "time", "world", "people", "day", "beautiful", "home")
AVOIDED = ("the", "and", "is", "of", "a")
STARTS = ("The", "In", "A", "It", "As", "I")


@dataclass(frozen=True)
class Kind:
    """A sort of constraint.

    Args:
        about: constraints about the same thing contradict each other: a prompt has at most one of them.
        ask: a value → the sentence that asks for it.
        holds: (completion, value) → whether the completion does what was asked.
        values: the values that a prompt may ask for.
    """

    about: str
    ask: Callable[[Any], str]
    holds: Callable[[str, Any], bool]
    values: Sequence[Any] = (None,)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits, apostrophes between them included."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def count_items(text: str) -> int:
    """The number of lines that begin as an item of a list does: "1.", "1)", "-" or "*"."""
    return sum(bool(re.match(r"\s*(?:\d+[.)]|[-*•])\s*\S", line)) for line in text.splitlines())


def count_sentences(text: str) -> int:
    """The number of runs of words that end in ".", "!" or "?"."""
    return len(re.findall(r"\w[^.!?]*[.!?]+", text))


KINDS: dict[str, Kind] = {
    "at_most_words": Kind(
        "length", "Use at most {} words.".format, lambda text, k: 0 < len(words_of(text)) <= k, (10, 12, 14, 16)
    ),
    "at_least_words": Kind(
        "length", "Use at least {} words.".format, lambda text, k: len(words_of(text)) >= k, (12, 15, 18, 20)
    ),
    "items": Kind(
        "length", "Write a list of exactly {} items.".format, lambda text, k: count_items(text) == k, (3, 4, 5)
    ),
    "sentences": Kind(
        "length", "Write exactly {} sentences.".format, lambda text, k: count_sentences(text) == k, (1, 2, 3)
    ),
    "use": Kind("use", 'Use the word "{}".'.format, lambda text, word: word in words_of(text), COMMON),
    "avoid": Kind(
        "avoid",
        'Do not use the word "{}".'.format,
        lambda text, word: bool(words_of(text)) and word not in words_of(text),
        AVOIDED,
    ),
    "no_comma": Kind("comma", lambda _: "Do not use commas.", lambda text, _: bool(words_of(text)) and "," not in text),
    "question": Kind("end", lambda _: "End with a question mark.", lambda text, _: text.rstrip().endswith("?")),
    "period": Kind("end", lambda _: "End with a period.", lambda text, _: text.rstrip().endswith(".")),
    "one_capital": Kind(
        "case",
        lambda _: "Use a capital letter only for the first letter.",
        lambda text, _: text.strip()[:1].isupper() and not any(map(str.isupper, text.strip()[1:])),
    ),
    "begin": Kind(
        "begin", 'Begin with the word "{}".'.format, lambda text, word: words_of(text)[:1] == [word.lower()], STARTS
    ),
}
HELD_OUT = 0.2  # of all combinations of kinds: those of the test prompts alone
SIZES = (2, 2, 3)  # constraints of a prompt


def combinations_of_kinds(seed: int, *, held_out: bool) -> list[tuple[str, ...]]:
    """The combinations of kinds that training prompts use, or those that only test prompts use.

    No pair of kinds of a held-out pair occurs in training, not even inside a combination of three.
    """
    names = list(KINDS)
    pairs = [pair for pair in combinations(names, 2) if _agree(pair)]
    chosen = set(random.Random(seed).sample(pairs, round(HELD_OUT * len(pairs))))
    whole = [one for size in sorted(set(SIZES)) for one in combinations(names, size) if _agree(one)]
    return [one for one in whole if any(pair in chosen for pair in combinations(one, 2)) == held_out]


def draw_prompts(count: int, seed: int, *, held_out: bool) -> Iterator[dict[str, Any]]:
    """Yield `count` distinct prompts: {"prompt": chat messages, "constraints": [{"kind", "value"}, …]}."""
    rng, seen = random.Random(f"{seed} {held_out}"), set()
    by_size = {size: [c for c in combinations_of_kinds(0, held_out=held_out) if len(c) == size] for size in SIZES}
    while len(seen) < count:
        kinds = list(rng.choice(by_size[rng.choice(SIZES)]))
        rng.shuffle(kinds)
        asked = [{"kind": kind, "value": rng.choice(KINDS[kind].values)} for kind in kinds]
        text = " ".join(
            [f"Write a short text about {rng.choice(TOPICS)}.", *(KINDS[c["kind"]].ask(c["value"]) for c in asked)]
        )
        if text not in seen:
            seen.add(text)
            yield {"prompt": [{"role": "user", "content": text}], "constraints": asked}


def _agree(kinds: Sequence[str]) -> bool:
    about = [KINDS[kind].about for kind in kinds]
    return len(set(about)) == len(about) and not {"items", "question"} <= set(kinds)


def holds(completion: str, constraint: dict[str, Any]) -> bool:
    """Whether a completion satisfies a constraint of its prompt, {"kind": …, "value": …}."""
    return KINDS[constraint["kind"]].holds(completion, constraint["value"])


def score(completions: Sequence[str], constraints: Sequence[list[dict[str, Any]]], **_: Any) -> list[float]:
    """Return the share of each prompt's constraints that its completion satisfies, from 0 to 1.

    The reward of the recipe, `vbon … --reward constraints.py:score`; `constraints` is a column of the prompt file.
    """
    return [
        sum(holds(completion, one) for one in asked) / len(asked)
        for completion, asked in zip(completions, constraints, strict=True)
    ]
