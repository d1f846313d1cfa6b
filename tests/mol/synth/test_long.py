"""Long synthetic recordings: exact intervals, constant memory, equal frames for equal settings."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import dlib_detector
from long_films import SHORT, first_face

from mol.common.errors import SettingsError
from mol.data.sets.registry import load_set
from mol.synth.long_plan import BLINK, MACRO, MICRO, Event, LongSettings, lamp_level, plan_long
from mol.synth.long_render import LongMotion, render_long
from mol.synth.long_set import film_of, write_long
from mol.vision.video import read_video

MINUTES = LongSettings(people=2, videos=2, minutes=2)


def expressions(plan) -> list[Event]:
    return [event for event in plan.events if event.kind != BLINK]


# Plans


def test_expressions_have_the_lengths_of_their_kinds_and_never_overlap():
    for plan in plan_long(MINUTES):
        shown = expressions(plan)
        for event in shown:
            seconds = (event.offset - event.onset + 1) / MINUTES.fps
            assert 0.13 < seconds <= 0.5 if event.kind == MICRO else 0.5 < seconds <= 3
            assert event.onset < event.apex < event.offset < plan.length
        assert all(two.onset - one.offset >= 0.5 * MINUTES.fps for one, two in itertools.pairwise(shown))


def test_as_many_are_planned_as_were_asked_for():
    for plan in plan_long(MINUTES):
        kinds = [event.kind for event in plan.events]
        assert (kinds.count(MICRO), kinds.count(MACRO)) == (12, 6)
        assert 20 <= kinds.count(BLINK) <= 24
    assert len({plan.name for plan in plan_long(MINUTES)}) == 4


def test_plans_follow_from_the_seed():
    again, other = plan_long(MINUTES), plan_long(replace(MINUTES, seed=1))
    assert [plan.events for plan in plan_long(MINUTES)] == [plan.events for plan in again]
    assert plan_long(MINUTES)[0].events != other[0].events


def test_another_number_of_people_leaves_a_persons_recordings_as_they_are():
    assert plan_long(replace(MINUTES, people=1))[0].events == plan_long(MINUTES)[0].events


@pytest.mark.parametrize("kind", [MICRO, MACRO, BLINK])
def test_strength_is_zero_at_both_ends_and_one_at_the_apex(kind):
    event = Event(kind, 10, 20, 40, hold=6 if kind == MACRO else 0)
    curve = [event.strength(time) for time in range(50)]
    assert curve[:11] == [0.0] * 11
    assert curve[40:] == [0.0] * 10
    assert curve[20] == 1.0
    assert min(curve[11:40]) > 0
    assert max(np.abs(np.diff(curve))) < 0.35


def test_a_lamp_changes_the_light_within_a_moment_and_stays():
    lamps = np.array([[1.0, 0.5], [3.0, -0.5]])
    assert lamp_level(lamps, 0.9) == 0.0
    assert lamp_level(lamps, 1.1) == pytest.approx(0.25)
    assert lamp_level(lamps, 2.9) == pytest.approx(0.5)
    assert lamp_level(lamps, 4.0) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first": 39, "people": 3}, "the ORL set has 40 people"),
        ({"micro_seconds": (0.2, 0.6)}, r"micro_seconds must satisfy .* maximum ≤ 0.5"),
        ({"macro_seconds": (0.5, 2.0)}, "macro_seconds"),
        ({"emotions": ("happiness", "neutral")}, "emotions must be"),
        ({"macro": 20.0}, "of a minute's 60 s"),
        ({"fps": 5.0}, "2 frames ≤ minimum"),
        ({"minutes": 0.02, "micro": 59, "macro": 0, "micro_seconds": (0.1, 0.2)}, "do not fit"),
        ({"minutes": 0.0}, "minutes"),
        ({"amplitude": (1.0, 9.0)}, "amplitude"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        plan_long(LongSettings(**wrong))


# Frames


def test_nothing_but_the_head_moves_before_an_onset_and_from_an_offset_on():
    settings = replace(SHORT, blinks=0, head_shift=0, head_turn=0, head_zoom=0)
    plan = plan_long(settings)[0]
    motion = LongMotion.of(plan, first_face(), settings)
    event = expressions(plan)[0]
    grid = np.stack(np.meshgrid(np.linspace(20, 120, 30), np.linspace(20, 120, 30)))
    for time in (event.onset, event.offset):
        np.testing.assert_allclose(motion.at(time).forward(0, grid), grid, atol=1e-9)
    moved = np.linalg.norm(motion.at(event.apex).forward(0, grid) - grid, axis=0)
    assert moved.max() == pytest.approx(event.amplitude, rel=0.1)


def test_frames_come_one_at_a_time_and_follow_from_the_settings():
    settings = replace(SHORT, minutes=60, micro=6, blinks=0)
    plan = plan_long(settings)[0]
    assert plan.length == 108000
    frames = render_long(plan, first_face(), settings)
    assert isinstance(frames, Iterator)
    few = list(itertools.islice(frames, 2))
    again = list(itertools.islice(render_long(plan, first_face(), settings), 2))
    assert few[0].shape == (224, 184)
    np.testing.assert_array_equal(few, again)


def test_a_frame_shows_the_expression():
    settings = replace(SHORT, noise=0, lighting=0, blinks=0, head_shift=0, head_turn=0, head_zoom=0)
    plan = plan_long(settings)[0]
    event = expressions(plan)[0]
    shown = list(itertools.islice(render_long(plan, first_face(), settings), event.offset + 1))
    np.testing.assert_array_equal(shown[event.onset], shown[event.offset])
    assert np.abs(shown[event.apex].astype(int) - shown[event.onset]).max() > 20


# Sets


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("long") / "set"
    write_long(path, SHORT, workers=1, detector=dlib_detector())
    return path


def test_a_set_is_read_back_as_it_was_planned(root):
    plan = plan_long(SHORT)[0]
    loaded = load_set("long", root)
    (recording,) = loaded.recordings
    assert (recording.subject, recording.video, recording.path) == ("p01", "take1", "videos/p01_take1.mkv")
    found = [(one.kind, one.onset, one.apex, one.offset, one.emotion) for one in recording.expressions]
    assert sorted(found) == sorted((e.kind, e.onset, e.apex, e.offset, e.emotion or "") for e in plan.events)
    micro = [event for event in plan.events if event.kind == MICRO]
    assert [(clip.onset, clip.offset, clip.emotion) for clip in loaded.clips] == [
        (event.onset, event.offset, event.emotion) for event in micro
    ]


def test_a_film_holds_the_frames_without_loss(root):
    plan = plan_long(SHORT)[0]
    video = read_video(root / film_of(plan))
    assert (len(video), video.fps) == (180, 30.0)
    few = list(itertools.islice(render_long(plan, first_face(), SHORT), 5))
    np.testing.assert_array_equal(video.frames[:5], few)


def test_a_finished_set_is_kept_and_other_settings_are_refused(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    write_long(root, SHORT, workers=1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(SettingsError, match=r"other settings.*noise"):
        write_long(root, replace(SHORT, noise=2.0))


def test_an_interrupted_set_is_continued_with_the_same_bytes(root, tmp_path, monkeypatch):
    film = root / "videos/p01_take1.mkv"
    monkeypatch.setattr("mol.synth.long_set.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("mol.synth.layouts.write_json", lambda path, value: path.write_text(json.dumps(value)))
    (tmp_path / "set").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_long(tmp_path / "set", SHORT, workers=1, detector=dlib_detector())
    monkeypatch.undo()
    write_long(tmp_path / "set", SHORT, workers=1)
    assert (tmp_path / "set/videos/p01_take1.mkv").read_bytes() == film.read_bytes()
    assert (tmp_path / "set/truth.json").read_text() == (root / "truth.json").read_text()


def test_the_truth_of_a_recording_lies_beside_it(root):
    with open(root / "videos/p01_take1.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {"videos/p01_take1.mkv"}
    assert len(rows) == len(plan_long(SHORT)[0].events)
    truth = json.loads((root / "truth.json").read_text())
    assert truth["people"] == {"p01": "orl-s01"}
    micro = next(event for event in truth["videos"][0]["events"] if event["kind"] == MICRO)
    assert micro["action_units"]
    assert micro["amplitude"] >= 1
