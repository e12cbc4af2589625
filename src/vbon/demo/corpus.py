"""The demo's own text: short opinions on things and films, from a grammar; every draw is a function of the seed."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

THINGS = "kettle lamp backpack blender jacket keyboard speaker tent notebook bicycle film novel concert game".split()  # noqa: SIM905
PARTS = "handle lid strap sound colour price plot ending music finish battery screen fabric design".split()  # noqa: SIM905
GOOD = "brilliant charming clever fun gorgeous great lovely memorable smart splendid warm".split()  # noqa: SIM905
BAD = "bland boring cheap clumsy dreadful dull weak lazy mediocre messy shallow slow terrible".split()  # noqa: SIM905
PLAIN = "big small round heavy light grey blue plain modern simple".split()  # noqa: SIM905
PRAISE = ("loved", "enjoyed")
SCORN = ("hated", "wasted")
SAW = "opened borrowed tried repaired returned packed reviewed".split()  # noqa: SIM905
ADVERBS = "fairly rather so very still surprisingly".split()  # noqa: SIM905
PEOPLE = ("My sister", "A neighbour", "The shop", "My uncle", "Our teacher", "The whole team")
TIMES = ("last week", "for the summer", "on the train", "after a month", "at work", "before the holidays")
MOODS = (0.15, 0.35, 0.5, 0.65, 0.85)


class Opinion(NamedTuple):
    """1–4 sentences, and the stars, 1 to 5, that their writer gave: the place of the writer's mood in MOODS."""

    text: str
    stars: int


def opinions(seed: int) -> Iterator[Opinion]:
    """An endless stream of opinions, each with a mood of its own."""
    rng = random.Random(seed)
    while True:
        mood = rng.choice(MOODS)
        writer = _Writer(rng, mood)
        yield Opinion(" ".join(writer.sentence() for _ in range(rng.randint(1, 4))), MOODS.index(mood) + 1)


def distinct_prompts(seed: int, count: int) -> list[str]:
    """`count` distinct beginnings of opinions, 2–6 words each."""
    rng = random.Random(seed)
    cut = (" ".join(one.text.split()[: rng.randint(2, 6)]) for one in opinions(seed))
    seen: set[str] = set()
    return list(islice((p for p in cut if not (p in seen or seen.add(p))), count))  # type: ignore[func-returns-value]


class _Writer:
    """Sentences in one mood: the chance, in [0, 1], that a word of opinion is a kind one."""

    def __init__(self, rng: random.Random, mood: float):
        self._rng = rng
        self._mood = mood

    def sentence(self) -> str:
        thing, part, other = self._pick(THINGS), self._pick(PARTS), self._pick(PARTS)
        forms = (
            lambda: f"This {thing} is {self._pick(ADVERBS)} {self._adjective()}.",
            lambda: f"A {self._adjective()} {thing} with a {self._adjective()} {part}.",
            lambda: f"{self._pick(PEOPLE)} {self._verb()} the {thing} {self._pick(TIMES)}.",
            lambda: f"I {self._verb()} the {part}, though the {other} seems {self._adjective()}.",
            lambda: f"For a {thing}, the {part} is {self._adjective()} and {self._adjective()}.",
            lambda: f"{self._pick(PEOPLE)} calls it {self._adjective()}, but the {part} is {self._adjective()}.",
            lambda: f"Such a {self._adjective()} {part}!",
        )
        return self._pick(forms)()

    def _adjective(self) -> str:
        return self._pick(PLAIN) if self._rng.random() < 0.35 else self._opinion(GOOD, BAD)

    def _verb(self) -> str:
        return self._pick(SAW) if self._rng.random() < 0.4 else self._opinion(PRAISE, SCORN)

    def _opinion(self, kind, unkind):
        return self._pick(kind if self._rng.random() < self._mood else unkind)

    def _pick(self, choices):
        return self._rng.choice(choices)
