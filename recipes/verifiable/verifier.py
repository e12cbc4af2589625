"""The reward: 1 for the right answer, 0 for any other. `vbon … --reward verifier.py:score`."""

from collections.abc import Sequence


def score(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Compare each completion with the dataset's column `answer`."""
    return [float(written.strip() == right) for written, right in zip(completions, answer, strict=True)]
