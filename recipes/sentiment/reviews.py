"""Review files: read, clean, hold out by hash, and cut prompts from their beginnings. Text stays in --out."""

import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from vbon.errors import VbonError
from vbon.pool.records import read_records
from vbon.recipes.small_models import Review

_BREAK = re.compile(r"(\s*<br\s*/?>\s*)+")
_SPACES = re.compile(r"\s+")
_BROKEN_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # half a character: a byte-level token may end inside one


@dataclass(frozen=True)
class Split:
    """Reviews to train on, and those that no model sees: prompts and measurements come from these."""

    train: list[Review]
    held_out: list[Review]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over every text and label, to tell one review file from another."""
        digest = hashlib.sha256()
        for review in (*self.train, *self.held_out):
            digest.update(f"{review.label}{review.text}\0".encode())
        return digest.hexdigest()[:16]


def read_split(path: Path, held_out: float) -> Split:
    """All reviews of a file in hash order, a share of them held out; a text that stands there twice counts once.

    JSONL (also .gz) with `text` and `label` (1 or 0), or FILE.pos, a review a line, with its FILE.neg beside it.
    Raises VbonError naming the file and line.
    """
    unique = {review.text: review for review in _read(path) if review.text}
    if not unique:
        raise VbonError(f"{path}: holds no reviews")
    ordered = sorted(unique.values(), key=lambda review: share_of(review.text))
    count = sum(share_of(review.text) < held_out for review in ordered)
    return Split(train=ordered[count:], held_out=ordered[:count])


def share_of(text: str) -> float:
    """A number in [0, 1) that is a hash of the text: the same text is on the same side of every split."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def clean(text: str) -> str:
    """Line breaks in HTML and runs of blanks become one space; entities the characters that they name."""
    return _SPACES.sub(" ", html.unescape(_BREAK.sub(" ", text))).strip()


def cut_prompts(tokenizer: PreTrainedTokenizerBase, reviews: Iterable[Review], fewest: int, most: int) -> Iterator[str]:
    """The first `fewest` to `most` tokens of each review, the number by the review's hash; each prompt once."""
    seen: set[str] = set()
    for review in reviews:
        count = fewest + int(hashlib.sha256(review.text.encode()).hexdigest()[12:20], 16) % (most - fewest + 1)
        prompt = str(tokenizer.decode(tokenizer(review.text).input_ids[:count]))
        if _BROKEN_CHARACTER not in prompt and prompt not in seen:
            seen.add(prompt)
            yield prompt


def split_prompts(prompts: Iterable[str], sizes: dict[str, int]) -> dict[str, list[str]]:
    """Disjoint sets of prompts by the prompts' own hash, in the order of `sizes`. Raises VbonError, too few prompts."""
    ordered = sorted(prompts, key=share_of)
    if len(ordered) < sum(sizes.values()):
        raise VbonError(
            f"{len(ordered)} distinct prompts, but the preset asks for {sum(sizes.values())}: raise reviews: held_out"
        )
    left = iter(ordered)
    return {name: [next(left) for _ in range(size)] for name, size in sizes.items()}


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """JSONL with a column `prompt`."""
    path.write_text("".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts), "utf-8")


def _read(path: Path) -> Iterator[Review]:
    if path.suffix == ".pos":
        for part, label in ((path, 1), (path.with_suffix(".neg"), 0)):
            yield from (Review(clean(line), label) for line in _lines(part))
        return
    for number, record in read_records(path):
        yield _parse(record, f"{path}:{number}")


def _lines(path: Path) -> list[str]:
    try:
        # Only "\n" ends a line: Latin-1 has other characters that Python counts among line ends.
        return path.read_bytes().decode("latin-1").split("\n")
    except OSError as error:
        raise VbonError(f"--reviews {path}: cannot be read ({error.strerror})") from None


def _parse(row: dict[str, Any], where: str) -> Review:
    if not isinstance(row.get("text"), str) or row.get("label") not in (0, 1):
        raise VbonError(f"{where}: needs a string `text` and a `label` of 0 or 1")
    return Review(clean(row["text"]), int(row["label"]))
