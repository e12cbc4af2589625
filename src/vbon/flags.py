"""Command-line arguments → config, and the help of a verb. The only module that knows argparse."""

import argparse
import dataclasses
import textwrap
import typing
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from vbon.config.conversion import convert_word, describe, item_type, nearest, nearest_choice
from vbon.config.fields import field_help, flag, required_fields, spelling
from vbon.config.types import Help
from vbon.errors import VbonError

ConfigT = TypeVar("ConfigT")
COLUMNS = 80

# Flags of every verb that are not part of its config.
COMMON = {
    "config": ("FILE.yaml", "Read flags from this file. Flags on the command line win."),
    "json": ("FILE", "Write the result to this file as JSON."),
}
_PLACEHOLDERS = {int: "INT", float: "FLOAT", str: "TEXT"}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # argparse would break --best-of


def parse_args(cls: type[Any], args: Sequence[str], *, prog: str) -> dict[str, Any]:
    """Read `args` into values by the name of their field, with `config` and `json` if these flags are given.

    Raises VbonError naming the flag that is unknown, lacks its value, or has a value of a wrong type.
    """
    try:
        found, extra = _parser(cls, prog, show_all=True).parse_known_intermixed_args(args)
    except argparse.ArgumentError as error:
        raise VbonError(f"{error.argument_name}: {error.message}; see {prog} --help") from None
    for word in sorted(extra, key=lambda word: not word.startswith("-")):
        raise VbonError(f"{_refusal(word, cls)}; see {prog} --help")
    given = {name: value for name, value in vars(found).items() if value is not None}
    for name in COMMON.keys() & given.keys():
        if len(given[name]) > 1:
            raise VbonError(f"{flag(name)} is given {len(given[name])} times; give it once")
        (given[name],) = given[name]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def make_config(cls: type[ConfigT], values: Mapping[str, Any], *, prog: str) -> ConfigT:
    """Make a config of these values. Raises VbonError naming every required flag that has no value."""
    missing = [spelling(f) for f in required_fields(cls) if f.name not in values]
    if missing:
        raise VbonError(f"missing {', '.join(missing)}; see {prog} --help")
    return cls(**values)


def format_help(cls: type[Any], *, prog: str, description: str, epilog: str = "", show_all: bool = False) -> str:
    """Format the help of a verb: its required and its common flags, or with `show_all` every flag in its group."""
    parser = _parser(cls, prog, show_all=show_all)
    parser.description, parser.epilog = description, epilog
    return parser.format_help()


def _parser(cls: type[Any], prog: str, *, show_all: bool) -> argparse.ArgumentParser:
    positional = [spelling(f) for f in dataclasses.fields(cls) if "positional" in f.metadata]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *positional, "[FLAG ...]"]),
        formatter_class=partial(_Formatter, width=COLUMNS, max_help_position=26),
        argument_default=SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    hints, helps = typing.get_type_hints(cls), field_help(cls)
    for title, fields in groups(cls).items() if show_all else list(groups(cls).items())[:2]:
        group = parser.add_argument_group(title)
        for f in fields:
            _add_field(group, f, hints[f.name], helps[f.name])
    every = parser.add_argument_group("every verb")
    for name, (form, text) in COMMON.items():
        every.add_argument(flag(name), action="append", metavar=form, help=text)
    more = [title for title, _ in getattr(cls, "GROUPS", ())[1:]]
    if more:
        every.add_argument("--help-all", action="store_true", help=f"List all flags, also for: {', '.join(more)}.")
    return parser


def groups(cls: type[Any]) -> dict[str, list[dataclasses.Field[Any]]]:
    """Map each group to its fields: the required fields, then the groups of the config, or one group for the rest."""
    required, fields = required_fields(cls), {f.name: f for f in dataclasses.fields(cls)}
    others = " ".join(name for name, f in fields.items() if f not in required)
    declared = getattr(cls, "GROUPS", (("options", others),))
    return {"required": required} | {title: [fields[name] for name in names.split()] for title, names in declared}


def _add_field(group: argparse._ArgumentGroup, f: dataclasses.Field[Any], hint: Any, field: Help) -> None:
    text = " ".join([field.text, default_text(f)]).strip().replace("%", "%%")
    is_list = typing.get_origin(hint) is tuple
    if hint is bool:
        group.add_argument(spelling(f), dest=f.name, action=argparse.BooleanOptionalAction, help=text)
        return
    options: dict[str, Any] = {"help": text, "type": _reader(spelling(f), hint)}
    if "positional" in f.metadata:
        options |= {"nargs": "*"} if is_list else {"nargs": "?", "default": None}
        group.add_argument(f.name, metavar=spelling(f), **options)
        return
    if is_list:
        options |= {"action": "append"} if "repeat" in f.metadata else {"action": "extend", "nargs": "+"}
    group.add_argument(spelling(f), dest=f.name, metavar=field.placeholder or placeholder(hint), **options)


def _reader(name: str, hint: Any) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        try:
            return convert_word(word, hint)
        except (TypeError, ValueError, OverflowError):
            wanted = describe(item_type(hint)) + nearest_choice(word, hint)
            raise VbonError(f"{name} is {word!r:.80}, but must be {wanted}") from None

    return read


def placeholder(hint: Any) -> str:
    """The form of a flag's value in the help: its choices, or `INT`, `FLOAT` or `TEXT`."""
    kind = item_type(hint)
    return "|".join(typing.get_args(kind)) if typing.get_origin(kind) is Literal else _PLACEHOLDERS[kind]


def default_text(f: dataclasses.Field[Any]) -> str:
    """The sentence that says a field's default, or nothing where the help of the field has to say it."""
    has_default = type(f.default) in (int, float, str) or f.default is True
    return f"Default: {'on' if f.default is True else f.default}." if has_default else ""


def _refusal(word: str, cls: type[Any]) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r:.80}"
    name = word.partition("=")[0]
    fields = dataclasses.fields(cls)
    switches = [flag(f"no_{f.name}") for f in fields if isinstance(f.default, bool)]
    known = [*map(spelling, fields), *switches, *map(flag, COMMON), "--help"]
    return f"unknown flag {name:.80}{nearest(name.replace('_', '-')[:80], known)}"
