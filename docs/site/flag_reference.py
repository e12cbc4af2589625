"""The directives `flags` and `methods`: the command-line reference, read from the configs when the site is built."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vbon import config, flags
from vbon.cli import VERBS
from vbon.config.fields import field_help, spelling
from vbon.config.methods import METHODS


def flag_text(verb: str) -> Iterator[str]:
    """Yield the Markdown lines that describe the flags of a verb, group by group."""
    cls = getattr(config, VERBS[verb].config)
    hints, helps = typing.get_type_hints(cls), field_help(cls)
    for title, fields in flags.groups(cls).items():
        yield from (f"## {title[0].upper()}{title[1:]}", "")
        for field in fields:
            yield from (f"`{heading(field, hints[field.name], helps[field.name].placeholder)}`", "")
            yield from (f": {escaped(helps[field.name].text)} {flags.default_text(field)}".rstrip(), "")


def heading(field: dataclasses.Field[Any], hint: Any, placeholder: str | None) -> str:
    """Spell a flag with the form of its value: `--num-samples INT`, or `--refine-tail, --no-refine-tail`."""
    name = spelling(field)
    if hint is bool:
        return f"{name}, {name.replace('--', '--no-', 1)}"
    if "positional" in field.metadata:
        return name
    many = " [...]" if typing.get_origin(hint) is tuple else ""
    return f"{name} {placeholder or flags.placeholder(hint)}{many}"


def escaped(text: str) -> str:
    """Mark flags in a help text as code, and keep other characters from being read as Markdown."""
    text = re.sub(r"([*_<>$|\\])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


class FlagsDirective(SphinxDirective):
    """The flags of the verb that is the directive's argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections of the groups of flags."""
        return parsed(self, flag_text(self.arguments[0]))


class MethodsDirective(SphinxDirective):
    """A table of the training methods."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [f"| `{name}` | {escaped(method.summary)} |" for name, method in METHODS.items() if method.trained]
        return parsed(self, ["| method | what it does |", "|---|---|", *rows])


def parsed(directive: SphinxDirective, lines: Any) -> list[nodes.Node]:
    """Parse Markdown lines at the place of a directive."""
    container = nodes.section()
    container.document = directive.state.document
    directive.state.nested_parse(StringList(list(lines), source="configs"), 0, container, match_titles=True)
    return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("flags", FlagsDirective)
    app.add_directive("methods", MethodsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
