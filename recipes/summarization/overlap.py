"""What the small preset's reward model is taught by, and its judge: unigram F1 with the paper's own summary (ROUGE-1,
Lin 2004).
"""

import re
from collections import Counter

_WORD = re.compile(r"[a-z0-9]+")


def score(completions: list[str], summary: list[str], **_: object) -> list[float]:
    """2·overlap/(words of both), words counted with their multiplicity; 0 where either has none. Ties are common."""
    return [f1(one, other) for one, other in zip(completions, summary, strict=True)]


def f1(completion: str, summary: str) -> float:
    a, b = (Counter(_WORD.findall(text.lower())) for text in (completion, summary))
    both = a.total() + b.total()
    return 2 * (a & b).total() / both if both else 0.0
