"""Neutral clips of the data sets: folders of their own, or segments of long videos away from every expression."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError, SettingsError
from mol.data.manifest import Clip
from mol.data.prepare import PrepareConfig, prepare
from mol.data.protocol import as_labelled, left_out
from mol.data.protocols import find_protocol
from mol.data.sets.casme3 import load_casme3
from mol.data.sets.casme_sq import load_casme_sq
from mol.data.sets.neutral import LongVideo, neutral_segments, spread
from mol.data.sets.registry import SETS
from mol.data.sets.smic import load_smic
from mol.data.sets.smic_e import load_smic_e

SETS_WITH_NEUTRAL = ("casme-sq", "casme3", "samm-lv", "smic", "smic-e", "long")


def neutral(clips: list[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.emotion == "neutral"]


def frames_of(clip: Clip) -> set[int]:
    return set(range(clip.onset, clip.offset + 1))


def expression(length: int = 10) -> Clip:
    return Clip("set", "s1", "one", "one", 0, None, length - 1, "surprise")


def segments(video: LongVideo, length: int = 10, fps: float = 30.0, most: int = 100) -> list[tuple[int, int]]:
    found = neutral_segments("set", [video], [expression(length)], fps, most)
    return [(clip.onset, clip.offset) for clip in found]


# Segments


def test_segments_keep_the_margin_to_every_expression():
    video = LongVideo("s1", "one", "one", range(1, 201), [(60, 70), (150, 152)])
    for onset, offset in segments(video):
        assert offset - onset + 1 == 10
        assert onset >= 1
        assert offset <= 200
        assert all(offset < first - 30 or onset > last + 30 for first, last in video.busy)
    assert len(segments(video)) == 29 // 10 + (119 - 101 + 1) // 10 + (200 - 183 + 1) // 10


def test_segments_do_not_overlap():
    found = segments(LongVideo("s1", "one", "one", range(400), [(0, 5)]))
    assert len(found) == (399 - 36 + 1) // 10
    assert all(later[0] > earlier[1] for earlier, later in pairwise(found))


def test_a_margin_is_a_second_whatever_the_frame_rate():
    video = LongVideo("s1", "one", "one", range(400), [(0, 5)])
    assert min(onset for onset, _ in segments(video, length=8, fps=100.0)) in range(106, 114)


def test_nothing_after_an_expression_without_an_end_is_neutral():
    assert all(offset < 70 for _, offset in segments(LongVideo("s1", "one", "one", range(400), [(100, None)])))


def test_segments_have_no_gap_in_the_frames():
    numbers = [number for number in range(200) if number % 25]
    for onset, offset in segments(LongVideo("s1", "one", "one", numbers, [(0, 1)])):
        assert set(range(onset, offset + 1)) <= set(numbers)


def test_a_segment_has_at_least_eight_frames_however_short_the_expressions():
    assert {offset - onset + 1 for onset, offset in segments(LongVideo("s1", "a", "a", range(99), [(0, 1)]), 3)} == {8}


def test_a_video_without_annotations_is_not_used():
    with pytest.raises(DataError, match="omit --neutral"):
        segments(LongVideo("s1", "one", "one", range(400)))


def test_at_most_as_many_as_asked_for_come_from_each_person_spread_over_the_videos():
    videos = [LongVideo(who, name, name, range(400), [(0, 5)]) for who in ("s1", "s2") for name in "ab"]
    found = neutral_segments("set", videos, [expression()], 30.0, 4)
    assert [(clip.subject, clip.clip[0]) for clip in found] == [(who, name) for who in ("s1", "s2") for name in "aabb"]
    assert spread(["a", "b", "c"], 5) == ["a", "b", "c"]


# CAS(ME)²

MICRO = (1, "anger1_1", 100, 106, 109, "4+7", "negative", "micro-expression", "anger")
MACRO = (1, "anger1_2", 220, 240, 270, "6+12", "positive", "macro-expression", "happiness")


def write_casme_sq(root: Path, *rows: tuple) -> Path:
    write_book(root / "code_final.xlsx", rows, [(1, "s15", 1)], [("0401", "anger1"), (502, "happy1")])
    for video in ("0401girlcrashing", "0502funnyerrors"):
        write_frames(root / "rawpic/s15" / f"15_{video}", range(1, 401), "img{:03d}.jpg")
    return root


def test_casme_sq_has_neutral_clips_away_from_micro_and_macro_expressions(tmp_path: Path):
    loaded = load_casme_sq(write_casme_sq(tmp_path, MICRO, MACRO), neutral=5)
    found = neutral(loaded.clips)
    assert len(found) == 5
    assert loaded.clips[0].clip == "anger1_100"
    for clip in found:
        assert (clip.subject, clip.apex, clip.action_units, clip.fps) == ("s15", None, "", 30.0)
        assert clip.path == "rawpic/s15/15_0401girlcrashing"
        assert clip.clip == f"anger1_neutral_{clip.onset}"
        assert not frames_of(clip) & set(range(70, 140))
        assert not frames_of(clip) & set(range(190, 301))


def test_casme_sq_has_none_by_default(tmp_path: Path):
    assert not neutral(load_casme_sq(write_casme_sq(tmp_path, MICRO, MACRO)).clips)


def test_casme_sq_takes_a_macro_expression_without_an_offset_to_last_to_the_end(tmp_path: Path):
    rows = (MICRO, (*MACRO[:4], 0, *MACRO[5:]))
    assert all(clip.offset < 190 for clip in neutral(load_casme_sq(write_casme_sq(tmp_path, *rows), neutral=50).clips))


def test_casme_sq_names_a_macro_expression_without_an_onset(tmp_path: Path):
    rows = (MICRO, (*MACRO[:2], None, *MACRO[3:]))
    with pytest.raises(DataError, match=r"row 2 \(anger1_2\): the column onset is blank"):
        load_casme_sq(write_casme_sq(tmp_path, *rows), neutral=5)


@pytest.mark.parametrize("wrong", [(*MACRO[:2], None, *MACRO[3:]), (*MACRO[:7], "mikro", MACRO[8])])
def test_casme_sq_uses_nothing_of_a_video_with_a_row_that_was_dropped(tmp_path: Path, wrong: tuple):
    elsewhere = (1, "happy1_1", *MICRO[2:])
    loaded = load_casme_sq(write_casme_sq(tmp_path, MICRO, wrong, elsewhere), "skip", neutral=50)
    assert {clip.path for clip in neutral(loaded.clips)} == {"rawpic/s15/15_0502funnyerrors"}


def test_casme_sq_without_room_for_a_neutral_clip_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="no video has 10 consecutive frames that are 30 frames away"):
        load_casme_sq(write_casme_sq(tmp_path, MICRO, (*MACRO[:2], 1, 50, 400, *MACRO[5:])), neutral=5)


# CAS(ME)³

HEADER = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
MICRO_SHEET, MACRO_SHEET = (
    f"annotation/cas(me)3_part_A_{kind}.xlsx" for kind in ("ME_label_JpgIndex_v2", "MaE_label_JpgIndex_v2_emotion")
)


def write_casme3(root: Path, macro: tuple | None = ("spNO.1", "A", 200, 210, 230, "12", "happiness")) -> Path:
    write_book(root / MICRO_SHEET, [HEADER, ("spNO.1", "a", 100, 104, 109, "4", 1, "disgust")])
    if macro:
        write_book(root / MACRO_SHEET, [(*HEADER[:6], "emotion"), macro])
    write_frames(root / "part_A/spNO.1/a/color", range(1, 401))
    write_frames(root / "part_A/spNO.1/b/color", range(1, 401))
    return root


def test_casme3_has_neutral_clips_away_from_both_sheets(tmp_path: Path):
    loaded = load_casme3(write_casme3(tmp_path), neutral=50)
    found = neutral(loaded.clips)
    assert {clip.path for clip in found} == {"part_A/spNO.1/a/color"}
    assert not set().union(*map(frames_of, found)) & {*range(70, 140), *range(170, 261)}
    assert max(clip.offset for clip in found) > 380
    assert not neutral(load_casme3(tmp_path).clips)


def test_casme3_needs_the_sheet_of_macro_expressions(tmp_path: Path):
    with pytest.raises(DataError, match=r"macro-expressions, which --neutral needs under .*MaE_label_JpgIndex"):
        load_casme3(write_casme3(tmp_path, macro=None), neutral=5)


def test_casme3_needs_the_long_videos(tmp_path: Path):
    write_casme3(tmp_path)
    (tmp_path / "part_A").rename(tmp_path / "elsewhere")
    write_frames(tmp_path / "Part_A_ME_clip/frame/spNo.1_a_100", range(100, 110))
    with pytest.raises(DataError, match="--neutral needs the long videos"):
        load_casme3(tmp_path, neutral=5)


def test_casme3_names_a_macro_expression_that_cannot_be_placed(tmp_path: Path):
    with pytest.raises(DataError, match=r"MaE.* row 2 \(spNO.1/q\): .* has no folder q"):
        load_casme3(write_casme3(tmp_path, ("spNO.1", "q", 200, 210, 230, "12", "happiness")), neutral=5)


# SMIC

BASE = "SMIC_all_cropped/HS"


def write_smic(root: Path, *clips: str) -> Path:
    write_frames(root / BASE / "s1/micro/negative/s1_ne_01", range(835, 855), "reg_image{:06d}.bmp")
    for clip in clips:
        write_frames(root / BASE / clip, range(100, 140), "reg_image{:06d}.bmp")
    return root


def test_smic_has_the_clips_of_non_micro(tmp_path: Path):
    loaded = load_smic(write_smic(tmp_path, "s1/non_micro/s1_n1", "s1/non_micro/s01_n2"), neutral=5)
    first, second = sorted(neutral(loaded.clips), key=lambda clip: clip.clip)
    assert (first.subject, first.clip, first.path) == ("s1", "s01_n2", f"{BASE}/s1/non_micro/s01_n2")
    assert (first.onset, first.apex, first.offset, first.fps) == (100, None, 139, 100.0)
    assert second.clip == "s1_n1"


def test_smic_takes_at_most_as_many_of_a_person_as_asked_for(tmp_path: Path):
    write_smic(tmp_path, *(f"s1/non_micro/s1_n{number}" for number in range(1, 8)))
    assert [clip.clip for clip in neutral(load_smic(tmp_path, neutral=3).clips)] == ["s1_n2", "s1_n4", "s1_n6"]


def test_smic_leaves_out_people_without_a_micro_expression(tmp_path: Path):
    write_smic(tmp_path, "s1/non_micro/s1_n1", "s7/non_micro/s7_n1")
    assert [clip.subject for clip in neutral(load_smic(tmp_path, neutral=3).clips)] == ["s1"]


def test_smic_without_non_micro_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="has clips in a folder non_micro; omit --neutral"):
        load_smic(write_smic(tmp_path), neutral=3)


def test_smic_names_a_neutral_clip_of_another_person(tmp_path: Path):
    with pytest.raises(DataError, match=r"s1/non_micro/s2_n1: the clip is in a folder of s1, but its name says s2"):
        load_smic(write_smic(tmp_path, "s1/non_micro/s2_n1"), neutral=3)


def test_smic_names_an_empty_neutral_clip_or_drops_it(tmp_path: Path):
    write_smic(tmp_path, "s1/non_micro/s1_n1")
    (tmp_path / BASE / "s1/non_micro/s1_n2").mkdir()
    with pytest.raises(DataError, match="s1_n2"):
        load_smic(tmp_path, neutral=3)
    loaded = load_smic(tmp_path, "skip", neutral=3)
    assert [clip.clip for clip in neutral(loaded.clips)] == ["s1_n1"]
    assert "s1_n2" in notes(loaded, "dropped")[0]


# SMIC-E

LONG = "SMIC-E_raw image/HS_long"


def test_smic_e_has_neutral_clips_away_from_all_intervals_of_a_recording(tmp_path: Path):
    header = ("Subject", "Filename", "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Emotion")
    write_book(tmp_path / LONG / "SMIC-HS-E_annotation.xlsx", [header, (1, "s1_ne_01", 1200, 1219, 1500, 1519, None)])
    write_frames(tmp_path / LONG / "SMIC-HS-E/s01/s1_ne_01", range(1000, 1700), "image{:06d}.jpg")
    found = neutral(load_smic_e(tmp_path, neutral=50).clips)
    assert [(clip.onset, clip.offset) for clip in found][:1] == [(1000, 1019)]
    assert not set().union(*map(frames_of, found)) & {*range(1100, 1320), *range(1400, 1620)}
    assert found[0].clip == "s1_ne_01_neutral_1000"
    assert not neutral(load_smic_e(tmp_path).clips)


# mol prepare, and protocols


def test_prepare_lists_neutral_clips_when_asked(tmp_path: Path):
    root = write_smic(tmp_path / "set", "s1/non_micro/s1_n1")
    manifest = prepare(PrepareConfig("smic", str(root), str(tmp_path / "out"), neutral=2))
    assert [clip.emotion for clip in manifest.clips] == ["negative", "neutral"]
    assert manifest.made["settings"]["neutral"] == 2
    without = prepare(PrepareConfig("smic", str(root), str(tmp_path / "out")))
    assert [clip.emotion for clip in without.clips] == ["negative"]
    assert "neutral" not in without.made["settings"]


@pytest.mark.parametrize("count", [0, -1])
def test_prepare_refuses_a_number_that_asks_for_nothing(count: int):
    with pytest.raises(SettingsError, match="neutral"):
        PrepareConfig("smic", "set", neutral=count)


def test_prepare_names_the_sets_that_have_neutral_clips(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"--neutral 3 does not apply to samm.*casme3, samm-lv, smic, smic-e, long"):
        prepare(PrepareConfig("samm", str(tmp_path), str(tmp_path / "out"), neutral=3))
    assert tuple(name for name, entry in SETS.items() if "neutral" in entry.options) == SETS_WITH_NEUTRAL


def test_published_protocols_leave_neutral_clips_out_and_as_labelled_has_a_class_for_them(tmp_path: Path):
    clips = load_smic(write_smic(tmp_path, "s1/non_micro/s1_n1"), neutral=2).clips
    for name in ("megc2019", "released-smic-3"):
        assert [left_out(find_protocol(name), clip) for clip in clips] == [None, "emotion neutral"]
    assert as_labelled(clips).classes == ("negative", "neutral")
