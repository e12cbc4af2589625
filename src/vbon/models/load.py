"""Loading and fingerprints of policies and tokenizers. Only safetensors are read, and dropout is always off."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vbon.config import CollectConfig, EvaluateConfig, GenerateConfig, TrainConfig
from vbon.errors import VbonError
from vbon.models.converted import model_directory
from vbon.models.fused import fuse_activations
from vbon.models.pretrained import from_pretrained, hub_file, load_weights, raw_config
from vbon.models.prompts import ids_by_default, text_of_ids

Command = CollectConfig | EvaluateConfig | GenerateConfig | TrainConfig
"""The configs of the commands that load a model."""
NO_EFFECT = frozenset(
    {
        *("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type", "tokenizer_class"),
    }
)
"""Entries of a model's config that do not change its logits."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Return the torch device; `auto` is CUDA where there is a CUDA device, otherwise the CPU.

    Raises:
        VbonError: the device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise VbonError(f"--device {device}: no CUDA device on this machine; use --device cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise VbonError(f"--device {device}: no such device; use auto, cpu or cuda") from error


def load_policy(
    name: str, *, dtype: str = "float32", device: str | torch.device = "cpu", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal language model in eval mode, from a directory, a hub id, a GGUF file or adapters.

    Dropout stays off in training too, so that the KL to the reference is 0 before the first update.

    Args:
        name: directory or hub id.
        dtype: floating-point type of the weights, a key of `DTYPES`.
        device: device of the weights.
        trust_remote_code: True allows Python code that comes with the model to run.

    Returns:
        The model.

    Raises:
        VbonError: there is no such model, it has no safetensors weights, or the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise VbonError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    model, unexpected = load_weights(
        AutoModelForCausalLM,
        model_directory(name),
        "a causal language model",
        dtype=DTYPES[dtype],
        trust_remote_code=trust_remote_code,
    )
    if unexpected:
        warnings.warn(f"{name}: {len(unexpected)} weights have no place in the model: {unexpected[0]}, …", stacklevel=2)
    fuse_activations(model)
    nn.Module.to(model, device).eval()
    _try_model(model, name)
    return model


@torch.no_grad()
def _try_model(model: PreTrainedModel, name: str) -> None:
    """Compute the logits of one token: what a config makes impossible is met here, not after other work."""
    try:
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=model.device), use_cache=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise VbonError(
            f"{name!r} cannot be computed with ({_first_line(error)}); does its config.json fit?"
        ) from error


def load_configured_policy(name: str, config: Command, device: str | torch.device) -> PreTrainedModel:
    """Load a causal LM in the precision and with the trust that a command's config gives."""
    return load_policy(name, dtype=config.dtype, device=device, trust_remote_code=config.trust_remote_code)


def load_tokenizer(name: str, *, trust_remote_code: bool = False, **options: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory or hub id, and try it. `options` are passed to transformers.

    Raises:
        VbonError: there is no tokenizer, or none that works.
    """
    tokenizer: PreTrainedTokenizerBase = from_pretrained(
        AutoTokenizer, model_directory(name), "a tokenizer", trust_remote_code=trust_remote_code, **options
    )
    try:
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        text_of_ids(tokenizer, ids_by_default(tokenizer, ""))
        tokenizer_fingerprint(tokenizer)
        limited = tokenizer.model_max_length > 0 and all(token is None or token >= 0 for token in special)
    except Exception as error:  # values of the wrong type in its files are met only in use
        raise VbonError(f"{name!r}: its tokenizer does not work ({_first_line(error)}); save it again") from error
    if not limited:
        raise VbonError(f"{name!r}: the limit of its tokenizer, model_max_length, is not above 0; correct its files")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without its files
        raise VbonError(f"{name!r} has no tokenizer files; save the model's tokenizer there")
    return tokenizer


def load_config(name: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Load the config of a directory or hub id.

    Raises:
        VbonError: there is no config.
    """
    config: PretrainedConfig = from_pretrained(
        AutoConfig, model_directory(name), "a config", trust_remote_code=trust_remote_code
    )
    return config


def load_raw_config(name: str) -> PretrainedConfig | dict[str, Any]:
    """Load the config of a directory or hub id; as its JSON where a class of its own would have to run."""
    try:
        return load_config(name)
    except VbonError:
        content: dict[str, Any] = raw_config(model_directory(name))
        return content


def load_generation_config(name: str) -> GenerationConfig | None:
    """Load the generation config of a directory or hub id; None where it has none."""
    name = model_directory(name)
    local = Path(name) / "generation_config.json"
    if not (local.is_file() if Path(name).is_dir() else hub_file(name, local.name)):
        return None
    generation: GenerationConfig = from_pretrained(GenerationConfig, name, "a generation config")
    return generation


def stop_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, extra: Sequence[int] = ()
) -> tuple[int, ...]:
    """Collect all tokens that end a completion: EOS of the generation config and of the tokenizer, and `extra`.

    Raises:
        VbonError: one of `extra` is not in the model's vocabulary.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    for token in extra:
        if token >= vocabulary:
            raise VbonError(f"stop token {token} is none of the model's {vocabulary} tokens (0 to {vocabulary - 1})")
    return _stop_token_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer, extra, vocabulary)


def configured_stop_token_ids(
    name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, extra: Sequence[int] = ()
) -> tuple[int, ...]:
    """Collect the stop tokens of a model whose weights are not loaded, as `stop_token_ids` does.

    Args:
        name: directory or hub id, for its generation config.
        config: the model's config, which is used where there is no generation config.
        tokenizer: the model's tokenizer.
        extra: further token ids.

    Returns:
        The token ids, sorted.
    """
    generation = load_generation_config(name)
    configured = getattr(generation or config.get_text_config(), "eos_token_id", None)
    return _stop_token_ids(configured, tokenizer, extra, None)


def _stop_token_ids(
    configured: Any, tokenizer: PreTrainedTokenizerBase, extra: Sequence[int], vocabulary: int | None
) -> tuple[int, ...]:
    several = configured if isinstance(configured, list | tuple) else [configured]
    for token in several:
        known = type(token) is int and -1 <= token < (vocabulary or 2**31)
        if token is not None and not known:
            raise VbonError(
                f"the model's config or generation_config.json has eos_token_id {token!r:.80}, which is none of its "
                "tokens; correct the file"
            )
    return tuple(sorted({t for t in (*several, tokenizer.eos_token_id, *extra) if t is not None and t >= 0}))


def pad_token_id(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int:
    """Return the token id that fills empty positions of a batch: the tokenizer's padding, its EOS, or 0.

    Masks decide which tokens count, never this id; but the model must have an embedding for it, and padding that was
    added to a tokenizer alone has none.
    """
    rows = None if model is None else model.get_input_embeddings().num_embeddings
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and (rows is None or token < rows):
            return int(token)
    return 0


def model_fingerprint(name: str) -> str:
    """Compute a SHA-256 (16 hex digits) over names, dtypes, shapes and bytes of the weights, and one over the config.

    It does not depend on how the weights are divided into files.
    """
    name = model_directory(name)
    return f"{_weights_fingerprint(name)} config:{config_fingerprint(load_raw_config(name))}"


def config_fingerprint(config: PretrainedConfig | Mapping[str, Any], *, but: Collection[str] = NO_EFFECT) -> str:
    """Compute a SHA-256 (16 hex digits) of what a config says other than its class's defaults.

    Two models of the same weights are two models where a constant of their rotary embedding differs. Left out are names
    and versions, and what the other fields of a pool's fingerprint tell.
    """
    content = config.to_diff_dict() if isinstance(config, PretrainedConfig) else dict(config)
    return _short_hash(json.dumps(_without(content, but), sort_keys=True, default=str))


def _without(content: Any, names: Collection[str]) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: _without(value, names) for key, value in content.items() if key not in names}


def _weights_fingerprint(name: str) -> str:
    digest = hashlib.sha256()
    files = {key: path for path in _weight_files(name) for key in _tensor_names(path)}
    for key in sorted(files):
        with safe_open(files[key], framework="pt") as weights:
            tensor = weights.get_tensor(key).contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Compute a SHA-256 (16 hex digits) of vocabulary, merges and special tokens.

    Settings of padding and truncation do not enter.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    state = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    return _short_hash(json.dumps([state, special], sort_keys=True))


def chat_template_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Compute a SHA-256 (16 hex digits) of the chat template, or return "none"."""
    template = tokenizer.chat_template
    return _short_hash(json.dumps(template, sort_keys=True)) if template else "none"


def _weight_files(name: str) -> list[str]:
    if os.path.isdir(name):
        files = sorted(str(p) for p in Path(name).glob("*.safetensors"))
        if not files:
            raise VbonError(f"{name!r} has no .safetensors weights")
        return files
    single = hub_file(name, "model.safetensors")
    if single is not None:
        return [single]
    index = hub_file(name, "model.safetensors.index.json")
    if index is None:
        raise VbonError(f"{name!r} has no .safetensors weights on the hub, or they are not here and it is offline")
    shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [str(hub_file(name, shard)) for shard in shards]


def _tensor_names(path: str) -> list[str]:
    try:
        with safe_open(path, framework="pt") as weights:
            return list(weights.keys())
    except SafetensorError as error:
        raise VbonError(f"{path} is damaged ({_first_line(error)}); copy it again") from error


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
