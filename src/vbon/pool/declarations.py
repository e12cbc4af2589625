"""`--declare KEY=VALUE`: the settings by which an imported pool was made.

A setting that is not declared stays unknown.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from vbon.artifacts.fingerprint import Fingerprint
from vbon.errors import VbonError
from vbon.models import load
from vbon.rewards import load_reward

TEXT_RULES = ("prompt+completion", "completion")


@dataclass(frozen=True)
class Declarations:
    """Declared settings; None where a setting was not declared."""

    temperature: float | None = None
    max_new_tokens: int | None = None
    stop: tuple[int, ...] | None = None
    model: str | None = None
    tokenizer: str | None = None
    reward: str | None = None
    columns: tuple[str, ...] = ()
    """Columns of the file that are kept and passed to the reward."""
    text: str = TEXT_RULES[0]
    """Content of the column `text`, one of `TEXT_RULES`."""

    def load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Load the declared tokenizer, or that of the declared model; None where neither is declared."""
        name = self.tokenizer or self.model
        return None if name is None else load.load_tokenizer(name)

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase | None) -> Fingerprint:
        """Compute the fingerprint of the declared settings; files are hashed as they are now.

        Raises:
            VbonError: a declared model or reward cannot be loaded.
        """
        return Fingerprint(
            model=self.model and load.model_fingerprint(self.model),
            tokenizer=None if tokenizer is None else load.tokenizer_fingerprint(tokenizer),
            chat_template=None if tokenizer is None else load.chat_template_fingerprint(tokenizer),
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            reward=self.reward and load_reward(self.reward).fingerprint,
        )


def parse_declarations(entries: Sequence[str]) -> Declarations:
    """Parse KEY=VALUE entries.

    Raises:
        VbonError: an entry has no such form, an unknown key, a repeated key or a wrong value; the message names it.
    """
    values: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or key not in _PARSERS:
            raise VbonError(f"--declare {entry}: not KEY=VALUE with KEY one of {', '.join(_PARSERS)}")
        if key in values:
            raise VbonError(f"--declare {entry}: {key} is declared twice")
        try:
            values[key] = _PARSERS[key](value)
        except ValueError as error:
            raise VbonError(f"--declare {entry}: must be {error}") from None
    return Declarations(**values)


def _temperature(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError("a number greater than 0")
    return number


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value[:12]) < 2**31):
        raise ValueError("a whole number of at least 1")
    return int(value)


def _token_ids(value: str) -> tuple[int, ...]:
    parts = value.split(",")
    if not all(part.isascii() and part.isdigit() and int(part[:12]) < 2**31 for part in parts):
        raise ValueError("token ids with commas between them, as in stop=0 or stop=0,198")
    return tuple(sorted({int(part) for part in parts}))


def _names(value: str) -> tuple[str, ...]:
    return tuple(_text(name) for name in value.split(","))


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("something, not empty")
    return value


def _text_rule(value: str) -> str:
    if value not in TEXT_RULES:
        raise ValueError(f"one of {', '.join(TEXT_RULES)}")
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "temperature": _temperature,
    "max_new_tokens": _count,
    "stop": _token_ids,
    "model": _text,
    "tokenizer": _text,
    "reward": _text,
    "columns": _names,
    "text": _text_rule,
}
