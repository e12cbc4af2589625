"""The language of pages, messages, help and docstrings: short lines, and none of the phrases to decode."""

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 120
COUNTED = "nats|samples|completions|tokens|rows|prompts|rewards|rollouts|threads?"
UNIT = "token|prompt|run|iteration|call|sample|step|row|shard|stage|seed|completion|process"
PHRASES = {
    r"refused by name": "an error that names the setting",
    r"(not|were) at hand": "not tested on GPUs",
    r"rid(e|es|ing|den) (along|in|with)\b": "is stored with, is passed to",
    r"columns? travels?": "are passed to the reward",
    r"go(es|ing)? on\b(?! (a|the|with)\b)": "continues, resumes",
    r"(first|past|of|by) so many": "this many",
    r"would buy": "gains",
    r"falls? short": "is lower than, limitations",
    r"spends? KL": "uses KL",
    r"told apart": "distinguished",
    r"by heart": "memorises",
    r"held (against|beside)": "compared with",
    r"(table|figure|line|estimate) beside it": "next to it",
    r"what (best-of-n|a fault|a bad input) leaves": "what is preserved after",
    r"\breads (about )?[0-9]": "is estimated as",
    r"\bdiary\b": "metrics log",
    r"\bmends?\b": "fix",
    rf"(\d|[MKN]|one|two|four|of|in|,|nats|=) ({COUNTED}) an? ({UNIT})\b": "per",
    rf"\bnats an? ({UNIT})\b": "per",
    rf"\ba (section|{UNIT}) a ({UNIT}|line)\b": "one for each",
}
UNEDITED = {"experiments.md", "yardsticks.md", "sweep-demo.md", "sweep-lab.md", "performance.md", "reliability.md"}
"""Working notes of measurements, where a number in every line is the point."""


def pages() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")]
    return sorted(path for path in found if "_build" not in path.parts)


def user_pages() -> list[Path]:
    return [path for path in pages() if path.name not in UNEDITED | {"CHANGELOG.md"} and "results" not in path.parts]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_links(line: str) -> str:
    """The line without the addresses of its links, which cannot be broken."""
    return re.sub(r"\]\([^)]*\)|https?://\S+", "", line)


def long_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(without_links(line)) > WIDTH and not line.startswith("|")]


@pytest.mark.parametrize("page", pages(), ids=name)
def test_lines_outside_tables_are_short(page: Path):
    assert long_lines(page.read_text(encoding="utf-8")) == []


def phrases_in(text: str) -> list[str]:
    """Each phrase that occurs, with its surroundings and what to write instead."""
    text = " ".join(text.split())
    return [
        f"…{text[max(0, found.start() - 30) : found.end() + 20]}…: write: {better}"
        for phrase, better in PHRASES.items()
        for found in re.finditer(phrase, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", pages(), ids=name)
def test_pages_avoid_phrases_that_readers_must_decode(page: Path):
    assert phrases_in(page.read_text(encoding="utf-8")) == []


def strings(source: str) -> str:
    """Docstrings, help, messages and other text of a Python file, without its code and comments."""
    nodes = ast.walk(ast.parse(source))
    found = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(text for text in found if " " in text)


SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])
TEMPLATES = sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in (".j2", ".html", ".txt"))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_docstrings_help_and_messages_avoid_them_too(path: Path):
    assert phrases_in(strings(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=name)
def test_templates_avoid_them_too(path: Path):
    assert phrases_in(path.read_text(encoding="utf-8")) == []


def prose(text: str) -> str:
    """The text of a page without code, mathematics, tables, links' addresses and comments."""
    text = re.sub(r"```.*?```|~~~.*?~~~|<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|https?://\S+|^\|.*$|^ {4,}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^\s*\d+\. |^#.*$", "", text, flags=re.MULTILINE)


def numbers_in_100_words(text: str) -> float:
    """Count the numbers in 100 words of prose, without names such as best-of-8, GPT-2, FSDP2 and arXiv ids."""
    words = [word for word in re.findall(r"\S+", prose(text)) if re.search(r"\w", word)]
    numbers = [word for word in words if re.match(r"[−(±≥≤<>~×]*\d", word)]
    return 100 * len(numbers) / max(len(words), 1)


def test_pages_for_users_are_prose_and_not_numbers():
    measured = {name(path): numbers_in_100_words(path.read_text(encoding="utf-8")) for path in user_pages()}
    assert {page: round(value, 1) for page, value in measured.items() if value > 10} == {}
    assert median(measured.values()) < 5


def test_nothing_speaks_of_a_machine_that_is_not_the_readers():
    words = re.compile(r"\blease\b|\bleased\b|lent machine|time that is left to", re.IGNORECASE)
    texts = {name(path): path.read_text(encoding="utf-8") for path in [*pages(), *SOURCES]}
    assert [page for page, text in texts.items() if words.search(text)] == []


@pytest.mark.parametrize(
    "text", ["it is refused by name", "the run goes on", "200 samples a prompt", "a section a stage", "it reads 0.01"]
)
def test_a_phrase_is_found(text: str):
    assert phrases_in(text)


def test_a_long_line_is_found_and_a_long_link_is_not():
    assert long_lines("x" * 121) and not long_lines(f"[a page](https://example.org/{'x' * 120})")


def test_numbers_are_counted_in_prose_only():
    assert numbers_in_100_words("Two words, `3` and 4 of $5$.\n\n| 6 | 7 |\n") == pytest.approx(100 / 5)
