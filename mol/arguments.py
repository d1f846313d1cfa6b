"""From a command line or a YAML file to a dataclass of settings."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mol.common.errors import SettingsError
from mol.common.extras import require

Config = TypeVar("Config")


def read_config(
    config_class: type[Config],
    arguments: Sequence[str],
    prog: str,
    description: str = "",
    positional: Sequence[str] = (),
    footer: str = "",
) -> Config:
    """Build a configuration from ``--config FILE`` and ``--field value`` overrides; exits on ``--help``.

    Args:
        config_class: a dataclass of settings.
        arguments: command-line arguments after the command's name, as typed (see `spell_out`).
        prog: the command, for the help text.
        description: first line of the help text.
        positional: fields that can be given without their names.
        footer: last lines of the help text.
    Raises:
        SettingsError: an unknown name, a value of the wrong kind or a missing one.
    """
    parser = config_parser(config_class, prog, description, footer)
    try:
        read = parser.instantiate(parser.parse_args(spell_out(config_class, positional, arguments)))
        return config_class(**{name: value for name, value in vars(read).items() if name != "config"})
    except require("jsonargparse", "train").ArgumentError as error:
        raise SettingsError(f"{_plain(str(error), config_class, parser)} See {prog} --help.") from error


def config_parser(config_class: type, prog: str, description: str = "", footer: str = "") -> Any:
    """The jsonargparse parser of a configuration: ``--config`` and one option per field, nested with dots."""
    jsonargparse = require("jsonargparse", "train")
    formatter = _line_keeping(jsonargparse.DefaultHelpFormatter)
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=description, epilog=footer, formatter_class=formatter, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; options given after it override it")
    parser.add_class_arguments(config_class)
    return parser


def _line_keeping(formatter: Any) -> type:
    """A help formatter that wraps a single line and keeps the line breaks of a text with several lines."""

    class LineKeeping(formatter):  # type: ignore[misc]
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text if "\n" in text else super()._fill_text(text, width, indent)

    return LineKeeping


def spell_out(config_class: type, positional: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Rewrite typed arguments as ``--name value`` throughout.

    ``--save-arrays`` → ``--save_arrays true``; a value without a name → the next of `positional`, which takes all
    remaining values if it is a list.

    Raises:
        SettingsError: more unnamed values than positional fields.
    """
    options = dict(_options(config_class))
    flags = {f"--{name}" for name, kind in options.items() if kind is bool}
    lists = {name for name, kind in options.items() if get_origin(kind) is list}
    nameless = list(positional)
    collected: dict[str, list[str]] = {}
    given = list(arguments)
    spelled: list[str] = []
    previous = ""
    while given:
        argument = given.pop(0)
        if not argument.startswith("-"):
            if not nameless:
                after = f" after the yes/no option {previous}" if previous in flags else ""
                raise SettingsError(f"unexpected argument {argument!r}{after}; options are given as --name value")
            if nameless[0] in lists:
                collected.setdefault(nameless[0], []).append(argument)
            else:
                spelled += [f"--{nameless.pop(0)}", argument]
            continue
        option, equals, value = argument.partition("=")
        option = option[:2] + option[2:].replace("-", "_")
        spelled.append(option + equals + value)
        previous = option
        if equals or option in ("-h", "--help", "--print_config"):
            continue
        if option in flags and (not given or given[0].lower() not in ("true", "false", "yes", "no")):
            spelled.append("true")
        elif given:
            spelled.append(given.pop(0))
    return spelled + [word for name, values in collected.items() for word in (f"--{name}", json.dumps(values))]


def _options(config_class: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and types of all fields."""
    options: list[tuple[str, Any]] = []
    for name, kind in get_type_hints(config_class).items():
        nested = dataclasses.is_dataclass(kind)
        options += _options(kind, f"{prefix}{name}.") if nested else [(prefix + name, kind)]  # type: ignore[arg-type]
    return options


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _plain(message: str, config_class: type, parser: Any) -> str:
    """jsonargparse's complaint in words for people who type commands; one that is not known here stays as it is."""
    text = " ".join(message.split())
    options = dict(_options(config_class))
    if found := re.search(r"arguments are required: (.+)", text):
        helps = {action.dest: action.help for action in parser._actions}
        shown = {name: str(helps.get(name)).split(" (")[0].rstrip(".") for name in found[1].split(", ")}
        return "; ".join(f"--{name} is required ({text})" for name, text in shown.items()) + "."
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        name = found[1].partition("=")[0]
        close = difflib.get_close_matches(name.lstrip("-"), options, n=1)
        return f"unknown option {name}" + (f"; did you mean --{close[0]}?" if close else ".")
    if found := re.search(r"argument (--[\w.]+)\S*: expected one argument", text):
        return f"{found[1]} needs a value."
    found = re.search(r'Parser key "([\w.]+)": .*?(?:Got|Given) value: (.*)', text)
    if found and found[1] in options:
        return f"--{found[1]} must be {_kind(options[found[1]])}, not {found[2]!r}."
    return re.sub(r'^Parser key "([\w.]+)"', r"--\1", text).removesuffix(".") + "."


def _kind(kind: Any) -> str:
    """What a value of this type looks like: ``a whole number``, ``HS, VIS or NIR``."""
    if get_origin(kind) is Literal:
        *some, last = map(str, get_args(kind))
        return f"{', '.join(some)} or {last}" if some else last
    if get_origin(kind) is list:
        return "a list such as '[a, b]'"
    kinds = [entry for entry in get_args(kind) if entry is not type(None)]
    if kinds:
        return " or ".join(map(_kind, kinds))
    return _KINDS.get(kind, getattr(kind, "__name__", str(kind)))
