"""Synthetic sets in the real sets' layouts: the loaders find what was planned, with the published counts and quirks."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
from data_fixtures import dlib_detector
from layout_names import write_names

from mol.common.errors import InUseError, SettingsError, StorageError
from mol.common.locks import beside, lock
from mol.data.manifest import Clip, Loaded, key, numbered_frames
from mol.data.protocol import apply, count_differences
from mol.data.protocols import find_protocol
from mol.data.sets.registry import load_set
from mol.synth.faces import load_faces
from mol.synth.layout_plan import LayoutPlan, LayoutSettings, deal
from mol.synth.layouts import LAYOUTS, plan_layout, write_layout
from mol.synth.render import render_video
from mol.vision.landmarks import DlibDetector
from mol.vision.video import read_video

TINY = LayoutSettings(people=2, clips=3, enlarge=2, length=(16, 18), pictures=1)


@cache
def face_detector() -> DlibDetector:
    return DlibDetector(upsample=0)


def write_tiny(layout: str, out: Path, settings: LayoutSettings = TINY, **options) -> LayoutPlan:
    return write_layout(layout, out, settings, **{"workers": 1, "detector": face_detector(), **options})


def load(layout: str, root: Path) -> Loaded:
    return load_set(layout.removesuffix("-cropped"), root)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict[str, tuple[Path, LayoutPlan, Loaded]]:
    """Every set with empty pictures, and the manifest from its loader; two of the larger ones in part."""
    sets = {}
    for name in LAYOUTS:
        root = tmp_path_factory.mktemp(name)
        settings = LayoutSettings(length=(16, 16), clips={"casme2-cropped": 40, "released": 60}.get(name, 0))
        sets[name] = root, write_names(name, root, settings), load(name, root)
    return sets


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The output of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    write_tiny("smic", root)
    return contents(root)


@pytest.fixture(scope="module")
def megc(full) -> list[Clip]:
    return [clip for name in ("casme2", "samm", "smic") for clip in full[name][2].clips]


def sheet_rows(path: Path) -> list[tuple]:
    return list(openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True))


def contents(root: Path) -> dict[str, bytes]:
    """Every file by its path, except the Excel books, which contain the time at which they were written."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".xlsx"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# What the loaders find


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loader_finds_the_planned_clips(full, layout):
    _, plan, loaded = full[layout]
    planned = {(clip.dataset, clip.subject, clip.clip, clip.emotion, clip.folder) for clip in plan.clips}
    assert {(clip.dataset, clip.subject, clip.clip, clip.emotion, clip.path) for clip in loaded.clips} == planned
    assert len(loaded.clips) == len(plan.clips)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loader_finds_the_true_frame_numbers(full, layout):
    _, plan, loaded = full[layout]
    truth = {f"{clip.dataset}/{clip.subject}/{clip.clip}": clip for clip in plan.clips}
    wrong = [key(clip) for clip in loaded.clips if interval(clip) != interval(truth[key(clip)])]
    # An offset of 0 in CAS(ME)² leaves the apex as the end, and Cropped lacks frames of one clip.
    assert len(wrong) == {"casme-sq": 1, "casme2-cropped": 1}.get(layout, 0), wrong


def interval(clip) -> tuple[int, int]:
    return clip.onset, clip.offset


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loader_finds_the_true_apex_or_none(full, layout):
    _, plan, loaded = full[layout]
    truth = {f"{clip.dataset}/{clip.subject}/{clip.clip}": clip.apex for clip in plan.clips}
    assert all(clip.apex in (None, truth[key(clip)]) for clip in loaded.clips)


@pytest.mark.parametrize(
    ("dataset", "totals"),
    [
        (
            "casme2",
            {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2},
        ),
        (
            "samm",
            {
                "anger": 57,
                "happiness": 26,
                "others": 26,
                "surprise": 15,
                "contempt": 12,
                "disgust": 9,
                "fear": 8,
                "sadness": 6,
            },
        ),
        ("smic", {"negative": 70, "positive": 51, "surprise": 43}),
    ],
)
def test_sets_have_as_many_clips_of_each_emotion_as_the_real_ones(full, dataset, totals):
    assert Counter(clip.emotion for clip in full[dataset][2].clips) == totals


def test_megc2019_finds_its_442_clips_and_68_people(megc):
    protocol = find_protocol("megc2019")
    labels = apply(protocol, megc)
    taken = [(clip.dataset, clip.subject) for clip, label in zip(megc, labels, strict=True) if label is not None]
    assert Counter(dataset for dataset, _ in taken) == {"casme2": 145, "samm": 133, "smic": 164}
    assert Counter(dataset for dataset, _ in set(taken)) == {"casme2": 24, "samm": 28, "smic": 16}
    assert count_differences(protocol, megc) == []


@pytest.mark.parametrize(
    "name",
    [
        "casme2-5",
        "samm-5",
        "released-casme2-3",
        "released-casme2-5",
        "released-samm-3",
        "released-samm-5",
        "released-smic-3",
    ],
)
def test_protocol_of_one_set_finds_its_counts(megc, name):
    protocol = find_protocol(name)
    assert count_differences(protocol, [clip for clip in megc if clip.dataset in protocol.datasets]) == []


@pytest.mark.parametrize("dataset", ["casme2", "samm", "smic"])
def test_released_folders_hold_the_clips_of_megc2019(dataset):
    clips = [clip for clip in plan_layout("released").clips if clip.dataset == dataset]
    assert len(clips) == {"casme2": 145, "samm": 133, "smic": 164}[dataset]
    assert count_differences(find_protocol(f"released-{dataset}-3"), clips) == []


# The quirks, read directly


def test_casme2_frames_lie_in_a_doubled_folder_without_padding(full):
    folder = full["casme2"][0] / "CASME2_RAW_selected" / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    assert all(re.fullmatch(r"img[1-9]\d*\.jpg", path.name) for path in folder.iterdir())


def test_casme2_header_stands_in_row_1_with_two_blank_columns(full):
    header = sheet_rows(full["casme2"][0] / "CASME2-coding-20140508.xlsx")[0]
    assert header[:2] == ("Subject", "Filename")
    assert [index for index, title in enumerate(header) if title is None] == [2, 6]


def test_casme2_has_a_few_apexes_that_are_a_slash(full):
    rows = sheet_rows(full["casme2"][0] / "CASME2-coding-20140508.xlsx")[1:]
    without = [(row[0], row[1]) for row in rows if row[4] == "/"]
    assert (4, "EP12_01f") in without
    assert 2 <= len(without) <= 25


def test_casme2_has_one_wrong_offset_whose_true_frame_is_91(full):
    path, _, loaded = full["casme2"]
    rows = sheet_rows(path / "CASME2-coding-20140508.xlsx")[1:]
    wrong = [index for index, row in enumerate(rows) if row[5] < row[3]]
    assert wrong == [60]
    assert loaded.clips[60].offset == 91


@pytest.mark.parametrize("clip", ["sub04/EP12_01f", "sub05/EP12_03f", "sub16/EP01_08", "sub01/EP02_01f"])
def test_casme2_has_the_clips_that_are_known_by_name(full, clip):
    assert f"casme2/{clip}" in {key(clip) for clip in full["casme2"][2].clips}


def test_casme2_leaves_two_clips_unlabelled(full):
    noted = [str(note) for note in full["casme2"][2].notes if "EP02_07" in str(note) or "EP02_02f" in str(note)]
    assert len(noted) == 2


def test_sub16_ep01_08_is_short_of_frames_in_cropped_only(full):
    def frames(layout: str, base: str) -> int:
        return len(numbered_frames(full[layout][0] / base / "sub16" / "EP01_08"))

    raw = frames("casme2", "CASME2_RAW_selected/CASME2_RAW_selected")
    assert frames("casme2-cropped", "Cropped") < raw
    assert next(clip for clip in full["casme2"][2].clips if clip.clip == "EP01_08").length == raw


def test_samm_header_stands_below_13_lines_of_notes(full):
    rows = sheet_rows(full["samm"][0] / "SAMM_Micro_FACS_Codes_v2.xlsx")
    assert rows[13][:2] == ("Subject", "Filename")
    assert all(row[1] is None for row in rows[:13])


def test_samm_padding_is_uneven_in_the_six_known_clips(full):
    root, plan, _ = full["samm"]
    uneven = {clip.clip for clip in plan.clips if len({len(path.name) for path in (root / clip.folder).iterdir()}) > 1}
    assert uneven == {"013_1_12", "013_1_8", "017_3_2", "026_1_1", "026_1_2", "035_7_2"}


def test_samm_apex_lies_outside_in_the_two_known_clips(full):
    rows = sheet_rows(full["samm"][0] / "SAMM_Micro_FACS_Codes_v2.xlsx")[14:]
    assert {row[1] for row in rows if not row[3] <= row[4] <= row[5]} == {"028_4_1", "032_3_1"}


def test_samm_spells_others_in_two_ways(full):
    rows = sheet_rows(full["samm"][0] / "SAMM_Micro_FACS_Codes_v2.xlsx")[14:]
    assert {row[9] for row in rows if row[9].startswith("Other")} == {"Other", "Others"}


def test_smic_has_an_empty_folder_that_is_no_clip(full):
    root, plan, _ = full["smic"]
    assert not list((root / "SMIC_all_cropped/HS/s18/micro/surprise/s18_sur_03").iterdir())
    assert "s18_sur_03" not in {clip.clip for clip in plan.clips}


# Who shows what


def test_deal_gives_every_clip_of_every_emotion_once():
    dealt = deal({"a": 5, "b": 3, "c": 1}, {"x": 6, "y": 3}, {"y": {"c": 1}})
    assert Counter(emotion for _, emotion in dealt) == {"a": 5, "b": 3, "c": 1}
    assert Counter(subject for subject, _ in dealt) == {"x": 6, "y": 3}
    assert ("y", "c") in dealt


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faces_are_distinct_within_a_set(layout):
    people = {(clip.dataset, clip.subject): clip.person for clip in plan_layout(layout).clips}
    for dataset in {dataset for dataset, _ in people}:
        faces = [person for (owner, _), person in people.items() if owner == dataset]
        assert len(set(faces)) == len(faces)


def test_limit_leaves_the_clips_that_stay_as_they_are():
    whole = {(clip.subject, clip.clip): clip for clip in plan_layout("samm").clips}
    for clip in plan_layout("samm", LayoutSettings(people=3, clips=5)).clips:
        same = whole[clip.subject, clip.clip]
        assert (clip.names, clip.person, clip.emotion) == (same.names, same.person, same.emotion)
        assert clip.motion.noise_seed == same.motion.noise_seed


def test_limit_of_clips_takes_people_in_turn():
    clips = plan_layout("smic", LayoutSettings(people=3, clips=7)).clips
    assert Counter(clip.subject for clip in clips) == {"s1": 3, "s2": 2, "s3": 2}


def test_seed_changes_what_is_drawn():
    first, second = (plan_layout("smic", LayoutSettings(clips=4, seed=seed)).clips for seed in (0, 1))
    assert [clip.motion.noise_seed for clip in first] != [clip.motion.noise_seed for clip in second]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"people": -1}, "people"),
        ({"clips": -1}, "clips"),
        ({"enlarge": 1}, "enlarge"),
        ({"pictures": 0}, "pictures"),
        ({"length": (8, 20)}, "length"),
        ({"amplitude": (0.0, 3.0)}, "amplitude"),
        ({"neutral": -1}, "neutral"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(change, name):
    with pytest.raises(SettingsError, match=name):
        LayoutSettings(**change)


def test_unknown_layout_is_refused_with_the_nearest_name():
    with pytest.raises(SettingsError, match="did you mean casme2"):
        plan_layout("casme22")


# Neutral clips


def test_smic_can_have_neutral_clips_that_its_loader_finds(tmp_path):
    settings = replace(TINY, neutral=2)
    plan = write_tiny("smic", tmp_path, settings)
    loaded = load_set("smic", tmp_path, neutral=5)
    found = [clip for clip in loaded.clips if clip.emotion == "neutral"]
    planned = [clip for clip in plan.clips if clip.emotion == "neutral"]
    assert [(clip.subject, clip.clip, clip.path) for clip in found] == [
        (clip.subject, clip.clip, clip.folder) for clip in planned
    ]
    assert [clip.subject for clip in found] == ["s1", "s1", "s2", "s2"]
    assert all(clip.motion.amplitude == 0 for clip in planned)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert {entry["amplitude"] for entry in truth["clips"] if entry["emotion"] == "neutral"} == {0}


def test_neutral_clips_leave_the_others_as_they_are():
    with_neutral, without = (plan_layout("smic", replace(TINY, neutral=count)).clips for count in (2, 0))
    assert [(clip.clip, clip.names, clip.person, clip.motion.noise_seed) for clip in with_neutral[: len(without)]] == [
        (clip.clip, clip.names, clip.person, clip.motion.noise_seed) for clip in without
    ]
    assert {(clip.subject, clip.person) for clip in with_neutral} == {(clip.subject, clip.person) for clip in without}


def test_a_layout_without_a_place_for_neutral_clips_says_so():
    with pytest.raises(SettingsError, match="casme2 has no place for neutral clips; smic has"):
        plan_layout("casme2", LayoutSettings(neutral=1))


def test_a_set_without_neutral_clips_is_recorded_as_before_there_were_any(tmp_path):
    write_tiny("smic", tmp_path)
    assert "neutral" not in json.loads((tmp_path / "layout.json").read_text())


# Pictures


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rendered_set_loads_with_readable_frames(tmp_path, layout):
    plan = write_tiny(layout, tmp_path, LayoutSettings(people=1, clips=2, enlarge=2, length=(16, 16), pictures=1))
    loaded = load(layout, tmp_path)
    assert len(loaded.clips) == len(plan.clips)
    for clip in loaded.clips[:1]:
        assert read_video(tmp_path / clip.path).frames.shape[1:] == (224, 184)
        assert set(range(clip.onset, clip.offset + 1)) <= set(numbered_frames(tmp_path / clip.path))


@pytest.mark.parametrize("layout", ["casme2", "samm", "smic"])
def test_dlib_finds_one_face_in_every_frame(tmp_path, layout):
    write_tiny(layout, tmp_path, LayoutSettings(people=3, clips=3, length=(16, 16), pictures=3))
    for clip in load(layout, tmp_path).clips:
        frames = read_video(tmp_path / clip.path).frames
        assert all(len(dlib_detector()(frame)) == 1 for frame in frames[::5])


def test_bitmaps_of_smic_are_the_planned_video(tmp_path):
    settings = LayoutSettings(people=1, clips=1, enlarge=2, length=(16, 16), pictures=1)
    (clip,) = write_tiny("smic", tmp_path, settings).clips
    (face,) = load_faces(("orl",), 1, 1, face_detector())
    expected = render_video(clip.motion, face, settings.synth("others"), 2)
    assert np.array_equal(read_video(tmp_path / clip.folder).frames, expected)


def test_apex_is_where_the_face_has_moved_most(tmp_path):
    """With a strong expression and no noise, the apex differs from the onset more than the second frame does."""
    settings = LayoutSettings(people=1, clips=1, length=(32, 32), pictures=1, amplitude=(3.0, 3.0), noise=0)
    (clip,) = write_tiny("smic", tmp_path, settings).clips
    frames = {number: cv2.imread(str(path), 0).astype(float) for number, path in frames_of(tmp_path, clip.folder)}
    change = {number: np.abs(frame - frames[clip.onset]).mean() for number, frame in frames.items()}
    assert change[clip.apex] > 3 * change[clip.onset + 1]


def frames_of(root: Path, folder: str):
    return numbered_frames(root / folder).items()


def test_truth_names_the_person_of_every_subject(tmp_path):
    write_tiny("casme2", tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["people"] == {"casme2/sub01": "orl-s01", "casme2/sub02": "orl-s02"}


def test_truth_holds_apex_and_emotion_of_every_clip(tmp_path):
    plan = write_tiny("casme2", tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert [(clip["clip"], clip["apex"], clip["emotion"]) for clip in truth["clips"]] == [
        (clip.clip, clip.apex, clip.emotion) for clip in plan.clips
    ]


# Interrupted and resumed runs


def test_same_settings_give_the_same_bytes(tmp_path, whole):
    write_tiny("smic", tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_number_of_workers_does_not_change_the_bytes(tmp_path):
    settings = LayoutSettings(people=2, clips=16, enlarge=2, length=(16, 16), pictures=1)
    write_tiny("samm", tmp_path / "one", settings)
    write_tiny("samm", tmp_path / "two", settings, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("done", [0, 1, 3])
def test_interrupted_run_goes_on_to_the_same_bytes(tmp_path, whole, done):
    def interrupt(count: int, _: int) -> None:
        if count == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tiny("smic", tmp_path, progress=interrupt)
    assert not (tmp_path / "truth.json").exists()
    write_tiny("smic", tmp_path)
    assert contents(tmp_path) == whole


def test_half_written_clip_is_written_again(tmp_path, whole):
    (clip, *_) = write_tiny("smic", tmp_path).clips
    folder = tmp_path / clip.folder
    half = folder.rename(folder.with_name(f".{folder.name}-partial"))
    next(half.iterdir()).unlink()
    write_tiny("smic", tmp_path)
    assert contents(tmp_path) == whole


def test_finished_set_is_left_as_it_is(tmp_path):
    write_tiny("casme2", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calls = []
    write_tiny("casme2", tmp_path, progress=lambda *call: calls.append(call))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert calls == [(3, 3)]


def test_a_set_is_for_one_process_until_it_is_finished(tmp_path):
    with lock(beside(tmp_path / "set"), "mol synth"), pytest.raises(InUseError, match="choose another --out"):
        write_tiny("smic", tmp_path / "set")
    write_tiny("smic", tmp_path / "set")
    with lock(beside(tmp_path / "set"), "mol synth"):
        write_tiny("smic", tmp_path / "set")


def test_other_settings_are_refused_with_the_difference(tmp_path):
    write_tiny("smic", tmp_path)
    with pytest.raises(SettingsError, match="seed: 0 → 5"):
        write_tiny("smic", tmp_path, replace(TINY, seed=5))


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"thesis\.txt"):
        write_tiny("smic", tmp_path)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    write_tiny("smic", tmp_path, LayoutSettings(people=1, clips=1, enlarge=2, length=(16, 16), pictures=1))
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        write_tiny("smic", other, progress=stop_at_once)
    (other / "SMIC_all_cropped").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="SMIC_all_cropped"):
        write_tiny("smic", other)


def stop_at_once(*_: int) -> None:
    raise KeyboardInterrupt


def test_progress_counts_clips_up_to_all(tmp_path):
    calls = []
    write_tiny("casme2", tmp_path, progress=lambda *call: calls.append(call))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
