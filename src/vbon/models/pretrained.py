"""The one place that calls a `from_pretrained`: whatever the loading library raises becomes one line with the fix.

Weights are read from safetensors only, and a checkpoint whose weights do not fit its model is an error: transformers
would draw what is missing at random, anew in each process. A test allows `from_pretrained` and `cached_file` only here.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from vbon.errors import VbonError

ADAPTER, CONFIG = "adapter_config.json", "config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_MESSAGE_LENGTH = 300
_NAMED = 3  # tensors that a message names


def from_pretrained(auto_class: Any, name: str, what: str, **options: Any) -> Any:
    """Call `auto_class.from_pretrained(name, **options)`.

    Args:
        auto_class: a class of transformers, for example AutoConfig.
        name: directory or hub id.
        what: what is loaded, for messages: "a tokenizer".
        options: passed on.

    Returns:
        What the class returns.

    Raises:
        VbonError: it cannot be loaded; the message says what is there instead, or what helps.
    """
    if "gguf_file" not in options:
        require_model_directory(name, what)
    try:
        with quiet_transformers():
            return auto_class.from_pretrained(name, **options)
    except Exception as error:  # OSError, ValueError, KeyError, ImportError, the tokenizers' bare Exception, …
        raise VbonError(f"cannot load {what} from {name!r}: {_explained(error, name)}") from error


def load_weights(auto_class: Any, name: str, what: str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model with all of its weights.

    Args:
        auto_class: a class of transformers, for example AutoModelForCausalLM.
        name: directory or hub id.
        what: what is loaded, for messages: "a causal language model".
        options: passed to `from_pretrained`.

    Returns:
        The model, and the names of weights in the checkpoint that it has no place for.

    Raises:
        VbonError: as `from_pretrained`; or weights are missing, or have another shape.
    """
    require_model_directory(name, what)
    if not Path(name).is_dir():
        _refuse_hub_adapter(name)
    required = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = from_pretrained(auto_class, name, what, **options, **required)
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    for key, in_file, in_model in sorted(report["mismatched_keys"]):
        raise VbonError(
            f"cannot load {what} from {name!r}: the weights of {key} have shape {tuple(in_file)}, but its config.json "
            f"needs {tuple(in_model)}; save the model again, whole and with its own config"
        )
    if missing:
        others = f", and hold {_listed(unexpected)}, which the model does not know" if unexpected else ""
        raise VbonError(
            f"{name!r} is no {what.removeprefix('a ')} with all of its weights: they lack {_listed(missing)}{others}; "
            "save the model again with save_pretrained, unwrapped"
        )
    return model, unexpected


def raw_config(name: str) -> dict[str, Any]:
    """Read config.json of a directory or hub id as it stands; empty where there is none to be read."""
    path = str(Path(name) / CONFIG) if Path(name).is_dir() else hub_file(name, CONFIG)
    if path is None or not Path(path).is_file():
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def hub_file(name: str, file: str) -> str | None:
    """Return the local path of a file of the hub id `name`, downloaded if need be; None where it has no such file.

    Raises:
        VbonError: the hub cannot be asked.
    """
    try:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    except Exception as error:  # the hub's client raises a wide and changing family
        raise VbonError(f"cannot load {file} of {name!r}: {_explained(error, name)}") from error
    return None if found is None else str(found)


def require_model_directory(name: str, what: str = "a model") -> None:
    """Raise VbonError if `name` is a local path that holds no model which transformers can load; say what it holds."""
    path = Path(name)
    if path.is_file():
        raise VbonError(f"{name!r} is {_file_kind(path)}, not a model directory; {_SAFETENSORS}")
    if not path.is_dir():
        if not _HUB_ID.fullmatch(name):
            raise VbonError(f"{name!r} is no model directory: there is no such directory here, and it is no hub id")
        return
    if (path / ADAPTER).is_file() and not any(path.glob("model*.safetensors")):
        raise VbonError(_adapter_message(name, path / ADAPTER))
    config = "tokenizer_config.json" if what == "a tokenizer" and (path / "tokenizer_config.json").is_file() else CONFIG
    if not (path / config).is_file():
        raise VbonError(f"{name!r} is no model directory (config.json is missing there){_what_it_holds(path)}")
    if what.endswith(("config", "tokenizer")) or any(path.glob("*.safetensors")):
        return
    held = _what_it_holds(path) or f"; {_SAFETENSORS}"
    raise VbonError(f"cannot load {what} from {name!r}: it has no .safetensors weights{held}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show no loading report on the terminal: what it would warn of is an error here."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


_SAFETENSORS = "name a directory with config.json, a tokenizer and .safetensors weights"


def _refuse_hub_adapter(name: str) -> None:
    adapter = None
    with suppress(VbonError):  # the hub cannot be asked: loading the weights will say why
        adapter = hub_file(name, ADAPTER) if hub_file(name, "model.safetensors") is None else None
    if adapter is not None:
        raise VbonError(_adapter_message(name, Path(adapter)))


def _adapter_message(name: str, config: Path) -> str:
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = "its base model"
    return (
        f"{name!r} is an adapter of {base}, not a model; merge it first: AutoPeftModelForCausalLM.from_pretrained("
        "ADAPTER).merge_and_unload().save_pretrained(DIRECTORY), and save the tokenizer there too"
    )


def _what_it_holds(path: Path) -> str:
    if any(path.glob("*.gguf")):
        return "; name the GGUF file itself"
    if any(file for pattern in _PICKLES for file in path.glob(pattern)):
        return (
            "; pickled weights are not loaded, since they can run code: convert them with AutoModelForCausalLM."
            "from_pretrained(DIRECTORY, use_safetensors=False).save_pretrained(NEW_DIRECTORY)"
        )
    inside = sorted(file.parent.name for file in path.glob("*/config.json"))
    return f"; its subdirectory {inside[-1]} has one" if inside else ""


def _file_kind(path: Path) -> str:
    return "a GGUF file, which is not read" if path.suffix.lower() == ".gguf" else "a file"


def _explained(error: Exception, name: str) -> str:
    """One line about what a library raised: what helps, where that is known, else its own words."""
    message = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in message:
        return "it comes with Python code of its own; read that code, then allow it with --trust-remote-code"
    if isinstance(error, ImportError):
        return f"it needs a package that is not installed or does not fit here ({_cut(message)})"
    if not Path(name).exists():
        return f"there is no such directory here, and {_hub_answer(message)}"
    return _cut(message)


def _hub_answer(message: str) -> str:
    """What the hub's client says of a name, in a few words: by its own, a mistyped path would look like an outage."""
    said = message.lower()
    if any(word in said for word in ("gated", "401", "403")):
        return "the hub keeps that name private or gated: log in with `hf auth login`, or correct the name"
    if any(word in said for word in ("connect", "offline", "timed out", "resolve")):
        return "the hub is out of reach from here, so that it cannot be a hub id; correct the path"
    return "the hub has no model of that name; correct the path"


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE_LENGTH else message[: _MESSAGE_LENGTH - 1] + "…"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
