"""Papers with one-sentence summaries: read, held out by hash of their id, and cut to prompts. Text stays in --out."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.errors import VbonError

CUE = "\nTL;DR:"


@dataclass(frozen=True)
class Paper:
    """An abstract cut to its first words, and its summaries."""

    paper_id: str
    abstract: str
    summaries: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return self.abstract + CUE


def read_papers(path: Path, words: int) -> list[Paper]:
    """Every paper of `train.jsonl` in a folder, or of one file, in hash order; of a repeated id the last.

    Rows: `paper_id`, `source` (sentences of the abstract), `target` (summaries). Raises VbonError, the file and line.
    """
    file = path / "train.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"--data {file}: cannot be read ({error})") from None
    papers = {p.paper_id: p for p in _parse(lines, file, words)}
    if not papers:
        raise VbonError(f"--data {file}: holds no papers")
    return sorted(papers.values(), key=lambda paper: share_of(paper.paper_id))


def share_of(paper_id: str) -> float:
    """A number in [0, 1) that is a hash of the id: a paper is on the same side of every split."""
    return int(hashlib.sha256(paper_id.encode()).hexdigest()[:12], 16) / 16**12


def split(papers: Sequence[Paper], held_out: float) -> tuple[list[Paper], list[Paper]]:
    """(to train models on, held out): prompts come from the second."""
    kept = [share_of(paper.paper_id) < held_out for paper in papers]
    return (
        [paper for paper, out in zip(papers, kept, strict=True) if not out],
        [paper for paper, out in zip(papers, kept, strict=True) if out],
    )


def write_prompts(path: Path, papers: Sequence[Paper]) -> None:
    """JSONL with the columns `prompt` and `summary`, which the reward reads."""
    rows = ({"prompt": paper.prompt, "summary": paper.summaries[0]} for paper in papers)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _parse(lines: Sequence[str], file: Path, words: int) -> Iterator[Paper]:
    for number, line in enumerate(lines, start=1):
        where = f"--data {file}:{number}"
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise VbonError(f"{where}: not JSON ({error.msg})") from None
        if not isinstance(row, dict) or not isinstance(row.get("paper_id"), str):
            raise VbonError(f"{where}: needs a string `paper_id`")
        for key in ("source", "target"):
            if not (isinstance(row.get(key), list) and row[key] and all(isinstance(one, str) for one in row[key])):
                raise VbonError(f"{where}: needs `{key}`, a list of strings")
        abstract = " ".join(" ".join(row["source"]).split()[:words])
        yield Paper(row["paper_id"], abstract, tuple(" ".join(one.split()) for one in row["target"]))
