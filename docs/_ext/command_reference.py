"""``.. mol-commands::``: every command of `mol` with its options, from the parsers that read them."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mol.arguments import config_parser
from mol.cli import COMMANDS
from mol.commands import RUNNERS, SYNTH_LAYOUT

# Every command has these; the page tells about them once.
COMMON = {"help", "config", "print_config"}
LAYOUT_SUMMARY = "Make clips of real faces under exactly known motion in a data set's own folders and sheets."


class Commands(SphinxDirective):
    """A section for each command, an ``option`` for each setting."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for name, command in COMMANDS.items():
            lines += section(f"mol {name}", RUNNERS[name][0], command.summary, command.positional)
            if name == "synth":
                lines += section("mol synth --layout", SYNTH_LAYOUT[0], LAYOUT_SUMMARY)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def section(title: str, config_class: type, summary: str, positional: tuple[str, ...] = ()) -> list[str]:
    """The lines of one command."""
    nameless = "".join(f" The name ``--{field}`` can be left out." for field in positional)
    lines = [title, "-" * len(title), "", escaped(summary) + nameless, "", f".. program:: {title}", ""]
    for heading, actions in groups(config_parser(config_class, title)):
        lines += [f".. rubric:: {' '.join(heading.split())}", ""] if heading else []
        for action in actions:
            lines += option(action)
    return lines


def groups(parser: Any) -> Iterator[tuple[str, list[Any]]]:
    """The settings of a parser, nested ones under a heading of their own; what must be given comes first."""
    for group in parser._action_groups:
        # ``--loss FILE`` reads a group from a file; it has no value of its own.
        nested = [action for action in group._group_actions if type(action).__name__ == "_ActionConfigLoad"]
        actions = [
            action
            for action in group._group_actions
            if action.dest not in COMMON and action not in nested and action.help is not SUPPRESS
        ]
        if actions:
            heading = escaped(group.title[:1].upper() + group.title[1:]) if nested else ""
            yield heading, sorted(actions, key=lambda action: not action.required)


def option(action: Any) -> list[str]:
    """One option: its name and values, what it means, its default."""
    name = "--" + re.sub(r"_(?!$)", "-", action.dest)
    text = " ".join((action.help or "").replace("%%", "%").split())
    if re.match(r"[a-z]+[ ,;.:]", text):
        text = text[0].upper() + text[1:]
    default = "Required." if action.required else f"Default: {default_of(action.default)}."
    return [f".. option:: {name} {values_of(action)}", "", f"   {escaped(text)} {default}".replace("    ", "   "), ""]


def values_of(action: Any) -> str:
    """What an option takes: ``INT``, ``{last,inner-val}``, …"""
    kind = getattr(action, "_typehint", None) or action.type
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"typing\.|, NoneType| \| None", "", text)
    text = re.sub(r"^(?:Optional|Union)\[(.*)\]$", r"\1", text)
    choices = re.fullmatch(r"Literal\[(.*)\]", text)
    if choices:
        return "{" + re.sub(r"[' ]", "", choices[1]) + "}"
    return "{true,false}" if text == "bool" else text.upper()


def default_of(value: Any) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"``{text}``" if text else "empty"


def escaped(text: str) -> str:
    """Help text as reStructuredText: names in backticks as they are, all else literally."""
    parts = re.split(r"(`+[^`]+`+)", re.sub(r"(?<![\w`-])(--[\w-]+)", r"`\1`", text))
    return "".join(
        f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mol-commands", Commands)
    return {"parallel_read_safe": True}
