"""JSON and YAML read into known types: whatever is wrong is named with file, key, what was found and what is needed.

Every file of settings or facts that this program reads passes through here. A kind is a dataclass or another type hint;
entries that it does not name are ignored, so that later versions can add some. Reading takes bounded time and memory,
whatever the file holds.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mol.common.errors import DataError, MOLError
from mol.common.extras import require

Kind = TypeVar("Kind")

MOST_TEXT = 131_072
"""Characters of a text in JSON or YAML; the csv module has the same limit for a cell."""
_MOST_DEPTH = 64
_MOST_DIGITS = 20
_LARGEST = 2**64 - 1
_MOST_NODES = 200_000
_MOST_BYTES = {"JSON": 1 << 28, "YAML": 1 << 20}
_HUGE = 1.7976931348623157e308

Number = Annotated[float, Meta(ge=-_HUGE, le=_HUGE)]
"""Finite."""
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
"""At least 0 and small enough to compute with: a score, an error, a duration in seconds, a weight."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""From 0 to 1."""
Setting = Annotated[int, Meta(ge=-(10**6), le=10**6)] | Number | bool | str | None
"""A setting that shapes a network."""
Count = Annotated[int, Meta(ge=0, le=10**12)]
"""A whole number, 0 or more."""
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Of random numbers."""
FrameNumber = Annotated[int, Meta(ge=-(10**9), le=10**9)]
"""Of a picture or a frame of a video."""
Name = Annotated[str, Meta(min_length=1)]
"""Not empty."""


def read_json(path: Path, kind: type[Kind], remedy: str, error: type[MOLError] = DataError) -> Kind:
    """The content of a JSON file (UTF-8, UTF-16 or UTF-32, with or without a byte order mark).

    Args:
        path: the file.
        kind: what it must hold.
        remedy: the end of every message: what to do about a file that cannot be used.
        error: the kind of error.
    Raises:
        MOLError: of that kind, if the file is missing, unreadable, or holds something else.
    """
    return parse_json(_text_of(path, "JSON", remedy, error), kind, str(path), remedy, error)


def parse_json(text: str, kind: type[Kind], where: str, remedy: str, error: type[MOLError] = DataError) -> Kind:
    """As `read_json`, for text from elsewhere, such as the metadata of a safetensors file; `where` names it."""
    try:
        content = json.loads(text, parse_int=_whole_number)
    except RecursionError as depth:
        raise error(f"{where} cannot be read as JSON (it is nested too deeply); {remedy}") from depth
    except ValueError as damage:
        raise error(f"{where} cannot be read as JSON ({damage}); {remedy}") from damage
    return typed(content, kind, where, remedy, error)


def read_yaml(path: Path, kind: type[Kind], remedy: str, error: type[MOLError] = DataError) -> Kind:
    """The content of a YAML file; arguments, encodings and errors as for `read_json`.

    Numbers may be written as ``1e-3``, dates stay text, and aliases may expand to a bounded size only.
    """
    text = _text_of(path, "YAML", remedy, error)
    yaml = require("yaml", "train")
    try:
        check_yaml_size(text)
        content = yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as damage:
        reason = " ".join(str(damage).split())
        raise error(f"{path} cannot be read as YAML ({reason}); {remedy}") from damage
    return typed(content, kind, str(path), remedy, error)


def typed(
    content: Any,
    kind: type[Kind],
    where: str,
    remedy: str,
    error: type[MOLError] = DataError,
    texts: bool = False,
) -> Kind:
    """What was parsed as JSON, YAML or CSV, as the kind that is needed.

    Args:
        content: lists, dictionaries, text, numbers, truth values and None.
        kind: a type hint.
        where: names the file in messages.
        remedy: the end of every message.
        error: the kind of error.
        texts: numbers may be written as text, as in CSV.
    Raises:
        MOLError: of that kind, with the key, what was found there and what is needed.
    """
    if problem := _untame(content):
        raise error(f"{where}: {problem}; {remedy}")
    try:
        return msgspec.convert(content, kind, strict=not texts)
    except msgspec.ValidationError as wrong:
        raise error(f"{where}: {_explain(content, kind, str(wrong), not texts)}; {remedy}") from wrong


def values_of(record: Any) -> dict[str, Any]:
    """The fields of a dataclass that `typed` gave, by name; those that were missing in the file with their defaults.

    `vars` leaves the latter out: msgspec does not set them.
    """
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _text_of(path: Path, language: str, remedy: str, error: type[MOLError]) -> str:
    """The text of a file that is an ordinary one and no larger than such files are."""
    most = _MOST_BYTES[language]
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is not an ordinary file")
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"it has more than {most >> 20} MB")
        return data.decode(_encoding(data))
    except FileNotFoundError as missing:
        raise error(f"{path} is missing; {remedy}") from missing
    except (OSError, ValueError) as damage:
        reason = damage.strerror if isinstance(damage, OSError) and damage.strerror else damage
        raise error(f"{path} cannot be read ({reason}); {remedy}") from damage


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for someone to write to it, as a named pipe would."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _encoding(data: bytes) -> str:
    """As RFC 4627 tells it from a byte order mark or the zeros in the first bytes."""
    return "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else json.detect_encoding(data)


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


@cache
def _yaml_loader() -> type:
    """PyYAML's safe loader, by whose rules ``1e-3`` is a number and a date is text."""
    yaml = require("yaml", "train")
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    others = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in others]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    loader = type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
    number = r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    special = r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    loader.add_implicit_resolver(others[0], re.compile(number + special), list("-+0123456789."))  # type: ignore[attr-defined]
    return loader


def check_yaml_size(text: str) -> None:
    """Refuse YAML that is nested too deeply, or whose aliases stand for too much: each counts as what it stands for.

    Raises:
        ValueError, yaml.YAMLError: with the reason.
    """
    yaml = require("yaml", "train")
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.AliasEvent):
            if anchor in (name for name, _ in open_nodes):
                raise ValueError(f"the alias *{anchor} stands for something that contains it")
            size, anchor = sizes.get(str(anchor), 0), None
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
            anchor = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        if anchor is not None:
            sizes[anchor] = size
        outer, so_far = open_nodes[-1]
        open_nodes[-1] = outer, so_far + size
        if len(open_nodes) > _MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        if open_nodes[-1][1] > _MOST_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_NODES:,} values")


Place = tuple[Any, ...]
"""Keys and positions from the outermost value to one inside."""


def _untame(content: Any) -> str:
    """What no file of this program holds and other code would fail on later, with its key; empty if there is none."""
    waiting: list[tuple[Any, Place]] = [([content], ())]
    while waiting:
        holder, place = waiting.pop()
        if len(place) > _MOST_DEPTH:
            return f"it is nested deeper than {_MOST_DEPTH} levels"
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(holder, dict) and (not isinstance(key, str) or _text_problem(key)):
                return f"{_of(place[1:])}has the key {_shown(key)}; keys must be text"
            if isinstance(value, (dict, list)):
                waiting.append((value, (*place, key)))
            elif isinstance(value, str) and (problem := _text_problem(value)):
                return f"{_of((*place, key)[1:])}is {problem}"
            elif value is not None and not isinstance(value, (str, bool, int, float)):
                return f"{_of((*place, key)[1:])}is {_shown(value)}; only text, numbers, true, false and null can be"
            elif isinstance(value, int) and abs(value) > _LARGEST:
                return f"{_of((*place, key)[1:])}is a number of about {int(value.bit_length() * 0.30103)} digits"
    return ""


def _text_problem(text: str) -> str:
    if len(text) > MOST_TEXT:
        return f"a text of {len(text):,} characters; at most {MOST_TEXT:,} are read"
    if "\0" in text:
        return f"{_shown(text)}, which contains a null character"
    if not text.isascii():
        try:
            text.encode("utf-8", "surrogateescape")  # as Python reads names of files that are not UTF-8
        except UnicodeEncodeError:
            return f"{json.dumps(text[:40])}, which is not Unicode text"
    return ""


_EXPECTED = re.compile(r"Expected `(?P<needed>[^`]+)`(?P<limit> [<>=]+ \S+)?(?P<rest>.*)", re.DOTALL)
_PLACE = re.compile(r" - at `(?P<key>key` in `)?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<position>\d+)\]|(?P<entry>\[\.\.\.\])")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a set of named entries",
}
_LIMITS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def _explain(content: Any, kind: Any, message: str, strict: bool) -> str:
    """msgspec's message in words, with the key and what is there."""
    found = _PLACE.search(message)
    what = message[: found.start()] if found else message
    place = _place(content, kind, message, found["path"] if found else "", strict)
    if missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        return f"{_named((*place, missing[1]))} is missing"
    if found and found["key"]:
        return f"{_of(place)}has a key that is not {_needed(what).removeprefix('must be ')}"
    value = _at(content, place)
    return f"{_of(place)}is {_shown(value)}, but {_needed(what)}"


def _needed(what: str) -> str:
    """``Expected `int` >= 1`` → must be a whole number, at least 1."""
    expected = _EXPECTED.fullmatch(what)
    if expected is None:
        return what
    kinds = " or ".join(_WORDS.get(name, name) for name in expected["needed"].split(" | "))
    text = f"must be {kinds}"
    if expected["limit"]:
        sign, limit = expected["limit"].split()
        if abs(float(limit)) == _HUGE:
            return f"{text} that is finite"
        return f"{text}, {_LIMITS.get(sign, sign)} {limit}"
    if length := re.match(r" of length (>= |<= )?(\d+)", expected["rest"]):
        least = _LIMITS[length[1].strip()] + " " if length[1] else ""
        things = "characters" if expected["needed"].startswith("str") else "entries"
        return f"{text} of {least}{length[2]} {things}"
    return text


def _place(content: Any, kind: Any, message: str, path: str, strict: bool) -> Place:
    """The place that msgspec names; it says ``[...]`` for an entry of a dictionary, which is searched for here."""
    place: Place = ()
    for step in _STEP.finditer(path):
        if step["field"] is not None:
            place = (*place, step["field"])
        elif step["position"] is not None:
            place = (*place, int(step["position"]))
        else:
            place = (*place, _culprit(content, kind, message, place, strict))
    return place


def _culprit(content: Any, kind: Any, message: str, place: Place, strict: bool) -> Any:
    """The entry of the dictionary at `place` without whose siblings the message is still the same."""
    entries = _at(content, place)
    for key, value in entries.items():
        try:
            msgspec.convert(_replaced(content, place, {key: value}), kind, strict=strict)
        except msgspec.ValidationError as again:
            if str(again) == message:
                return key
    return "…"


def _replaced(content: Any, place: Place, value: Any) -> Any:
    """A copy of the content with another value at a place."""
    if not place:
        return value
    key, *rest = place
    copy = dict(content) if isinstance(content, Mapping) else list(content)
    copy[key] = _replaced(content[key], tuple(rest), value)
    return copy


def _at(content: Any, place: Place) -> Any:
    for key in place:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _named(place: Place) -> str:
    """``folds[0].seed``; a key that is no plain word is quoted."""
    text = ""
    for key in place:
        if isinstance(key, int) and not isinstance(key, bool):
            text += f"[{key}]"
        else:
            name = str(key)
            shown = name if re.fullmatch(r"[\w.-]{1,60}", name, re.ASCII) else _shown(name)
            text += f".{shown}" if text else shown
    return text


def _of(place: Place) -> str:
    return f"{_named(place)} " if place else "its content "


def _shown(value: Any) -> str:
    """What was found, in a few words."""
    if isinstance(value, dict):
        return "a set of named entries"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "null"
    if isinstance(value, str):
        text = json.dumps(value[:60])
        return text if len(value) <= 60 else f'{text[:-1]}…" ({len(value):,} characters)'
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return f"of the type {type(value).__name__}"
