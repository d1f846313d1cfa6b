"""JSON and YAML into known types: what is wrong is named with file, key, what was found and what is needed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mol.common.errors import DataError, MediaError
from mol.common.typed import (
    MOST_TEXT,
    Count,
    Name,
    Number,
    Share,
    check_yaml_size,
    parse_json,
    read_json,
    read_yaml,
    typed,
    values_of,
)

REMEDY = "write it again"


@dataclass(frozen=True)
class Part:
    seed: Count
    rate: Number = 1.0
    share: Share | None = None


@dataclass(frozen=True)
class File:
    parts: list[Part]
    name: Name = "a"
    counts: dict[str, dict[str, Count]] = field(default_factory=dict)
    points: list[tuple[float, float]] | None = None


def error_of(path: Path, text: str | bytes, kind: Any = File) -> str:
    """The message for a file with this content, which must name the file and end in the remedy."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = read_yaml if path.suffix == ".yaml" else read_json
    with pytest.raises(DataError) as caught:
        read(path, kind, REMEDY)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(f"; {REMEDY}")
    assert len(message) < 600
    return message.removeprefix(str(path)).removesuffix(f"; {REMEDY}")


def test_a_file_becomes_its_kind_and_unknown_entries_are_left_out(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"parts": [{"seed": 3, "rate": 1, "later": []}], "later": {"x": 1}}')
    assert read_json(tmp_path / "a.json", File, REMEDY) == File([Part(3, 1.0)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"parts": [{"seed": "x"}]}', ': parts[0].seed is "x", but must be a whole number'),
        ('{"parts": [{"seed": true}]}', ": parts[0].seed is true, but must be a whole number"),
        ('{"parts": [{"seed": 1.5}]}', ": parts[0].seed is 1.5, but must be a whole number"),
        ('{"parts": [{"seed": -1}]}', ": parts[0].seed is -1, but must be a whole number, at least 0"),
        ('{"parts": [{"seed": 1}, {}]}', ": parts[1].seed is missing"),
        ('{"parts": [{"seed": 1, "rate": NaN}]}', ": parts[0].rate is NaN, but must be a number that is finite"),
        ('{"parts": [{"seed": 1, "rate": 1e999}]}', ": parts[0].rate is Infinity, but must be a number that is finite"),
        ('{"parts": [{"seed": 1, "share": 2}]}', ": parts[0].share is 2, but must be a number, at most 1.0"),
        ('{"parts": null}', ": parts is null, but must be a list"),
        ('{"parts": [], "name": ""}', ': name is "", but must be text of at least 1 characters'),
        ('{"parts": [], "name": ["a"]}', ": name is a list of 1, but must be text"),
        ('{"parts": [], "points": [[1, 2], [3]]}', ": points[1] is a list of 1, but must be a list of 2 entries"),
        ("[1]", ": its content is a list of 1, but must be a set of named entries"),
        # The entries of a dictionary are named too.
        (
            '{"parts": [], "counts": {"casme2": {"a": 1}, "s/1": {"b": 2, "c d": null}}}',
            ': counts."s/1"."c d" is null, but must be a whole number',
        ),
    ],
)
def test_a_wrong_entry_is_named_with_what_was_found_and_what_is_needed(tmp_path: Path, text: str, message: str):
    assert error_of(tmp_path / "a.json", text) == message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str):
    (tmp_path / "a.json").write_bytes('{"ä": "€"}'.encode(encoding))
    assert read_json(tmp_path / "a.json", dict[str, str], REMEDY) == {"ä": "€"}
    (tmp_path / "a.yaml").write_bytes("ab: €\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml", dict[str, str], REMEDY) == {"ab": "€"}


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    assert error_of(tmp_path / "a.json", b'{"a": "\xe4"}').startswith(" cannot be read ('utf-8' codec")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, " cannot be read as JSON (it is nested too deeply)"),
        ("[" * 100_000 + "]" * 100_000, " cannot be read as JSON (it is nested too deeply)"),
        ("[" * 80 + "]" * 80, ": it is nested deeper than 64 levels"),
        ('{"parts": ' + "9" * 5000 + "}", " cannot be read as JSON (it has a number of 5000 digits)"),
        ('{"parts": -' + "9" * 4000 + "}", " cannot be read as JSON (it has a number of 4001 digits)"),
        ('{"a": {"b": ["' + "x" * 1_000_000 + '"]}}', ": a.b[0] is a text of 1,000,000 characters; at most 131,072"),
        ('{"' + "x" * 1_000_000 + '": 1}', f': its content has the key "{"x" * 60}…" (1,000,000 characters); keys'),
        ('{"a": "\\ud800"}', ': a is "\\ud800", which is not Unicode text'),
        ('{"a": "b\\u0000"}', ': a is "b\\u0000", which contains a null character'),
        ("", " cannot be read as JSON (Expecting value"),
        ("{'a': 1}", " cannot be read as JSON (Expecting property name"),
    ],
    ids=range(11),
)
def test_json_that_no_program_wrote_is_refused_in_one_line(tmp_path: Path, text: str, message: str):
    assert error_of(tmp_path / "a.json", text).startswith(message)


def bomb(levels: int) -> str:
    """YAML of nine lines whose aliases stand for 10 ** levels values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), " cannot be read as YAML (its aliases stand for more than 200,000 values)"),
        ("a: &a {b: *a}", " cannot be read as YAML (the alias *a stands for something that contains it)"),
        (
            "x: &x {a: 1}\n" + "y: &y\n  <<: [" + ", ".join(["*x"] * 150_000) + "]",
            " cannot be read as YAML (its aliases",
        ),
        ("[" * 100_000, " cannot be read as YAML ("),
        ("a: " + "{b: " * 70 + "1" + "}" * 70, " cannot be read as YAML (it is nested too deeply)"),
        ("a: " + "9" * 5000, " cannot be read as YAML ("),
        ("a: " + "9" * 4000, ": a is a number of about 4000 digits"),
        ("a: 0x" + "f" * 5000, ": a is a number of about 6020 digits"),
        ("a: " + "x" * 1_000_000, ": a is a text of 1,000,000 characters"),
        ("a: " + "x" * 2_000_000, " cannot be read (it has more than 1 MB)"),
        ("1: a", ": its content has the key 1; keys must be text"),
        ("a: {on: 1}", ": a has the key true; keys must be text"),
        ("a: !!binary aGk=", ": a is of the type bytes"),
        ("a: !!set {b}", ": a is of the type set"),
        ("a: !!timestamp x", " cannot be read as YAML ("),
        ("a: !!int x", " cannot be read as YAML ("),
        ("a: !!python/object/apply:os.getcwd []", " cannot be read as YAML ("),
        ("? [1]\n: 2", " cannot be read as YAML ("),
        ("a: *b", " cannot be read as YAML ("),
        ("a: 1\n---\nb: 2", " cannot be read as YAML ("),
        ("- 1", ": its content is a list of 1, but must be a set of named entries"),
        ("", ": its content is null, but must be a set of named entries"),
    ],
    ids=range(22),
)
def test_yaml_that_is_no_settings_is_refused_in_one_line(tmp_path: Path, text: str, message: str):
    assert error_of(tmp_path / "a.yaml", text, dict[str, Any]).startswith(message)


def test_yaml_reads_numbers_and_dates_as_people_mean_them_and_ordinary_aliases(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 2.5E+2\nc: .inf\nd: 2020-01-01\ne: &e [1, 2]\nf: *e\ng: {<<: {h: 1}}")
    assert read_yaml(tmp_path / "a.yaml", dict[str, Any], REMEDY) == {
        "a": 0.001,
        "b": 250.0,
        "c": float("inf"),
        "d": "2020-01-01",
        "e": [1, 2],
        "f": [1, 2],
        "g": {"h": 1},
    }
    check_yaml_size(bomb(4))


def test_a_file_that_is_missing_or_none_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none", "is missing"), ("pipe", "not an ordinary file"), (".", "cannot be read")):
        with pytest.raises(MediaError, match=reason):
            read_json(tmp_path / name, File, REMEDY, MediaError)


def test_text_and_values_from_elsewhere_have_the_name_that_is_given():
    with pytest.raises(DataError, match=r"^a\.safetensors, groups: \[0\] is 1, but must be text; write it again$"):
        parse_json("[1]", list[str], "a.safetensors, groups", REMEDY)
    with pytest.raises(DataError, match=r"^here: a is 3, but must be text or null; write it again$"):
        typed({"a": 3}, dict[str, str | None], "here", REMEDY)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("x", 'seed is "x", but must be a whole number'),
        ("", 'seed is "", but must be a whole number'),
        ("-1", 'seed is "-1", but must be a whole number, at least 0'),
        ("1.5", 'seed is "1.5", but must be a whole number'),
        ("9" * 30, f'seed is "{"9" * 30}", but'),
        ("9" * 5000, f'seed is "{"9" * 60}…" (5,000 characters), but'),
    ],
)
def test_the_numbers_of_a_table_are_texts(found: str, message: str):
    assert typed({"seed": "12", "rate": "1e-3"}, Part, "here", REMEDY, texts=True) == Part(12, 0.001)
    with pytest.raises(DataError) as caught:
        typed({"seed": found}, Part, "here", REMEDY, texts=True)
    assert str(caught.value).startswith(f"here: {message}")


def test_texts_up_to_the_limit_are_read():
    assert typed({"a": "x" * MOST_TEXT}, dict[str, str], "here", REMEDY) == {"a": "x" * MOST_TEXT}
    assert parse_json(json.dumps({"a": "Ω" * 100}), dict[str, str], "here", REMEDY) == {"a": "Ω" * 100}


def test_the_name_of_a_file_that_is_not_utf8_is_text(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"path": "film-\\udcff.mp4"}')
    read = read_json(tmp_path / "a.json", dict[str, str], REMEDY)
    assert os.fsencode(read["path"]) == b"film-\xff.mp4"
    (tmp_path / "a.json").write_text('{"path": "film-\\ud800.mp4"}')
    with pytest.raises(DataError, match="not Unicode text"):
        read_json(tmp_path / "a.json", dict[str, str], REMEDY)


def test_fields_that_the_file_lacks_have_their_defaults_among_the_values():
    @dataclasses.dataclass(frozen=True)
    class Record:
        name: str
        count: int = 3
        note: str | None = None

    found = typed({"name": "a", "note": "b"}, Record, "file.json", "remedy")
    assert values_of(found) == {"name": "a", "count": 3, "note": "b"}
