"""A reward model: one logit of a sequence classifier, `path`, `path#LABEL`, `path#LABEL:pair` or `path#LABEL:text`.

A string prompt and its completion are read as one text, or as a pair of texts (cross-encoders and many reward models
are trained on pairs: their token types and the separator between the texts differ). Where the tokenizer has a form of
its own for pairs, the name must say which of the two it is; a chat goes through the model's chat template.

Weights are float32 whatever the checkpoint stores, unless another type is asked for: bfloat16 logits tie where the
model does not.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from vbon.errors import VbonError
from vbon.models.load import (
    NO_EFFECT,
    chat_template_fingerprint,
    config_fingerprint,
    load_tokenizer,
    tokenizer_fingerprint,
)
from vbon.models.pretrained import from_pretrained, load_weights
from vbon.models.prompts import render_chat, with_completion
from vbon.rewards.checked import CheckedReward, checked, shorten
from vbon.rewards.protocol import FORMS, Prompt, RewardError

PAIR = "pair"
TEXT_FORMS = (PAIR, "text")
NO_LIMIT = 10**9  # tokenizers without a limit of their own report 1e30


@dataclass(frozen=True)
class Classifier:
    """A loaded reward model and the logit that is the reward."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label: int
    max_length: int
    batch_size: int
    form: str | None = None
    """How a string prompt and its completion are read, one of `TEXT_FORMS`; None where only one is possible."""

    def score(self, prompts: list[Prompt], completions: list[str], columns: dict[str, list[Any]]) -> np.ndarray:
        """The chosen logit, float64. Equal texts are scored once, so that they tie exactly."""
        texts = [render(self.tokenizer, prompts[row], completions[row], row, self.form) for row in range(len(prompts))]
        unique = list(dict.fromkeys(texts))
        rewards = dict(zip(unique, self.logits(self.encode(unique)), strict=True))
        return np.array([rewards[text] for text in texts], dtype=np.float64)

    def encode(self, texts: list["Text"]) -> list["Encoded"]:
        """Token ids, the longest cut on the left, where the oldest words are; special tokens stay."""
        encoded = [self._ids(text) for text in texts]
        too_long = [i for i, ids in enumerate(encoded) if len(ids.ids) > self.max_length]
        for i in too_long:
            encoded[i] = self._ids(texts[i], truncation=self._cuts(texts[i]), max_length=self.max_length)
        if too_long:
            warnings.warn(
                f"reward {self.name}: texts beyond its {self.max_length} tokens are cut on the left", stacklevel=2
            )
        return encoded

    def _cuts(self, text: "Text") -> str | bool:
        """What to truncate: of a pair the prompt alone, where that is enough."""
        if text.completion is None:
            return True
        answer = len(self.tokenizer("", text.completion, verbose=False).input_ids)
        return "only_first" if answer < self.max_length else "longest_first"

    def _ids(self, text: "Text", **options: Any) -> "Encoded":
        options |= {"add_special_tokens": not text.templated, "verbose": False}
        row = self.tokenizer(text.text, text.completion, **options)
        # An empty prompt with an empty completion: a decoder still needs one token to read.
        ids = row.input_ids or [self.tokenizer.bos_token_id or self.tokenizer.eos_token_id or 0]
        return Encoded(ids, row.get("token_type_ids") if text.completion is not None else None)

    @torch.no_grad()
    def logits(self, encoded: list["Encoded"]) -> np.ndarray:
        """The chosen logit of each row, float64, in batches of similar length."""
        rewards = np.empty(len(encoded))
        pad_id = usable_pad_id(self.model)
        for batch in batches_by_length([len(row.ids) for row in encoded], self.batch_size, equal_only=pad_id is None):
            inputs = pad_right([encoded[i] for i in batch], pad_id or 0, self.model.device)
            rewards[batch] = self.model(**inputs).logits[:, self.label].double().cpu().numpy()
        return rewards


@dataclass(frozen=True)
class Text:
    """What the model reads; `templated`: a chat template has already written its special tokens."""

    text: str
    templated: bool
    completion: str | None = None
    """The second text of a pair."""


class Encoded(NamedTuple):
    """Token ids of a row, and the token types of a pair."""

    ids: list[int]
    types: list[int] | None


def classifier_reward(
    spec: str, *, device: str, batch_size: int, dtype: str = "float32", trust_remote_code: bool = False
) -> CheckedReward:
    """The reward `path[#LABEL]`, a directory or hub id; raises VbonError where it or its label cannot be had."""
    path, label_name, form = split_label(spec)
    model, tokenizer = load_model(spec, path, trust_remote_code=trust_remote_code)
    label = choose_label(spec, model, label_name)
    check_form(spec, tokenizer, form)
    longest = max_tokens(model, tokenizer)
    fingerprint = " ".join(
        [
            f"{weights_digest(model)}#{label}" + (":pair" if form == PAIR else ""),
            f"config:{config_fingerprint(model.config, but=NO_EFFECT - {'pad_token_id'})}",  # it reads before padding
            f"tokenizer:{tokenizer_fingerprint(tokenizer)}",
            f"template:{chat_template_fingerprint(tokenizer)}",
        ]
    )
    fingerprint += "" if dtype == "float32" else f" dtype:{dtype}"
    fingerprint += f" length:{longest}"  # what is longer loses its beginning
    model = model.to(getattr(torch, dtype))
    prepare_padding(model)
    model = place(spec, model, device)
    classifier = Classifier(spec, model, tokenizer, label, longest, batch_size, form)
    # The classifier batches by length over the whole call, so `checked` must hand it the whole call.
    # The noise is a unit in the last place: what two batches of one text differ by at least.
    return checked(classifier.score, name=spec, fingerprint=fingerprint, noise=torch.finfo(model.dtype).eps)


def split_label(spec: str) -> tuple[str, str | None, str | None]:
    """`path#LABEL:FORM` → (path, LABEL, FORM); a directory whose name holds a # is a path."""
    if "#" not in spec or Path(spec).is_dir():
        return spec, None, None
    path, _, label = spec.rpartition("#")
    before, _, form = label.rpartition(":")
    return (path, before or None, form) if form in TEXT_FORMS else (path, label, None)


def knows_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer sets a separator between two texts: a special token other than a second BOS."""
    words = {tokenizer.unk_token_id, None if tokenizer.cls_token_id is not None else tokenizer.bos_token_id}
    special = set(tokenizer.all_special_ids) - words
    pair = tokenizer("a", "a", verbose=False).input_ids
    texts = [place for place, token in enumerate(pair) if token not in special]
    return bool(texts) and bool(special & set(pair[texts[0] : texts[-1]]))


def check_form(spec: str, tokenizer: PreTrainedTokenizerBase, form: str | None) -> None:
    """Raises VbonError where the form is left open, or is one that the tokenizer does not have."""
    pairs = knows_pairs(tokenizer)
    if form == PAIR and not pairs:
        raise VbonError(f"reward {spec}: its tokenizer has no form for pairs of texts; leave :pair out")
    if form is None and pairs and tokenizer.chat_template is None:
        raise VbonError(
            f"reward {spec}: its tokenizer has a form for pairs of texts; say which one the model was trained on: "
            "PATH#LABEL:pair (prompt and completion are two texts) or PATH#LABEL:text (one text)"
        )


def load_model(spec: str, path: str, *, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32, eval mode, CPU) and tokenizer, from safetensors only; refuses a checkpoint without a head."""
    trusted = {"trust_remote_code": trust_remote_code}
    try:
        config = from_pretrained(AutoConfig, path, "a config", **trusted)  # fails soonest where nothing is there
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code, truncation_side="left")
        options = {"config": config, "dtype": torch.float32, **trusted}
        model, _ = load_weights(AutoModelForSequenceClassification, path, "a trained classifier", **options)
    except VbonError as error:
        raise VbonError(f"reward {spec}: {error}; a reward is {FORMS}") from error
    return model.eval(), tokenizer


def place(spec: str, model: PreTrainedModel, device: str) -> PreTrainedModel:
    """The model on `device`."""
    try:
        return model.to(torch.device(device))  # type: ignore[arg-type]  # its decorator hides the signature
    except (RuntimeError, AssertionError) as error:
        raise VbonError(f"reward {spec}: cannot use device {device!r}: {shorten(str(error))}") from error


def choose_label(spec: str, model: PreTrainedModel, label: str | None) -> int:
    """The index of the logit called `label` (a name or an index); None is fine where there is only one."""
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    if label is None and len(names) == 1:
        return 0
    if label in names:
        return names.index(label)
    if label is not None and label.isdecimal() and int(label) < len(names):
        return int(label)
    problem = "has several logits" if label is None else f"has no label {label!r}"
    raise VbonError(f"reward {spec}: {problem}; choose one with #LABEL: {', '.join(names)}, or 0 to {len(names) - 1}")


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str, row: int, form: str | None) -> Text:
    """Prompt and completion as the reward model reads them: one text, a pair, or through its own chat template."""
    if isinstance(prompt, str):
        return Text(prompt, False, completion) if form == PAIR else Text(prompt + completion, templated=False)
    if form == PAIR:
        raise RewardError("a chat prompt is no first text of a pair; leave :pair out, or use strings", row)
    if tokenizer.chat_template is None:
        raise RewardError("a chat prompt, but the reward model's tokenizer has no chat template; use strings", row)
    conversation = with_completion(prompt, completion)
    try:
        return Text(render_chat(tokenizer, conversation, for_completion=False), templated=True)
    except VbonError as error:
        raise RewardError(str(error), row) from error


def prepare_padding(model: PreTrainedModel) -> None:
    """Without a padding token a decoder refuses batches: −1 matches no token, so it reads the last one of each row.

    Rows then share a batch only where their lengths are equal, and −1 is never fed to the model.
    """
    if usable_pad_id(model) is None:
        model.config.get_text_config().pad_token_id = -1


def usable_pad_id(model: PreTrainedModel) -> int | None:
    """The padding id of the model's own config, which decides where it reads; None where its vocabulary has none."""
    pad_id = model.config.get_text_config().pad_token_id
    inside = pad_id is not None and 0 <= pad_id < model.get_input_embeddings().num_embeddings
    return pad_id if inside else None


def batches_by_length(lengths: list[int], batch_size: int, *, equal_only: bool) -> Iterator[list[int]]:
    """Row indices in batches of like (`equal_only`: equal) length, longest first: memory runs out at once if ever."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [list(rows) for _, rows in groupby(order, key=lengths.__getitem__)] if equal_only else [order]
    for rows in groups:
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


def pad_right(rows: list[Encoded], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The model's inputs, int64, (rows, longest). Right: positions then count from the first real token."""
    width = max(len(row.ids) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in values], device=device)

    inputs = {"input_ids": padded([row.ids for row in rows], pad_id)}
    inputs["attention_mask"] = padded([[1] * len(row.ids) for row in rows], 0)
    if rows[0].types is not None:
        inputs["token_type_ids"] = padded([row.types or [] for row in rows], 0)
    return inputs


def max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input: the smaller of the tokenizer's limit and the model's number of positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    reserved = getattr(table, "padding_idx", None)  # RoBERTa's positions start after its padding id
    return int(min(tokenizer.model_max_length, positions - (0 if reserved is None else reserved + 1), NO_LIMIT))


def weights_digest(model: PreTrainedModel) -> str:
    """`sha256:…` over names, shapes and float32 values of every parameter and buffer that the checkpoint stores."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return "sha256:" + digest.hexdigest()
