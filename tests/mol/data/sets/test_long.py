"""Long videos of one's own: a table with a line per annotated expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from films import write_film
from tiny_sets import write_frames

from mol.common.errors import DataError
from mol.data.manifest import NEUTRAL, read_manifest
from mol.data.prepare import PrepareConfig, prepare
from mol.data.sets.long import load_long

HEAD = "subject,video,path,kind,onset,apex,offset,emotion"
LINES = (
    "anna,talk,anna.mkv,micro,40,44,50,Disgust",
    "anna,talk,anna.mkv,macro,100,,140,happiness",
    "anna,talk,anna.mkv,blink,60,62,64,",
    "ben,talk,ben,,,,,",
)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("long")
    write_film(root / "anna.mkv", np.zeros((200, 16, 16), np.uint8), codec="ffv1", pixels="gray")
    write_frames(root / "ben", range(7, 20))
    return root


def write(root: Path, *lines: str, head: str = HEAD) -> Path:
    (root / "expressions.csv").write_text("\n".join([head, *lines]) + "\n")
    return root


def test_micro_expressions_are_clips_and_everything_is_kept_for_spotting(films):
    loaded = load_long(write(films, *(f"{line},25" for line in LINES), head=f"{HEAD},fps"))
    (clip,) = loaded.clips
    assert (clip.dataset, clip.subject, clip.clip, clip.path) == ("long", "anna", "talk_40", "anna.mkv")
    assert (clip.onset, clip.apex, clip.offset, clip.emotion, clip.fps) == (40, 44, 50, "disgust", 25.0)
    anna, ben = loaded.recordings
    assert [(one.kind, one.onset, one.apex, one.offset) for one in anna.expressions] == [
        ("micro", 40, 44, 50),
        ("blink", 60, 62, 64),
        ("macro", 100, None, 140),
    ]
    assert (ben.path, ben.expressions) == ("ben", ())


def test_the_rate_of_a_film_is_its_own(films):
    assert load_long(write(films, LINES[0])).recordings[0].fps == 30.0


def test_neutral_clips_keep_away_from_micro_and_macro_expressions_not_from_blinks(films):
    clips = [clip for clip in load_long(write(films, *LINES[:3]), neutral=50).clips if clip.emotion == NEUTRAL]
    assert clips
    for clip in clips:
        assert clip.offset < 40 - 30 or (clip.onset > 50 + 30 and clip.offset < 100 - 30) or clip.onset > 140 + 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("anna,talk,anna.mkv,mikro,1,2,3,fear", "the kind 'mikro' is not one of micro, macro, blink"),
        ("anna,talk,anna.mkv,micro,9,2,3,fear", "onset"),
        ("anna,talk,anna.mkv,micro,1,,,fear", "onset and offset are needed"),
        ("anna,talk,anna.mkv,micro,190,,210,fear", "lies outside the video, whose frames are 0 to 199"),
        ("anna,talk,anna.mkv,micro,one,,3,fear", "'one' is not a frame number"),
        ("anna,talk,anna.mkv,micro,1,,3,", "the column emotion is blank"),
        ("anna,a/b,anna.mkv,micro,1,,3,fear", "contains a slash"),
        (",talk,anna.mkv,micro,1,,3,fear", "the column subject is blank"),
        ("anna,talk,nobody.mkv,micro,1,,3,fear", r"nobody\.mkv"),
        ("ben,talk,ben,micro,8,,9,fear", "add a column fps"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(films, line, message):
    with pytest.raises(DataError, match=rf"expressions\.csv line 2.*{message}"):
        load_long(write(films, line))


def test_a_manifest_keeps_the_recordings(films, tmp_path):
    made = prepare(PrepareConfig("long", str(write(films, *LINES[:3])), str(tmp_path / "manifest")))
    assert read_manifest(tmp_path / "manifest").recordings == made.recordings
    assert made.recordings[0].expressions[0].emotion == "disgust"
    table = tmp_path / "manifest/recordings.csv"
    table.write_text(table.read_text().replace("disgust", "fear"))
    with pytest.raises(DataError, match=r"recordings\.csv is not what mol prepare wrote"):
        read_manifest(tmp_path / "manifest")


def test_a_manifest_without_long_videos_has_no_such_table(films, tmp_path):
    (films / "clips.csv").write_text("subject,clip,path,onset,apex,offset,label\nanna,a,anna.mkv,1,2,30,fear\n")
    prepare(PrepareConfig("generic", str(films / "clips.csv"), str(tmp_path / "manifest")))
    assert sorted(path.name for path in (tmp_path / "manifest").iterdir()) == ["clips.csv", "manifest.json"]
    assert read_manifest(tmp_path / "manifest").recordings == []
