"""What a check finds in folders and pictures: each defect alone, on small real pictures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from check_sets import encoded, found, only

from mol.data.check import CheckDataConfig, Finding, check_data
from mol.data.manifest import Clip, Manifest, write_manifest


def test_whole_data_have_no_errors_and_tell_their_picture_size(data):
    findings = check_data(CheckDataConfig([data.manifest()], workers=1))
    assert findings == [Finding("info", "picture size", "smic", "16×12 (3 clips)")]


@pytest.mark.parametrize("row", range(3))
def test_a_truncated_picture_is_named(data, row):
    clip, suffix = data.clips[row], (".png", ".jpg", ".bmp")[row]
    path = data.picture(clip, 9, suffix)
    path.write_bytes(path.read_bytes()[:-40])
    finding = only(found(data.manifest()), "error", "unreadable")
    assert clip.clip in finding.where
    assert "1 of 12 pictures (9)" in finding.what
    assert path.name in finding.what
    assert "breaks off" in finding.what


def test_an_empty_picture_and_a_text_file_are_unreadable(data):
    data.picture(data.clips[0], 6).write_bytes(b"")
    data.picture(data.clips[0], 7).write_bytes(b"not a picture")
    finding = only(found(data.manifest()), "error", "unreadable")
    assert "2 of 12 pictures (6–7)" in finding.what


def test_pictures_outside_the_interval_are_not_read(data):
    data.picture(data.clips[0], 40).write_bytes(b"")
    assert found(data.manifest()) == []


def test_without_pictures_only_names_are_read(data):
    data.picture(data.clips[0], 6).write_bytes(b"")
    assert found(data.manifest(), pictures=False) == []
    data.picture(data.clips[0], 6).unlink()
    only(found(data.manifest(), pictures=False), "warning", "frames missing")


def test_frames_missing_inside_are_a_warning_with_their_ranges(data):
    for number in (7, 8, 9, 14):
        data.picture(data.clips[0], number).unlink()
    finding = only(found(data.manifest()), "warning", "frames missing")
    assert finding.what.endswith("lacks 4 of 12 frames: 7–9, 14")


@pytest.mark.parametrize("number", [5, 16])
def test_frames_missing_at_an_end_are_an_error(data, number):
    data.picture(data.clips[0], number).unlink()
    finding = only(found(data.manifest()), "error", "frames missing")
    assert finding.what.endswith(f"lacks 1 of 12 frames: {number}")


def test_a_missing_folder_is_an_error_and_hides_no_other_clip(data):
    for path in (data.root / data.clips[0].path).iterdir():
        path.unlink()
    (data.root / data.clips[0].path).rmdir()
    data.picture(data.clips[1], 6, ".jpg").unlink()
    findings = found(data.manifest())
    assert [(finding.kind, finding.where.split("/")[2]) for finding in findings] == [
        ("unreadable", "s1_ne_01"),
        ("frames missing", "s1_po_01"),
    ]


def test_pictures_of_two_sizes_in_a_clip_are_an_error(data):
    data.picture(data.clips[0], 11).write_bytes(encoded(data.rng, size=(24, 32)))
    finding = only(found(data.manifest()), "error", "sizes differ")
    assert "frames 5–10, 12–16 are 16×12; frames 11 are 32×24" in finding.what


def test_sizes_that_differ_between_clips_are_listed(data):
    for number in range(5, 17):
        data.picture(data.clips[0], number).write_bytes(encoded(data.rng, size=(24, 32)))
    (finding,) = check_data(CheckDataConfig([data.manifest()], workers=1))
    assert finding == Finding("info", "picture size", "smic", "16×12 (2 clips), 32×24 (1 clips)")


def test_onset_after_offset_and_an_apex_outside_are_errors(data):
    data.change(data.clips[0], onset=12, offset=8)
    data.change(data.clips[1], apex=40)
    findings = found(data.manifest())
    assert [(finding.severity, finding.kind) for finding in findings] == [("error", "interval")] * 2
    assert "onset 12 is after offset 8" in findings[0].what
    assert "apex 40 is outside onset 5 – offset 16" in findings[1].what


def test_a_clip_too_short_is_an_error_or_a_warning_as_extraction_takes_it(data):
    data.change(data.clips[0], offset=11)
    finding = only(found(data.manifest()), "error", "too short")
    assert "7 frames from onset to offset, 8 are needed" in finding.what
    only(found(data.manifest(), short="interpolate"), "warning", "too short")


def test_the_same_frames_under_two_people_are_an_error(data):
    copied = data.add("s3", "s3_ne_01")
    for number in range(5, 17):
        data.picture(copied, number).write_bytes(data.picture(data.clips[0], number).read_bytes())
    finding = only(found(data.manifest()), "error", "copies")
    assert "smic/s1/s1_ne_01" in finding.where
    assert "smic/s3/s3_ne_01" in finding.what


def test_the_same_frames_twice_in_one_person_are_a_warning(data):
    copied = data.add("s1", "s1_ne_02")
    for number in range(5, 17):
        data.picture(copied, number).write_bytes(data.picture(data.clips[0], number).read_bytes())
    only(found(data.manifest()), "warning", "copies")


def test_one_picture_of_two_people_is_a_warning_and_half_of_a_clip_an_error(data):
    other = data.add("s3", "s3_ne_01")
    data.picture(other, 9).write_bytes(data.picture(data.clips[0], 5).read_bytes())
    finding = only(found(data.manifest()), "warning", "copies")
    assert finding.where == "smic/s1/s1_ne_01"
    assert "1 of its 12 pictures are also in smic/s3/s3_ne_01, of another person" in finding.what
    for number in range(6, 12):
        data.picture(other, number).write_bytes(data.picture(data.clips[0], number - 1).read_bytes())
    assert "one face as two people" in only(found(data.manifest()), "error", "copies").what


def test_one_picture_twice_in_one_person_or_of_one_grey_level_is_no_copy(data):
    again, other = data.add("s1", "s1_ne_02"), data.add("s3", "s3_ne_01")
    data.picture(again, 5).write_bytes(data.picture(data.clips[0], 5).read_bytes())
    black = cv2.imencode(".png", np.zeros((12, 16), np.uint8))[1].tobytes()
    for clip in (data.clips[0], other):
        data.picture(clip, 8).write_bytes(black)
    assert found(data.manifest()) == []


def test_a_copy_in_another_format_is_the_same_picture(data):
    copied = data.add("s3", "s3_ne_01", suffix=".bmp")
    for number in range(5, 17):
        picture = cv2.imread(str(data.picture(data.clips[0], number)), cv2.IMREAD_GRAYSCALE)
        assert cv2.imwrite(str(data.picture(copied, number, ".bmp")), picture)
    only(found(data.manifest()), "error", "copies")


def test_two_clips_in_one_folder_are_each_checked(data):
    first = data.clips[0]
    data.change(first, offset=12)
    data.clips.append(replace(first, clip="later", onset=9, offset=18))
    finding = only(found(data.manifest()), "error", "frames missing")
    assert finding.where == "smic/s1/later"
    assert finding.what.endswith("17–18")


def test_a_video_file_is_read_and_its_length_compared(tmp_path):
    av = pytest.importorskip("av")
    folder = tmp_path / "own"
    folder.mkdir()
    rng = np.random.default_rng(3)
    with av.open(str(folder / "talk.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (24, 32), dtype=np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clips = [
        Clip("mine", "ann", "whole", "talk.mkv", 0, None, 11, "glad"),
        Clip("mine", "ann", "longer", "talk.mkv", 2, None, 12, "glad"),
    ]
    write_manifest(tmp_path / "manifest", Manifest("mine", folder, clips))
    finding = only(found(str(tmp_path / "manifest")), "error", "frames missing")
    assert finding.where == "mine/ann/longer"
    assert finding.what.endswith("lacks 1 of 11 frames: 12")
