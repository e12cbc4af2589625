"""Models that are no model directory: a GGUF file, or adapters beside a base model. Each is converted once.

The ordinary directory that it becomes lies in the cache of Hugging Face (`HF_HOME`/vbon), so that fingerprints, configs
and tokenizers are read as those of any other model.
"""

import hashlib
import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from vbon.artifacts.files import replace_folder
from vbon.errors import VbonError
from vbon.models.pretrained import ADAPTER, CONFIG, from_pretrained, load_weights, require_model_directory

ADAPTER_WEIGHTS = "adapter_model.safetensors"
GGUF = ".gguf"
_KEPT = "tokenizer*", "special_tokens_map.json", "chat_template*", "generation_config.json"


def is_gguf(name: str) -> bool:
    """Return True if the name is a GGUF file."""
    return name.lower().endswith(GGUF) and Path(name).is_file()


def is_adapter(name: str) -> bool:
    """Return True if the name is a directory with adapters and without a model's own weights."""
    path = Path(name)
    return (path / ADAPTER).is_file() and not any(path.glob("model*.safetensors"))


def model_directory(name: str) -> str:
    """Return the name of an ordinary model: `name` itself, or the directory that its file or adapter is converted to.

    Raises:
        VbonError: the file or adapter cannot be converted.
        ModuleNotFoundError: the package that reads it is not installed.
    """
    if is_gguf(name):
        return _converted([Path(name)], "", lambda to: _convert_gguf(Path(name), to))
    if is_adapter(name):
        base = _base_of(name)
        directory = model_directory(base)
        return _converted(_files(name), directory, lambda to: _convert_adapter(Path(name), base, directory, to))
    return name


def _converted(files: list[Path], base: str, convert: Callable[[Path], None]) -> str:
    """The directory of these files, by their names, sizes and times, and by those of the base model."""
    seen = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in [*files, *_files(base)]]
    digest = hashlib.sha256(json.dumps([base, seen]).encode()).hexdigest()[:16]
    directory = Path(constants.HF_HOME) / "vbon" / digest
    if not (directory / CONFIG).is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(directory) as partial:
            convert(partial)
    return str(directory)


def _files(directory: str) -> list[Path]:
    folder = Path(directory)
    return sorted(file for file in folder.iterdir() if file.is_file()) if directory and folder.is_dir() else []


def _convert_gguf(file: Path, to: Path) -> None:
    importlib.import_module("gguf")  # its absence has a message of its own
    options: dict[str, Any] = {"gguf_file": file.name}
    with suppress(ImportError):
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    folder, source = str(file.parent), f"the GGUF file {str(file)!r}"
    try:
        model = from_pretrained(
            AutoModelForCausalLM, folder, "a causal language model of GGUF", dtype=torch.float32, **options
        )
        tokenizer = from_pretrained(AutoTokenizer, folder, "a tokenizer of GGUF", gguf_file=file.name)
    except VbonError as error:
        raise VbonError(f"{source} cannot be read: {error}") from error
    model.config.quantization_config = None
    del model.config.quantization_config
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)


def _convert_adapter(adapter: Path, base: str, directory: str, to: Path) -> None:
    """Merge in float32, in which adapters are trained, whatever the type that the base model is stored in."""
    peft = importlib.import_module("peft")
    weights = adapter / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise VbonError(f"{str(adapter)!r} is an adapter without {ADAPTER_WEIGHTS}; only safetensors are read")
    try:
        model, _ = load_weights(AutoModelForCausalLM, directory, "a causal language model", dtype=torch.float32)
    except VbonError as error:
        raise VbonError(f"{str(adapter)!r} is an adapter of {base!r}, which cannot be loaded: {error}") from error
    try:
        config = peft.PeftConfig.from_peft_type(**json.loads((adapter / ADAPTER).read_text(encoding="utf-8")))
        with warnings.catch_warnings(action="ignore"):  # peft asks for a property that transformers has renamed
            adapted = peft.get_peft_model(model, config)
        unknown = peft.set_peft_model_state_dict(adapted, load_file(weights)).unexpected_keys
    except Exception as error:  # peft raises a wide family
        raise VbonError(
            f"the adapter {str(adapter)!r} does not fit {base!r}: {' '.join(str(error).split())}"
        ) from error
    if unknown:
        raise VbonError(f"the adapter {str(adapter)!r} does not fit {base!r}, which has no place for {unknown[0]}")
    adapted.merge_and_unload().save_pretrained(to)
    from_pretrained(AutoTokenizer, directory, "a tokenizer").save_pretrained(to)
    for file in (file for pattern in _KEPT for file in adapter.glob(pattern)):
        shutil.copyfile(file, to / file.name)


def _base_of(adapter: str) -> str:
    file = Path(adapter) / ADAPTER
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str) or not base:
            raise KeyError
    except (OSError, ValueError, KeyError, TypeError):
        raise VbonError(f"{file} does not name the base model (base_model_name_or_path)") from None
    if not (is_gguf(base) or is_adapter(base)):
        try:
            require_model_directory(base)
        except VbonError as error:
            raise VbonError(f"{adapter!r} is an adapter of {base!r}, which cannot be loaded: {error}") from error
    return base
