"""`--declare KEY=VALUE`: what the user knows of how an imported pool was made. The rest stays unknown."""

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
    """What was declared; None where it was not."""

    temperature: float | None = None
    max_new_tokens: int | None = None
    stop: tuple[int, ...] | None = None
    model: str | None = None
    tokenizer: str | None = None
    reward: str | None = None
    columns: tuple[str, ...] = ()
    """Columns of the file that travel with the prompt to the reward."""
    text: str = TEXT_RULES[0]
    """What the column `text` holds."""

    def load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer declared, or the declared model's."""
        name = self.tokenizer or self.model
        return None if name is None else load.load_tokenizer(name)

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase | None) -> Fingerprint:
        """Declared files are hashed as they are now. Raises VbonError for a model or reward that does not load."""
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
    """Read KEY=VALUE entries. Raises VbonError naming the one that will not do."""
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
