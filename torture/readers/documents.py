"""Edits of JSON, YAML, CSV and plain text that know their structure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mol.common.extras import require
from torture.readers.edits import Edit, Edits, edit, edits, victim_of, weighed
from torture.readers.values import Text, json_values, spelled, texts

yaml = require("yaml", "train")
_MARK = "@HERE@"
_ELEMENTS = 3  # of a list are named; the others are like them


# --- JSON -----------------------------------------------------------------------------------------------------------


def json_edits(base: Path, file: str) -> Edits:
    """Types swapped, null, NaN, huge counts, missing keys, at every place of a document."""
    return _document_edits("json", file, json.loads((base / file).read_text(encoding="utf-8")), json_values())


def _document_edits(kind: str, file: str, document: Any, values: st.SearchStrategy[Text]) -> Edits:
    paths = list(places_in(document))
    # A long list must not hide the few other entries.
    places = st.sampled_from([path for path in paths if len(path) <= 1] or paths) | st.sampled_from(paths)
    return weighed(
        (5, edits(f"{kind}-set", file, place=places, value=values)),
        (2, edits(f"{kind}-drop", file, place=places)),
        (1, edits(f"{kind}-swap", file, place=places, other=places)),
        (1, edits(f"{kind}-key", file, place=places, name=texts())),
        (1, edits(f"{kind}-again", file, place=places)),
    )


def places_in(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[list[str | int]]:
    """Every place of a document: the keys and indices that lead to it."""
    yield list(path)
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places_in(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:_ELEMENTS]):
            yield from places_in(value, (*path, index))


def set_in_json(text: str, path: Sequence[str | int], value: str) -> str:
    """JSON with other, raw JSON at one place; the same text if it has no such place."""
    return _with_document(text, json.loads, _dumped, lambda top: _set(top, path, _MARK)).replace(f'"{_MARK}"', value)


def _dumped(document: Any) -> str:
    return json.dumps(document, indent=1)


def _with_document(
    text: str, parse: Callable[[str], Any], dump: Callable[[Any], str], change: Callable[[list[Any]], object]
) -> str:
    """Parse, change, write again; the same text if an edit before this one made it unreadable or took the place."""
    try:
        top = [parse(text)]
        change(top)
        return dump(top[0])
    except (LookupError, TypeError, ValueError, RecursionError, AttributeError, yaml.YAMLError):
        return text


def _holder(top: list[Any], path: Sequence[str | int]) -> tuple[Any, Any]:
    """The container of a place and the key in it; `top` itself holds the whole document."""
    holder: Any = top
    keys: list[Any] = [0, *path]
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]]  # it must be there
    return holder, keys[-1]


def _set(top: list[Any], path: Sequence[str | int], value: Any) -> None:
    holder, key = _holder(top, path)
    holder[key] = value


def _drop(top: list[Any], path: Sequence[str | int]) -> None:
    holder, key = _holder(top, path)
    if holder is not top:
        del holder[key]


def _swap(top: list[Any], path: Sequence[str | int], other: Sequence[str | int]) -> None:
    if len(path) < len(other) and list(other[: len(path)]) == list(path):
        path, other = other, path
    if list(path[: len(other)]) == list(other):  # one within the other: put it in its place
        holder, key = _holder(top, path)
        _set(top, other, holder[key])
        return
    (one, key), (two, name) = _holder(top, path), _holder(top, other)
    one[key], two[name] = two[name], one[key]


def _rename_key(top: list[Any], path: Sequence[str | int], name: str) -> None:
    holder, key = _holder(top, path)
    if isinstance(holder, dict):
        holder[name] = holder.pop(key)


def _again(top: list[Any], path: Sequence[str | int]) -> None:
    holder, key = _holder(top, path)
    if isinstance(holder, list) and holder is not top:
        holder.append(holder[key])


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Change a text file; one that an earlier edit made unreadable stays as it is."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    path.write_text(change(text), encoding="utf-8", errors="surrogatepass")


@edit("json-set")
def _json_set(path: Path, **arguments: Any) -> None:
    value = spelled(arguments["value"], victim_of(path))
    _rewrite(path, lambda text: set_in_json(text, arguments["place"], value))


# --- YAML -----------------------------------------------------------------------------------------------------------

_YAML: tuple[Text, ...] = (
    *(
        ((text, 1),)
        for text in (
            "~", "yes", ".nan", ".inf", "-.inf", "2001-01-01", "2001-12-14t21:59:43Z", "0x1F", "0o17", "1e400",
            "!!binary x",
            "!!set {a, b}", "&a [*a]", "*nowhere", "!!python/object/apply:os.system ['touch evil']", "!unknown x",
            "{", "[",
            "|", ">", "'", '"', "- a", "%", "@", "`", "? x", "<<: *a", "190:20:30", "!!float x", "!!int 3.5",
            "!!null x",
        )
    ),
    (("[", 2_000), ("]", 2_000)), (("[", 20_000),), (("{a: ", 3_000), ("1", 1), ("}", 3_000)),
    (("- ", 3_000), ("x", 1)),
)  # fmt: skip
_BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


def yaml_edits(base: Path, file: str) -> Edits:
    """Like those of JSON, with what only YAML has: tags, anchors, dates, numbers of many kinds, nested aliases."""
    document = yaml.safe_load((base / file).read_text(encoding="utf-8"))
    values = st.sampled_from(_YAML) | json_values()
    bomb = edits("before", file, text=st.sampled_from([_BOMB, "---\n", "%YAML 9.9\n---\n", "\t", "a: b: c", "\ufeff"]))
    return weighed((4, _document_edits("yaml", file, document, values)), (1, text_edits(file)), (1, bomb))


@edit("yaml-set")
def _yaml_set(path: Path, **arguments: Any) -> None:
    value = spelled(arguments["value"], victim_of(path))
    _change_yaml(path, lambda top: _set(top, arguments["place"], _MARK))
    _rewrite(path, lambda text: text.replace(f"'{_MARK}'", value).replace(_MARK, value))


@edit("before")
def _before(path: Path, text: str) -> None:
    _rewrite(path, lambda old: f"{text}\n{old}")


def _change_yaml(path: Path, change: Callable[[list[Any]], object]) -> None:
    _rewrite(path, lambda text: _with_document(text, yaml.safe_load, _yaml_text, change))


def _yaml_text(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _register(kind: str, change: Callable[[Path, Callable[[list[Any]], object]], None]) -> None:
    """The edits that JSON and YAML share."""

    @edit(f"{kind}-drop")
    def drop(path: Path, **arguments: Any) -> None:
        change(path, lambda top: _drop(top, arguments["place"]))

    @edit(f"{kind}-swap")
    def swap(path: Path, **arguments: Any) -> None:
        change(path, lambda top: _swap(top, arguments["place"], arguments["other"]))

    @edit(f"{kind}-key")
    def key(path: Path, **arguments: Any) -> None:
        name = spelled(arguments["name"], victim_of(path))
        change(path, lambda top: _rename_key(top, arguments["place"], name))

    @edit(f"{kind}-again")
    def again(path: Path, **arguments: Any) -> None:
        change(path, lambda top: _again(top, arguments["place"]))


def _change_json(path: Path, change: Callable[[list[Any]], object]) -> None:
    _rewrite(path, lambda text: _with_document(text, json.loads, _dumped, change))


_register("json", _change_json)
_register("yaml", _change_yaml)


# --- Tables ---------------------------------------------------------------------------------------------------------

_ENCODINGS = ("utf-16", "utf-16-be", "utf-8-sig", "latin-1", "utf-32", "cp037")


def csv_edits(base: Path, file: str) -> Edits:
    """Odd cells, and rows, columns and titles that are missing, double or in other places."""
    rows = list(csv.reader(io.StringIO((base / file).read_text(encoding="utf-8-sig"))))
    row, column = st.integers(0, len(rows) - 1), st.integers(0, max(map(len, rows)) - 1)
    cell = edits("cell", file, row=row, column=column, value=texts())
    return weighed(
        (5, cell),
        (1, edits("row-drop", file, row=row)),
        (1, edits("row-again", file, row=row, times=st.sampled_from([1, 2, 2000]))),
        (1, edits("column-drop", file, column=column)),
        (1, edits("column-again", file, column=column)),
        (1, edits("separator", file, to=st.sampled_from([";", "\t", "|", ""]))),
        (2, text_edits(file)),
    )


def text_edits(file: str) -> Edits:
    """Edits of any text: other encodings, line ends and odd pieces."""
    return st.one_of(
        edits("encode", file, encoding=st.sampled_from(_ENCODINGS)),
        edits("lines", file, end=st.sampled_from(["\r\n", "\r", "\n\n", "", "\x85", "\u2028"])),
        edits("text", file, at=st.floats(0, 1, allow_nan=False), value=texts()),
    )


def _change_rows(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    def rewritten(text: str) -> str:
        try:
            rows = list(csv.reader(io.StringIO(text)))
            change(rows)
        except (csv.Error, LookupError):
            return text
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue()

    _rewrite(path, rewritten)


@edit("cell")
def _cell(path: Path, row: int, column: int, value: Text) -> None:
    def change(rows: list[list[str]]) -> None:
        rows[row][column] = spelled(value, victim_of(path))

    _change_rows(path, change)


@edit("row-drop")
def _row_drop(path: Path, row: int) -> None:
    _change_rows(path, lambda rows: rows.pop(row))


@edit("row-again")
def _row_again(path: Path, row: int, times: int) -> None:
    _change_rows(path, lambda rows: rows.extend([rows[row]] * times))


@edit("column-drop")
def _column_drop(path: Path, column: int) -> None:
    def change(rows: list[list[str]]) -> None:
        for row in rows:
            del row[column : column + 1]

    _change_rows(path, change)


@edit("column-again")
def _column_again(path: Path, column: int) -> None:
    def change(rows: list[list[str]]) -> None:
        for row in rows:
            row += row[column : column + 1]

    _change_rows(path, change)


@edit("separator")
def _separator(path: Path, to: str) -> None:
    _rewrite(path, lambda text: text.replace(",", to))


@edit("encode")
def _encode(path: Path, encoding: str) -> None:
    try:
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding, errors="replace"))
    except UnicodeDecodeError:
        return


@edit("lines")
def _lines(path: Path, end: str) -> None:
    _rewrite(path, lambda text: end.join(text.split("\n")))


@edit("text")
def _text(path: Path, at: float, value: Text) -> None:
    def change(text: str) -> str:
        place = int(at * len(text))
        return text[:place] + spelled(value, victim_of(path)) + text[place:]

    _rewrite(path, change)


__all__ = ["Edit", "csv_edits", "json_edits", "set_in_json", "text_edits", "yaml_edits"]
