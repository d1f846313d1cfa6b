"""What `mol check-data` finds: each defect alone, on small real pictures."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import ROOT

from mol.common.errors import DataError, SettingsError
from mol.data.check import CheckDataConfig, Finding, check_data, ranges, run_check_data
from mol.data.manifest import Clip, Manifest, write_manifest
from mol.vision.integrity import truncation

SUFFIXES = (".jpg", ".png", ".bmp")


def encoded(rng: np.random.Generator, suffix: str = ".png", size: tuple[int, int] = (12, 16), flags=()) -> bytes:
    picture = rng.integers(0, 256, size, dtype=np.uint8)
    return cv2.imencode(suffix, picture, list(flags))[1].tobytes()


class DataSet:
    """A data set on disk that grows clip by clip; every clip is whole until a test spoils it."""

    def __init__(self, folder: Path, dataset: str = "smic", seed: int = 0) -> None:
        self.root, self.dataset, self.clips = folder, dataset, []
        self.rng = np.random.default_rng(seed)

    def add(self, subject="s1", clip="c1", emotion="negative", onset=5, offset=16, apex=None, suffix=".png") -> Clip:
        folder = self.root / subject / clip
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(onset, offset + 1):
            (folder / f"image{number:06d}{suffix}").write_bytes(encoded(self.rng, suffix))
        path = f"{subject}/{clip}"
        self.clips.append(Clip(self.dataset, subject, clip, path, onset, apex, offset, emotion, source=path))
        return self.clips[-1]

    def picture(self, clip: Clip, number: int, suffix: str = ".png") -> Path:
        return self.root / clip.path / f"image{number:06d}{suffix}"

    def change(self, clip: Clip, **fields) -> None:
        self.clips[self.clips.index(clip)] = replace(clip, **fields)

    def manifest(self, name: str = "") -> str:
        folder = self.root.with_name(f"{self.root.name}-manifest{name}")
        write_manifest(folder, Manifest(self.dataset, self.root, self.clips))
        return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "smic")
    made.add("s1", "s1_ne_01", "negative")
    made.add("s1", "s1_po_01", "positive", suffix=".jpg")
    made.add("s2", "s2_sur_01", "surprise", suffix=".bmp")
    return made


def found(*manifests: str, **settings) -> list[Finding]:
    """Errors and warnings."""
    findings = check_data(CheckDataConfig(list(manifests), workers=1, **settings))
    return [finding for finding in findings if finding.severity != "info"]


def only(findings: list[Finding], severity: str, kind: str) -> Finding:
    assert [(finding.severity, finding.kind) for finding in findings] == [(severity, kind)]
    return findings[0]


def test_whole_data_have_no_errors_and_tell_their_picture_size(data):
    findings = check_data(CheckDataConfig([data.manifest()], workers=1))
    assert findings == [Finding("info", "picture size", "smic", "16×12 (3 clips)")]


def test_progress_counts_clips(data):
    seen: list[tuple[int, int]] = []
    check_data(CheckDataConfig([data.manifest()], workers=1), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


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


def test_a_missing_root_is_an_error(data, tmp_path):
    folder = data.manifest()
    data.root.rename(tmp_path / "moved")
    assert ("root missing", "smic") in [(finding.kind, finding.where) for finding in found(folder)]


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
    assert "onset 12 lies after offset 8" in findings[0].what
    assert "apex 40 lies outside onset 5 – offset 16" in findings[1].what


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


def test_clips_that_share_only_their_first_frame_are_no_copies(data):
    other = data.add("s3", "s3_ne_01")
    data.picture(other, 5).write_bytes(data.picture(data.clips[0], 5).read_bytes())
    assert found(data.manifest()) == []


def test_two_clips_in_one_folder_are_each_checked(data):
    first = data.clips[0]
    data.change(first, offset=12)
    data.clips.append(replace(first, clip="later", onset=9, offset=18))
    finding = only(found(data.manifest()), "error", "frames missing")
    assert finding.where == "smic/s1/later"
    assert finding.what.endswith("17–18")


def test_a_set_from_two_manifests_is_an_error_and_so_is_each_clip_of_both(data):
    findings = found(data.manifest("-a"), data.manifest("-b"))
    assert {finding.kind for finding in findings} == {
        "set twice",
        "clip twice",
    }
    assert len([finding for finding in findings if finding.kind == "clip twice"]) == 3


def test_a_set_mixed_from_two_roots_names_both(data, tmp_path):
    other = DataSet(tmp_path / "elsewhere", seed=1)
    other.add("s4", "s4_ne_01")
    finding = only(found(data.manifest(), other.manifest()), "error", "set twice")
    assert str(data.root) in finding.what
    assert str(other.root) in finding.what


def test_counts_that_are_not_the_protocols_are_errors(data):
    findings = found(data.manifest(), protocol="megc2019")
    assert {finding.kind for finding in findings} == {"counts"}
    assert "smic negative: 70 clips expected, 1 found" in [finding.what for finding in findings]


def test_emotions_that_the_protocol_leaves_out_are_counted(tmp_path):
    samm = DataSet(tmp_path / "samm", "samm")
    samm.add("006", "006_1_2", "anger")
    samm.add("006", "006_1_3", "others")
    samm.add("007", "007_1_3", "others")
    findings = check_data(CheckDataConfig([samm.manifest()], protocol="megc2019", workers=1))
    left = [finding for finding in findings if finding.kind == "left out"]
    assert left == [Finding("info", "left out", "samm", "emotion others: 2 clips take no part in megc2019")]


def test_people_and_sets_foreign_to_the_protocol_are_errors(data, tmp_path):
    data.add("sub01", "EP01_01", "negative")
    own = DataSet(tmp_path / "own", "mine", seed=1)
    own.add("ann", "smile")
    foreign = [f for f in found(data.manifest(), own.manifest(), protocol="megc2019") if f.kind == "not in protocol"]
    assert [finding.where for finding in foreign] == ["smic/sub01/EP01_01", "mine/ann/smile"]


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


def test_several_processes_find_what_one_finds(data):
    for index in range(30):
        data.add(f"s{3 + index % 5}", f"c{index}")
    for row in (0, 5, 20):
        data.picture(data.clips[row], 8).unlink()
    data.picture(data.clips[4], 9).write_bytes(b"")
    folder = data.manifest()
    one = check_data(CheckDataConfig([folder], workers=1))
    assert check_data(CheckDataConfig([folder], workers=2)) == one


def test_the_command_prints_counts_and_the_next_command(data, capsys):
    run_check_data(CheckDataConfig([data.manifest()], workers=1))
    shown = capsys.readouterr().out
    assert "as-labelled" in shown
    assert "no errors" in shown
    assert f"next: mol extract {data.manifest()}" in shown


def test_the_command_shows_found_beside_expected_and_fails_on_errors(data, capsys, tmp_path):
    out = tmp_path / "findings.csv"
    with pytest.raises(DataError, match=r"4 errors, listed above \(4 × counts\)"):
        run_check_data(CheckDataConfig([data.manifest()], protocol="megc2019", workers=1, out=str(out)))
    rows = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["smic", "negative", "1", "70"] in rows
    assert ["smic", "clips", "3", "164"] in rows
    assert ["smic", "subjects", "2", "16"] in rows
    with out.open(encoding="utf-8", newline="") as table:
        assert [row["severity"] for row in csv.DictReader(table)] == ["error"] * 4 + ["info"]


def test_many_findings_of_a_kind_are_shortened_in_the_table(data, capsys):
    for index in range(14):
        clip = data.add("s9", f"c{index}")
        data.picture(clip, 9).unlink()
    run_check_data(CheckDataConfig([data.manifest()], workers=1))
    assert "and 4 more" in capsys.readouterr().out


def test_an_empty_manifest_is_an_error(tmp_path):
    data = DataSet(tmp_path / "smic")
    data.root.mkdir()
    with pytest.raises(DataError, match="no clips"):
        run_check_data(CheckDataConfig([data.manifest()], workers=1))


def test_a_manifest_edited_by_hand_is_refused(data):
    folder = data.manifest()
    table = Path(folder) / "clips.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("negative", "positive"), encoding="utf-8")
    with pytest.raises(DataError, match="SHA-256"):
        check_data(CheckDataConfig([folder]))


def test_settings_that_cannot_work_are_refused():
    for settings in ({"manifests": []}, {"manifests": ["a"], "frames": 1}, {"manifests": ["a"], "short": "drop"}):
        with pytest.raises(SettingsError):
            CheckDataConfig(**settings)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_all_processes_without_a_traceback(data, tmp_path):
    large = data.root / "large.jpg"
    large.write_bytes(encoded(data.rng, ".jpg", (480, 640)))
    for index in range(40):
        clip = data.add("s3", f"c{index}", offset=4)
        data.change(clip, offset=84)
        for number in range(5, 85):
            data.picture(clip, number, ".jpg").hardlink_to(large)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from mol.data.check import CheckDataConfig, check_data\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        check_data(CheckDataConfig([sys.argv[1]], workers=2), lambda done, total: print(done, flush=True))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n",
        encoding="utf-8",
    )
    root = ROOT
    process = subprocess.Popen(
        [sys.executable, str(script), data.manifest()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while int(process.stdout.readline() or 10**6) < 4:
        time.sleep(0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


# --- Whole or not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("seed", range(3))
def test_whole_pictures_are_whole_whatever_follows_them(suffix, seed):
    data = encoded(np.random.default_rng(seed), suffix, (17, 23))
    assert truncation(data) is None
    assert truncation(data + bytes(100)) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_cut_anywhere_is_not_whole(suffix):
    rng = np.random.default_rng(1)
    data = encoded(rng, suffix, (31, 20))
    for end in [*rng.integers(8, len(data) - 1, 60), len(data) - 1]:
        assert truncation(data[:end]) is not None, end


def test_a_progressive_jpeg_with_restarts_is_walked_through():
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    data = encoded(np.random.default_rng(2), ".jpg", (40, 56), flags)
    assert truncation(data) is None
    assert truncation(data[: len(data) // 2]) is not None


def test_the_end_of_a_thumbnail_inside_a_jpeg_is_not_its_own():
    rng = np.random.default_rng(4)
    thumbnail, data = encoded(rng, ".jpg", (8, 8)), encoded(rng, ".jpg", (40, 40))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert truncation(whole) is None
    assert truncation(whole[: len(segment) + 200]) is not None


def test_a_tail_of_zeros_does_not_make_a_jpeg_whole():
    data = encoded(np.random.default_rng(5), ".jpg", (40, 40))
    assert truncation(data[: len(data) // 2] + bytes(len(data))) is not None


def test_a_changed_byte_in_a_png_is_found_by_its_checksum():
    data = bytearray(encoded(np.random.default_rng(6), ".png", (20, 20)))
    data[len(data) // 2] ^= 0x10
    assert "checksum" in truncation(bytes(data))


def test_ranges_join_neighbours():
    assert ranges([5, 3, 4, 9, 11, 12]) == "3–5, 9, 11–12"
