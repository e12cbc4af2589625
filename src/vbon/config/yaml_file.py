"""Configs as YAML files. An error names the file and the key."""

import reprlib
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vbon.config.conversion import convert, describe, nearest, nearest_choice
from vbon.config.fields import required_fields
from vbon.errors import VbonError

ConfigT = TypeVar("ConfigT")

# Shows a value in an error: YAML's aliases let a short file stand for a value of astronomical length.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring = 2, 3, 80


def load_yaml(cls: type[ConfigT], path: str | Path) -> ConfigT:
    """Read a config from a YAML file.

    Raises:
        VbonError: naming the file that cannot be read or holds no mapping, or the key that is unknown, given twice, of
            a wrong type, or missing.
    """
    return build(cls, read_values(cls, path), path)


def build(cls: type[ConfigT], values: Mapping[str, Any], path: str | Path) -> ConfigT:
    """A config with the values of a file. Raises VbonError naming the file and the required keys that it lacks."""
    missing = [f.name for f in required_fields(cls) if f.name not in values]
    if missing:
        raise VbonError(f"{path}: missing {', '.join(missing)}")
    return cls(**values)


def read_values(cls: type[Any], path: str | Path) -> dict[str, Any]:
    """Read the fields that a YAML file sets, converted to their types. An empty file sets none."""
    return typed_values(cls, read_mapping(path), str(path))


def read_sections(sections: Mapping[str, type[Any]], path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file with one section per config. A section that is missing sets no fields.

    Raises VbonError naming the file, the section and the key.
    """
    content = {_known_key(key, list(sections), path): value for key, value in read_mapping(path).items()}
    for name, values in content.items():
        if not isinstance(values, dict | None):
            raise VbonError(f"{path}: {name} must hold lines of `key: value`, not a {type(values).__name__}")
    return {name: typed_values(cls, content.get(name) or {}, f"{path}: {name}") for name, cls in sections.items()}


UNICODE_LINE_BREAKS = frozenset("\x85\u2028\u2029")


def merged_text(config: Any) -> str:
    """Every field of a config as YAML, in the order of its declaration."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    if UNICODE_LINE_BREAKS & set(text):  # a YAML reader drops these unless they are escaped
        return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120)
    return text


def read_mapping(path: str | Path) -> dict[Any, Any]:
    """Read the mapping in a YAML file with the safe loader. An empty file is an empty mapping.

    Raises VbonError naming the file if it cannot be read, is not UTF-8, YAML or a mapping, or gives a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        twice = _key_given_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        content = yaml.safe_load(text)
    except OSError as error:
        raise VbonError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise VbonError(f"{path}: not UTF-8 text") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # PyYAML's own constructors raise more than YAMLError: `!!timestamp x` an AttributeError, `!!bool x` a KeyError.
        raise VbonError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if twice is not None:
        raise VbonError(f"{path}: line {twice.start_mark.line + 1}: {twice.value!r} is given twice; keep one")
    if not isinstance(content, dict | None):
        raise VbonError(f"{path}: must hold lines of `key: value`, not a {type(content).__name__}")
    return content or {}


def _key_given_twice(root: yaml.Node | None) -> yaml.Node | None:
    # PyYAML itself keeps the last of two equal keys and reports nothing.
    keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    names = [str(key.value) for key in keys]
    return next((key for i, key in enumerate(keys) if names[i] in names[:i]), None)


def typed_values(cls: type[Any], values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Convert values from a file to the types of their fields. Raises VbonError beginning with `where`."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in fields(cls)]
    return {
        _known_key(key, names, where): _converted(value, hints[str(key)], str(key), where)
        for key, value in values.items()
    }


def _known_key(key: Any, names: list[str], path: str | Path) -> str:
    if key not in names:
        raise VbonError(f"{path}: unknown key {_SHORT.repr(key)}{nearest(str(key), names)}")
    return str(key)


def _converted(value: Any, hint: Any, key: str, path: str | Path) -> Any:
    try:
        return convert(value, hint)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = describe(hint) + nearest_choice(value, hint)
        raise VbonError(f"{path}: {key} is {_SHORT.repr(value)}, but must be {wanted}") from error
