"""Review files: read, clean, hold out by hash, and cut prompts from their beginnings. Text stays in --out."""

import gzip
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

_BREAK = re.compile(r"(\s*<br\s*/?>\s*)+")
_SPACES = re.compile(r"\s+")
_BROKEN_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # half a character: a byte-level token may end inside one


@dataclass(frozen=True)
class Review:
    """A cleaned review; label 1 is positive, 0 negative."""

    text: str
    label: int


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
            yield from (Review(clean(line), label) for line in _lines(part, encoding="latin-1"))
        return
    for number, line in enumerate(_lines(path, encoding="utf-8"), start=1):
        yield _parse(line, f"{path}:{number}")


def _lines(path: Path, encoding: str) -> list[str]:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode(encoding).splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise VbonError(f"--data {path}: cannot be read ({error})") from None


def _parse(line: str, where: str) -> Review:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise VbonError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or row.get("label") not in (0, 1):
        raise VbonError(f"{where}: needs a string `text` and a `label` of 0 or 1")
    return Review(clean(row["text"]), int(row["label"]))
