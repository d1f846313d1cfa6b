"""From a command line or a YAML file to a dataclass of settings."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mol.common.checks import require_plain_numbers
from mol.common.differences import flat
from mol.common.errors import SettingsError
from mol.common.extras import require

Config = TypeVar("Config")

_LOADER = "settings"


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
        spelled = spell_out(config_class, positional, arguments)
        _require_short_numbers(config_class, spelled)
        parsed = parser.parse_args(spelled)
        _require_sections(config_class, parsed)
        read = parser.instantiate(parsed)
        config = config_class(**{name: value for name, value in vars(read).items() if name != "config"})
    except require("jsonargparse", "train").ArgumentError as error:
        message = _from_file(_plain(str(error), config_class, parser), parser, arguments)
        raise SettingsError(f"{message} See {prog} --help.") from error
    require_plain_numbers(config)
    return config


def _require_short_numbers(config_class: type, spelled: Sequence[str]) -> None:
    """Refuse whole numbers with more digits than a computer's numbers have; conversions fail on thousands of them."""
    numeric = {f"--{name}": kind for name, kind in _options(config_class) if re.search(r"\b(int|float)\b", str(kind))}
    for option, value in re.findall(r"(--[\w.]+)[=\n]([-+]?[0-9_]{20,})(?:\n|$)", "\n".join(spelled)):
        if option in numeric:
            digits = len(value.strip("-+"))
            raise SettingsError(f"{option} must be {_kind(numeric[option])} of fewer than 20 digits; it has {digits}")


def _require_sections(config_class: type, parsed: Any) -> None:
    """Refuse anything but named settings in the place of a section such as ``model``."""
    for name, kind in get_type_hints(config_class).items():
        value = getattr(parsed, name, None)
        if dataclasses.is_dataclass(kind) and not hasattr(value, "__dict__"):
            some = next(iter(get_type_hints(kind)))
            raise SettingsError(f"--{name} must be named settings such as --{name}.{some}, not {_short(str(value))!r}")


def config_parser(config_class: type, prog: str, description: str = "", footer: str = "") -> Any:
    """The jsonargparse parser of a configuration: ``--config`` and one option per field, nested with dots."""
    jsonargparse = require("jsonargparse", "train")
    formatter = _line_keeping(jsonargparse.DefaultHelpFormatter)
    yaml = require("yaml", "train")
    jsonargparse.set_loader(_LOADER, _value, (yaml.YAMLError, ValueError))
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=footer,
        formatter_class=formatter,
        exit_on_error=False,
        parser_mode=_LOADER,
    )
    action = _settings_file(jsonargparse.ActionConfigFile)
    parser.add_argument("--config", action=action, help="YAML file of settings; options given after it override it")
    parser.add_class_arguments(config_class)
    return parser


def _line_keeping(formatter: Any) -> type:
    """A help formatter that wraps a single line and keeps the line breaks of a text with several lines."""

    class LineKeeping(formatter):  # type: ignore[misc]
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text if "\n" in text else super()._fill_text(text, width, indent)

    return LineKeeping


def _value(text: str) -> Any:
    """A typed value: YAML, or the settings of a file, which come as JSON (`_settings_file`)."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # YAML with braces
    _typed().check_yaml_size(text)
    return require("jsonargparse", "train").get_loader("yaml")(text)


def _typed() -> Any:
    """The reader of JSON and YAML; ``mol --help`` doesn't need it, nor the package that it is built on."""
    return require("mol.common.typed", "train")


def _settings_file(action: Any) -> type:
    """jsonargparse's option for a file of settings, which is read by the reader of all YAML files."""

    class SettingsFile(action):  # type: ignore[misc]
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            remedy = "correct the file, or name another"
            content = _typed().read_yaml(Path(values), dict[str, Any], remedy, SettingsError)
            if "config" in content:
                raise SettingsError(f"{values}: a file of settings cannot name another one as config; {remedy}")
            parser.file_of = {**getattr(parser, "file_of", {}), **{name: values for name, _ in flat(content)}}
            super().__call__(parser, namespace, json.dumps(content), option_string)

    return SettingsFile


def _from_file(message: str, parser: Any, arguments: Sequence[str]) -> str:
    """A complaint about a setting, with the file that it came from."""
    found = re.match(r"--([\w.]+) must be", message)
    file = getattr(parser, "file_of", {}).get(found[1]) if found else None
    if found is None or file is None or any(word.startswith(f"--{found[1]}") for word in arguments):
        return message
    return f"{file}: {message.removeprefix('--')}"


def spell_out(config_class: type, positional: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Rewrite typed arguments as ``--name value`` throughout.

    ``--save-arrays`` → ``--save_arrays true``; a value without a name → the next of `positional`, which takes all
    remaining values if it is a list.

    Raises:
        SettingsError: more unnamed values than positional fields.
    """
    options = dict(_options(config_class))
    flags = {f"--{name}" for name, kind in options.items() if kind is bool or bool in get_args(kind)}
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
        if option in flags and (not given or given[0].lower() not in ("true", "false", "yes", "no", "auto")):
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
        return f"--{found[1]} must be {_kind(options[found[1]])}, not {_short(found[2])!r}."
    return re.sub(r'^Parser key "([\w.]+)"', r"--\1", text).removesuffix(".") + "."


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


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
