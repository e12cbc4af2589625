"""Prompts: a string or a list of chat messages, with the columns that are passed to the reward."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vbon.errors import VbonError
from vbon.pool.records import Record, first_line, is_known_format, read_records

Messages = list[dict[str, Any]]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+(:[\w.-]+)?|:[\w.-]+)")
_RESERVED_COLUMNS = ("prompts", "completions")  # the reward's own arguments


@dataclass(frozen=True)
class Prompt:
    """A prompt and its columns.

    `row` is its row in the file, for messages only. `absent` names columns that other prompts of its file or pool have:
    a reward gets them as None, whatever prompts it is called with.
    """

    prompt_id: str
    prompt: str | Messages
    columns: dict[str, Any]
    row: int | None = field(default=None, compare=False)
    absent: tuple[str, ...] = field(default=(), compare=False)
    token_ids: tuple[int, ...] | None = field(default=None, compare=False)
    """The ids it was sampled with; None where they are not known."""

    @property
    def is_chat(self) -> bool:
        """Return True if the prompt is a list of chat messages."""
        return not isinstance(self.prompt, str)


def make_prompt(prompt: str | Messages, columns: Mapping[str, Any] | None = None, *, row: int | None = None) -> Prompt:
    """Make a Prompt with its id: SHA-256 of the canonical JSON of prompt and columns, 16 hexadecimal digits.

    Raises:
        ValueError, TypeError: a value cannot be represented in JSON.
    """
    columns = dict(columns or {})
    text = canonical_json({"prompt": prompt, "columns": columns})
    return Prompt(hashlib.sha256(text.encode()).hexdigest()[:16], prompt, columns, row)


def canonical_json(value: Any) -> str:
    """Serialise to JSON with sorted keys, no spaces and non-ASCII characters kept.

    Raises:
        ValueError, TypeError: a value cannot be represented in JSON.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def read_prompts(
    path: str | Path,
    *,
    column: str = "prompt",
    columns: Sequence[str] = (),
    limit: int | None = None,
    keep_repeated: bool = False,
) -> list[Prompt]:
    """Read prompts from a file or a hub dataset (`id` or `id:split`, `datasets` extra).

    Args:
        path: the file or hub id.
        column: name of the column that holds the prompt.
        columns: the other columns that become `Prompt.columns`; empty for all of them.
        limit: most prompts to read.
        keep_repeated: keep a prompt that is repeated with the same columns as often as it is there; otherwise it is
            kept once, with a warning.

    Returns:
        The prompts, in the order of the file.

    Raises:
        VbonError: the file or a row cannot be read; the message names file and line.
    """
    prompts: list[Prompt] = []
    known: set[str] = set()
    repeated = 0
    for number, record in _records(str(path), column):
        where = f"{path}:{number}"
        prompt = parse_prompt(_chosen(record, column, columns, where), column, where, row=number)
        if prompt.prompt_id in known and not keep_repeated:
            repeated += 1
            continue
        known.add(prompt.prompt_id)
        prompts.append(prompt)
        if limit is not None and len(prompts) >= limit:
            break
    if not prompts:
        raise VbonError(f"{path}: holds no prompts")
    if repeated:
        warnings.warn(f"{path}: {repeated} repeated prompts dropped, {len(prompts)} kept", stacklevel=2)
    return with_absent_columns(prompts)


def _chosen(record: Mapping[str, Any], column: str, columns: Sequence[str], where: str) -> Mapping[str, Any]:
    missing = next((name for name in columns if name not in record), None)
    if missing is not None:
        raise VbonError(f"{where}: no column {missing!r}, which --columns names (columns here: {', '.join(record)})")
    return {name: value for name, value in record.items() if name in (column, *columns)} if columns else record


def with_absent_columns(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Tell each prompt which columns it lacks of all that these prompts have, the whole of a file or pool."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return [replace(prompt, absent=tuple(name for name in names if name not in prompt.columns)) for prompt in prompts]


def parse_prompt(record: Mapping[str, Any], column: str, where: str, *, row: int | None = None) -> Prompt:
    """Parse the prompt in `record[column]`, and keep every other column.

    Args:
        record: the row, by column.
        column: name of the column that holds the prompt.
        where: file and line of the row, with which error messages begin.
        row: number of the row in its file.

    Returns:
        The prompt.

    Raises:
        VbonError: the column is missing, or a value cannot be used.
    """
    if column not in record:
        raise VbonError(f"{where}: no column {column!r} (columns here: {', '.join(map(str, record)) or 'none'})")
    columns = {name: value for name, value in record.items() if name != column}
    for name in _RESERVED_COLUMNS:
        if name in columns:
            raise VbonError(f"{where}: column {name!r} is the name of a reward argument; rename it")
    prompt = check_prompt(record[column], f"{where}: column {column!r}")
    try:
        return make_prompt(prompt, columns, row=row)
    except (TypeError, ValueError, RecursionError) as error:
        column = next((name for name, value in columns.items() if not _is_json(value)), column)
        raise VbonError(
            f"{where}: column {column!r} holds a value that JSON cannot ({first_line(error)}); leave the column "
            "out, as --columns of collect and generate does"
        ) from None


def _is_json(value: Any) -> bool:
    try:
        canonical_json(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def check_prompt(value: Any, where: str) -> str | Messages:
    """Return `value` if it is a string or a non-empty list of {"role", "content"} messages.

    Raises:
        VbonError: it is neither; the message begins with `where`.
    """
    if isinstance(value, str):
        return _chat_in_text(value) or value
    if not isinstance(value, list) or not value:
        raise VbonError(f"{where} must be a string or a list of chat messages, not {_type_name(value)}")
    return [_check_message(message, f"{where} message {index}") for index, message in enumerate(value, start=1)]


def _chat_in_text(text: str) -> Messages | None:
    """The messages that a text spells as JSON, as a cell of a CSV file must; None for any other text."""
    if not (text.lstrip().startswith("[{") and text.rstrip().endswith("}]")):
        return None
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = all(isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one for one in messages)
    return [_check_message(message, "a chat in a text") for message in messages] if whole else None


def reward_columns(prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
    """Arrange the columns of the prompts as lists of equal length, the reward's keyword arguments.

    An entry is None where a prompt lacks the column.
    """
    names = dict.fromkeys(name for prompt in prompts for name in (*prompt.columns, *prompt.absent))
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in names}


def shorten(prompt: str | Messages, length: int = 60) -> str:
    """Quote a prompt on one line of at most `length` characters, for messages."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise VbonError(f'{where} must be an object {{"role", "content"}}, not {_type_name(message)}')
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise VbonError(f"{where} needs a string {key!r}")
    # Parquet gives every message every key: an absent one arrives as None.
    return {key: value for key, value in message.items() if value is not None}


def _records(path: str, column: str) -> Iterator[Record]:
    if not Path(path).exists() and not is_known_format(path) and _HUB_ID.fullmatch(path):
        return enumerate(_hub_rows(path), start=1)
    return read_records(Path(path), text_column=column)


def _hub_rows(spec: str) -> Iterable[dict[str, Any]]:
    name, _, split = spec.partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise VbonError(
            f"{spec}: no such file; to read it as a hub dataset, in vbon's clone run: pip install -e '.[datasets]'"
        ) from None
    try:
        return load_dataset(name, split=split or "train")
    except Exception as error:  # the hub client raises a wide and changing family
        reason = first_line(error.__cause__ or error)
        raise VbonError(f"{spec}: neither a file nor a hub dataset that loads ({reason})") from None


def _type_name(value: Any) -> str:
    return "an empty list" if value == [] else "null" if value is None else type(value).__name__
