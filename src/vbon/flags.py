"""Command-line arguments → config. tyro parses and prints the help; what it finds wrong is said here in one line."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

from vbon.config.checks import flag
from vbon.config.yaml_file import nearest
from vbon.errors import VbonError

ConfigT = TypeVar("ConfigT")

# Flags of every verb that are not part of its config.
COMMON = {
    "config": ("FILE.yaml", "Read flags from this file; the command line wins."),
    "json": ("FILE", "Write the result to this file, for machines to read."),
}

_RULE = re.compile(r"[\s│─╭╮╰╯-]*")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(cls: type[ConfigT], args: Sequence[str], *, prog: str, file_values: dict[str, Any]) -> ConfigT:
    """The config that `args` spell, over the values of a config file.

    Raises VbonError naming the flag: unknown, without a value, of a wrong type, or missing.
    """
    rest = list(args)
    for spelled, single in _list_flags(cls).items():
        values, rest = pull(rest, spelled, single=single)
        rest += [spelled, *values] if values else []
    _refuse_unknown(rest, cls, prog)
    return typing.cast(ConfigT, _tyro(cls, rest, prog=prog, file_values=file_values))


def print_help(cls: type[Any], *, prog: str, description: str) -> None:
    """Print a verb's flags with their defaults."""
    import tyro

    with contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], prog=prog, description=description, registry=_registry(cls, {}))


def pull(args: Sequence[str], spelled: str, *, single: bool) -> tuple[list[str], list[str]]:
    """Take a flag's values out of `args`: (values, the rest). `single`: one value for each time it is given."""
    values: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(args):
        name, equals, value = args[position].partition("=")
        position += 1
        if name != spelled:
            rest.append(args[position - 1])
            continue
        taken = [value] if equals else _values_at(args, position, single=single)
        if not taken:
            raise VbonError(f"{spelled} needs a value")
        position += 0 if equals else len(taken)
        values += taken
    return values, rest


def pull_one(args: Sequence[str], spelled: str) -> tuple[str | None, list[str]]:
    """Take a flag that may be given once out of `args`: (its value or None, the rest)."""
    values, rest = pull(args, spelled, single=True)
    if len(values) > 1:
        raise VbonError(f"{spelled} is given {len(values)} times; give it once")
    return (values[0] if values else None), rest


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The string under each field of a dataclass."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    return {
        field.target.id: inspect.cleandoc(doc.value.value)
        for field, doc in itertools.pairwise(typing.cast(ast.ClassDef, definition).body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }


def spelling(config_field: dataclasses.Field[Any]) -> str:
    """How a field is spelled on the command line: `--num-samples`, or `RUN` for a positional one."""
    positional = config_field.metadata.get("positional")
    return positional or flag(config_field.metadata.get("flag", config_field.name))


def _values_at(args: Sequence[str], position: int, *, single: bool) -> list[str]:
    following: list[str] = []
    for arg in args[position:]:
        if arg.startswith("--") or (single and following):
            break
        following.append(arg)
    return following


def _list_flags(cls: type[Any]) -> dict[str, bool]:
    return {
        spelling(f): f.metadata.get("repeat", False)
        for f in dataclasses.fields(cls)
        if "positional" not in f.metadata and isinstance(f.default, tuple)
    }


def _refuse_unknown(args: Sequence[str], cls: type[Any], prog: str) -> None:
    known = list(_known_flags(cls))
    for arg in args:
        name = arg.partition("=")[0]
        if re.match(r"--?[A-Za-z]", name) and name not in known:
            raise VbonError(f"unknown flag {name}{nearest(name.replace('_', '-'), known)}; see {prog} --help")


def _known_flags(cls: type[Any]) -> Iterator[str]:
    for config_field in dataclasses.fields(cls):
        name = spelling(config_field)
        yield name
        if isinstance(config_field.default, bool):
            yield name.replace("--", "--no-", 1)


def _tyro(cls: type[Any], args: list[str], *, prog: str, file_values: dict[str, Any]) -> Any:
    import tyro

    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            return tyro.cli(cls, args=args, prog=prog, registry=_registry(cls, file_values))
    except SystemExit as exit_request:
        raise VbonError(_condensed(heard.getvalue(), cls, prog)) from exit_request


def _condensed(box: str, cls: type[Any], prog: str) -> str:
    """tyro's boxed message as one line: the first paragraph, or the names of what is missing."""
    lines = [_COLOUR.sub("", line).strip(" │") for line in box.splitlines()]
    if "Missing from" in box:
        names = [spelling(f) for f in dataclasses.fields(cls)]
        return f"missing {', '.join(n for n in names if _opens_a_line(n, lines))}; see {prog} --help"
    rules = [i for i, line in enumerate(lines) if line and _RULE.fullmatch(line)]
    start, stop = (rules[0] + 1, rules[1]) if len(rules) > 1 else (0, len(lines))
    return f"{' '.join(' '.join(lines[start:stop]).split()).rstrip('.')}; see {prog} --help"


def _opens_a_line(name: str, lines: list[str]) -> bool:
    return any(line.split()[:1] == [name] for line in lines)


def _registry(cls: type[Any], file_values: dict[str, Any]) -> Any:
    """tyro's view of a config: spelling and placeholder of each field, defaults from the config file."""
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec

    registry = ConstructorRegistry()
    fields = tuple(_common_fields()) + tuple(_config_fields(cls, file_values))

    def instantiate(**values: Any) -> Any:
        return cls(**{name: value for name, value in values.items() if name not in COMMON})

    @registry.struct_rule
    def config_rule(info: Any) -> Any:
        return StructConstructorSpec(instantiate=instantiate, fields=fields) if info.type is cls else None

    return registry


def _common_fields() -> Iterator[Any]:
    from tyro.conf import arg
    from tyro.constructors import StructFieldSpec

    for name, (metavar, doc) in COMMON.items():
        hint: Any = Annotated[str, arg(metavar=metavar, help_behavior_hint="")]
        yield StructFieldSpec(name=name, type=hint, default="", helptext=doc)


def _config_fields(cls: type[Any], file_values: dict[str, Any]) -> Iterator[Any]:
    from tyro import MISSING
    from tyro.constructors import StructFieldSpec

    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    for f in dataclasses.fields(cls):
        default = file_values.get(f.name, MISSING if f.default is dataclasses.MISSING else f.default)
        hint = _tyro_hint(f, hints[f.name], shows_default=default not in (None, (), MISSING))
        yield StructFieldSpec(name=f.name, type=hint, default=default, helptext=docs[f.name])


def _tyro_hint(config_field: dataclasses.Field[Any], hint: Any, *, shows_default: bool) -> Any:
    from tyro.conf import DisallowNone, Positional, arg

    metadata = config_field.metadata
    behaviour = "(required)" if config_field.default is dataclasses.MISSING else None if shows_default else ""
    metavar = metadata.get("positional") or ("STR" if metadata.get("repeat") else None)
    described = arg(name=metadata.get("flag"), metavar=metavar, help_behavior_hint=behaviour)
    marker: Any = Positional if "positional" in metadata else DisallowNone
    return marker[Annotated[hint, described]]
