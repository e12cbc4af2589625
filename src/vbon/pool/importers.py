"""Import of pools that were made elsewhere: scored samples in JSONL, JSON or Parquet.

A file has a row per sample or a row per prompt.

Row per sample: "prompt", "reward", and optionally "completion" | "response" | "text" and "completion_ids" |
"response_ids". Row per prompt: "prompt", "rewards" | "ref_rewards", and optionally, as lists, "completions" |
"responses" | "ref_completions" and "completion_ids" | "response_ids".

`text` is the prompt followed by its completion in one string, as the published code of the paper writes it; `--declare
text=completion` says that it is the completion alone. Without completions the pool holds rewards only, which serve for
ranking but not for training on the samples. Rows of one prompt need not be adjacent. Other columns are dropped, with a
warning, unless `--declare columns=NAME,…` keeps them.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from vbon.config.pool import ImportConfig
from vbon.config.secrets import cut_urls
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.prompts import completion_texts, encode
from vbon.pool.declarations import Declarations, parse_declarations
from vbon.pool.manifest import Manifest
from vbon.pool.prompts import Messages, Prompt, parse_prompt
from vbon.pool.records import read_records
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids, write_whole
from vbon.version import __version__

_TEXT = ("completion", "response", "text")
_TEXTS = ("completions", "responses", "ref_completions")
_IDS = ("completion_ids", "response_ids")
_REWARDS = ("rewards", "ref_rewards")
_KNOWN = {"prompt", "reward", *_TEXT, *_TEXTS, *_IDS, *_REWARDS}
_OTHER_NAMES = {"instruction": "prompt", "generations": "responses", "ratings": "rewards", "scores": "rewards"}
_MAX_TOKEN_ID = 2**31 - 1


class Sample(NamedTuple):
    """A scored completion as it was in the file."""

    reward: float
    completion: str | None
    completion_ids: list[int] | None
    where: str = ""
    """File and line."""


@dataclass
class _Rows:
    by_prompt: dict[str, list[Sample]] = field(default_factory=dict)
    prompts: dict[str, Prompt] = field(default_factory=dict)
    dropped: dict[str, None] = field(default_factory=dict)


def import_pool(config: ImportConfig) -> Path:
    """Make a pool of `config.file` at `config.out`, and return its folder; after an error there is no pool.

    Raises:
        VbonError: a row or a declaration cannot be used; the message names it.
    """
    declared = parse_declarations(config.declare)
    out = Path(config.out)
    _require_absent(out)
    rows = _read(Path(config.file), declared)
    tokenizer = declared.load_tokenizer()
    stop = declared.stop or ((tokenizer.eos_token_id,) if tokenizer and tokenizer.eos_token_id is not None else None)
    _hold_against_declarations(rows, declared, tokenizer, config.file)
    samples = [_prompt_samples(rows.prompts[key], rows.by_prompt[key], stop, tokenizer) for key in rows.prompts]
    if rows.dropped:
        names = ", ".join(rows.dropped)
        warnings.warn(f"{config.file}: columns not kept: {names} (to keep: --declare columns=NAME,…)", stacklevel=2)
    write_whole(out, _manifest(config, declared, tokenizer, samples), samples)
    return out


def read_sample_rows(record: Mapping[str, Any], prompt: str | Messages, text_rule: str, where: str) -> list[Sample]:
    """Read the samples of one row, in either form.

    Args:
        record: the row, by column.
        prompt: the prompt of the row, as parsed.
        text_rule: content of the column `text`, one of `declarations.TEXT_RULES`.
        where: file and line of the row, with which error messages begin.

    Returns:
        The samples: one, or all of a prompt.

    Raises:
        VbonError: the row lacks a column, or a value has a wrong type.
    """
    per_prompt = _one_of(record, _REWARDS, where)
    if (per_prompt is None) == (record.get("reward") is None):
        columns = ", ".join(map(str, record))
        raise VbonError(
            f"{where}: needs 'reward' (one row per sample) or 'rewards' (one row per prompt); columns: {columns}"
        )
    if per_prompt is None:
        name, ids_name = _one_of(record, _TEXT, where), _one_of(record, _IDS, where)
        text = None if name is None else _completion(record[name], name, prompt, text_rule, where)
        ids = None if ids_name is None else _token_ids(record[ids_name], where)
        return [Sample(_reward(record["reward"], where), text, ids, where)]
    rewards = _list(record[per_prompt], per_prompt, where)
    texts = _aligned(record, _TEXTS, len(rewards), where)
    ids_lists = _aligned(record, _IDS, len(rewards), where)
    return [
        Sample(
            _reward(reward, f"{where} item {index}"),
            None if text is None else _completion(text, "completion", prompt, text_rule, f"{where} item {index}"),
            None if ids is None else _token_ids(ids, f"{where} item {index}"),
            f"{where} item {index}",
        )
        for index, (reward, text, ids) in enumerate(zip(rewards, texts, ids_lists, strict=True), start=1)
    ]


def _read(path: Path, declared: Declarations) -> _Rows:
    rows = _Rows()
    for number, row in read_records(path):
        where, record = f"{path}:{number}", _with_known_names(row)
        if "prompt" not in record:
            raise VbonError(f"{where}: no column 'prompt' (columns here: {', '.join(map(str, row)) or 'none'})")
        missing = [name for name in declared.columns if name not in record]
        if missing:
            raise VbonError(f"{where}: no column {missing[0]!r}, declared in columns")
        kept = {name: value for name, value in record.items() if name == "prompt" or name in declared.columns}
        prompt = parse_prompt(kept, "prompt", where, row=number)
        samples = read_sample_rows(record, prompt.prompt, declared.text, where)
        rows.prompts.setdefault(prompt.prompt_id, prompt)
        rows.by_prompt.setdefault(prompt.prompt_id, []).extend(samples)
        rows.dropped |= dict.fromkeys(name for name in record if name not in _KNOWN and name not in kept)
    if not rows.prompts:
        raise VbonError(f"{path}: holds no samples")
    return rows


def _with_known_names(row: dict[str, Any]) -> dict[str, Any]:
    """The row with columns of distilabel, and `scores`, under the names of this module, where those are not taken."""
    names = {name: known for name, known in _OTHER_NAMES.items() if known not in row}
    return {names.get(name, name): value for name, value in row.items()}


def _hold_against_declarations(
    rows: _Rows, declared: Declarations, tokenizer: PreTrainedTokenizerBase | None, file: str
) -> None:
    """Cut what stands behind stop tokens, and raise VbonError for ids that contradict what is declared of them.

    Without a declared stop, or a model that tells it, nothing is known of how completions end.
    """
    stop = declared.stop
    if stop is None and declared.model is not None and tokenizer is not None:
        stop = load.configured_stop_token_ids(declared.model, load.load_config(declared.model), tokenizer)
    if not stop:
        return
    pad = None if tokenizer is None else tokenizer.pad_token_id
    num_cut = 0
    for samples in rows.by_prompt.values():
        for index, sample in enumerate(samples):
            if sample.completion_ids is not None:
                ids = ended_ids(sample.completion_ids, stop, pad, declared.max_new_tokens, sample.where)
                num_cut += len(ids) < len(sample.completion_ids)
                samples[index] = sample._replace(completion_ids=ids)
    if num_cut:
        warnings.warn(f"{file}: the padding behind the stop token of {num_cut} completions was cut off", stacklevel=3)


def ended_ids(ids: list[int], stop: Sequence[int], pad: int | None, most: int | None, where: str) -> list[int]:
    """Return a completion's ids up to its stop token.

    Args:
        ids: token ids as they are in the file.
        stop: token ids that end a completion.
        pad: token id of padding, if known.
        most: max_new_tokens, if declared.
        where: file and line, with which error messages begin.

    Returns:
        The ids with the stop token, if there is one, and without what follows it.

    Raises:
        VbonError: tokens follow the end; or the completion is longer than `most`, or shorter and without its end.
    """
    end = next((place for place, token in enumerate(ids) if token in stop), None)
    kept = ids if end is None else ids[: end + 1]
    if any(token != pad and token not in stop for token in ids[len(kept) :]):
        raise VbonError(f"{where}: tokens follow the stop token {kept[-1]}; cut them off, or declare the real stop")
    if most is not None and len(kept) > most:
        raise VbonError(f"{where}: {len(kept)} token ids, but max_new_tokens={most} is declared")
    # One padding token at the end may have been sampled: a model gives it a small probability, as it does any other.
    is_padded = pad is not None and ids[-2:] == [pad, pad]
    if end is None and (not ids or is_padded or (most is not None and len(kept) < most)):
        limit = "" if most is None else f" of max_new_tokens={most}"
        raise VbonError(
            f"{where}: {len(kept)} token ids{limit} without a stop token at their end: keep the stop "
            f"token among the ids, or declare the real stop ({','.join(map(str, stop))} now)"
        )
    return kept


def _prompt_samples(
    prompt: Prompt, samples: list[Sample], stop: Sequence[int] | None, tokenizer: PreTrainedTokenizerBase | None
) -> PromptSamples:
    prompt_ids = None if tokenizer is None else _encoded(tokenizer, prompt)
    return PromptSamples(
        prompt=prompt if prompt_ids is None else replace(prompt, token_ids=tuple(prompt_ids)),
        completions=[_text_of(sample, tokenizer, prompt_ids) for sample in samples],
        completion_ids=[sample.completion_ids for sample in samples],
        rewards=np.array([sample.reward for sample in samples], np.float64),
        ref_logprobs=[None] * len(samples),
        finished=[_is_finished(sample.completion_ids, stop) for sample in samples],
    )


def _text_of(sample: Sample, tokenizer: PreTrainedTokenizerBase | None, prompt_ids: list[int] | None) -> str | None:
    if sample.completion is not None or sample.completion_ids is None or tokenizer is None or prompt_ids is None:
        return sample.completion
    return completion_texts(tokenizer, prompt_ids, [sample.completion_ids])[0]


def _encoded(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int] | None:
    """Token ids of a prompt; None where the tokenizer has none for it, which training will say."""
    try:
        return encode(tokenizer, [prompt.prompt])[0]
    except VbonError:
        return None


def _is_finished(ids: list[int] | None, stop: Sequence[int] | None) -> bool | None:
    return None if ids is None or stop is None else bool(ids) and ids[-1] in stop


def _manifest(
    config: ImportConfig,
    declared: Declarations,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: Sequence[PromptSamples],
) -> Manifest:
    sizes = {len(one.rewards) for one in samples}
    return Manifest(
        fingerprint=declared.fingerprint(tokenizer),
        created_by=f"vbon {__version__} import",
        num_prompts=len(samples),
        prompts_sha256=hash_prompt_ids(one.prompt for one in samples),
        num_samples=sizes.pop() if len(sizes) == 1 else None,
        seed=config.seed,
        model=declared.model,
        reward=cut_urls(declared.reward),
    )


def _require_absent(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise VbonError(f"{out}: already there; choose another --out")


def _completion(value: Any, name: str, prompt: str | Messages, text_rule: str, where: str) -> str:
    if isinstance(value, list) and len(value) == 1:  # a conversation that is the answer alone
        value = value[0]
    if isinstance(value, dict):  # a message, or what a server returned
        value = next((value[key] for key in ("content", "text", "completion") if key in value), value)
    if not isinstance(value, str):
        raise VbonError(f"{where}: {name!r} must be a string, or a message with a string as content")
    if name != "text" or text_rule == "completion":
        return value
    if not isinstance(prompt, str) or not value.startswith(prompt):
        raise VbonError(
            f"{where}: 'text' does not begin with the prompt; if it is the completion alone: --declare text=completion"
        )
    return value[len(prompt) :]


def _reward(value: Any, where: str) -> float:
    if not isinstance(value, int | float):  # true and false are 1 and 0, as a reward's are
        raise VbonError(f"{where}: reward must be a number, not {value!r:.40}")
    try:
        reward = float(value)
    except OverflowError:
        reward = np.inf
    if not np.isfinite(reward):
        raise VbonError(f"{where}: reward is {reward}, must be finite")
    return reward


def _token_ids(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int and 0 <= token <= _MAX_TOKEN_ID for token in value):
        raise VbonError(f"{where}: token ids must be a list of whole numbers from 0")
    return value


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise VbonError(f"{where}: {name!r} must be a list that is not empty")
    return value


def _aligned(record: Mapping[str, Any], names: Sequence[str], length: int, where: str) -> list[Any]:
    name = _one_of(record, names, where)
    if name is None:
        return [None] * length
    values = _list(record[name], name, where)
    if len(values) != length:
        raise VbonError(f"{where}: {len(values)} {name} but {length} rewards")
    return values


def _one_of(record: Mapping[str, Any], names: Sequence[str], where: str) -> str | None:
    present = [name for name in names if record.get(name) is not None]
    if len(present) > 1:
        raise VbonError(f"{where}: has both {present[0]!r} and {present[1]!r}; keep one")
    return present[0] if present else None
