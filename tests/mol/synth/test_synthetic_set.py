"""A synthetic set as a cache: complete, resumable, the same bytes every time."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from data_fixtures import dlib_detector
from synth_clips import TINY

from mol.common.errors import CacheSettingsError, InUseError, SettingsError, StorageError
from mol.common.locks import beside, lock
from mol.data.cache import Cache
from mol.synth.action_units import EMOTIONS
from mol.synth.faces import load_faces
from mol.synth.synthetic_set import synthesize
from mol.vision.points import interocular_distance


def test_set_holds_every_clip_of_every_person(tiny_set):
    made, calls = tiny_set
    assert len(made) == 2 * 3 * 2
    assert made.subjects == ["astronaut", "grace_hopper"]
    assert made.classes == TINY.emotions
    assert calls == [(done, 12) for done in range(13)]
    made.verify()
    for row, clip in zip(made.rows, made.landmarks, strict=True):
        assert made.classes[row["label"]] == row["emotion"]
        assert tuple(row["action_units"]) in [tuple(sorted(units)) for units in EMOTIONS[row["emotion"]]]
        assert 0 <= row["start"] < row["interval"]
        assert row["onset"] < row["apex"] < row["offset"] < row["length"]
        assert row["dataset"] == "synthetic"
        assert interocular_distance(clip).min() > 40


def test_sub_clips_sample_the_same_video_at_other_times(tiny_set):
    made, _ = tiny_set
    first, second = made.rows[:2]
    assert {**first, "start": 0} == {**second, "start": 0}
    assert first["start"] != second["start"]
    assert not np.array_equal(made.frames[0], made.frames[1])


def test_bytes_do_not_depend_on_workers_or_interruption(tiny_set, tmp_path):
    made, _ = tiny_set

    class StopEarlyError(Exception):
        pass

    def interrupt(done, total):
        if done == 5:
            raise StopEarlyError

    with pytest.raises(StopEarlyError):
        synthesize(tmp_path / "again", TINY, workers=1, progress=interrupt, detector=dlib_detector())
    assert not (tmp_path / "again").exists()
    calls = []
    synthesize(tmp_path / "again", TINY, workers=2, progress=lambda *done: calls.append(done), detector=dlib_detector())
    assert calls[0] == (5, 12)
    assert calls[-1] == (12, 12)
    for file in made.path.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_finished_set_is_kept_and_other_settings_are_refused(tiny_set):
    made, _ = tiny_set
    before = {file.name: file.stat().st_mtime_ns for file in made.path.iterdir()}
    calls = []
    synthesize(made.path, TINY, workers=1, progress=lambda *done: calls.append(done), detector=dlib_detector())
    assert calls == [(12, 12)]
    with pytest.raises(CacheSettingsError, match=r"settings\.seed: 1 → 2"):
        synthesize(made.path, replace(TINY, seed=2), workers=1, detector=dlib_detector())
    assert {file.name: file.stat().st_mtime_ns for file in made.path.iterdir()} == before


def test_full_disk_stops_before_the_first_clip(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match="No space left"):
        synthesize(tmp_path / "set", TINY, workers=1, detector=dlib_detector())
    assert list(tmp_path.iterdir()) == []


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="workers"):
        synthesize(tmp_path / "set", TINY, workers=0)


def test_opened_set_is_the_written_one(tiny_set):
    made, _ = tiny_set
    np.testing.assert_array_equal(Cache.open(made.path).frames[4], made.frames[4])


def test_a_set_without_blinks_is_recorded_as_before_there_were_any(tiny_set):
    made, _ = tiny_set
    assert "blinks" not in made.settings.settings
    assert not any("blink" in row for row in made.rows)


def test_neutral_clips_have_no_amplitude_and_blinks_have_their_action_unit(tmp_path):
    settings = replace(TINY, clips=8, subclips=1, emotions=("happiness", "neutral"), blinks=0.5)
    made = synthesize(tmp_path / "set", settings, workers=1, detector=dlib_detector())
    made.verify()
    assert made.settings.settings["blinks"] == 0.5
    neutral = [row for row in made.rows if row["emotion"] == "neutral"]
    assert len(neutral) == 8
    assert all(row["label"] == 1 and row["amplitude"] == 0 for row in neutral)
    assert all(row["amplitude"] > 0 for row in made.rows if row["emotion"] == "happiness")
    for row in made.rows:
        assert ("blink" in row) == (45 in row["action_units"])
    assert {tuple(row["action_units"]) for row in neutral} == {(), (45,)}


def test_some_of_the_people_alone_can_be_rendered_and_the_settings_say_who(tmp_path):
    settings = replace(TINY, clips=2, subclips=1)
    faces = load_faces(settings.sources, settings.people, settings.pictures, dlib_detector())
    some = [face for face in faces if face.subject == "grace_hopper"]
    made = synthesize(tmp_path / "some", settings, workers=1, faces=some)
    assert made.subjects == made.settings.settings["subjects"] == ["grace_hopper"]
    assert len(made) == 2
    with pytest.raises(CacheSettingsError, match="subjects"):
        synthesize(tmp_path / "some", settings, workers=1, detector=dlib_detector())


def test_a_cache_is_for_one_process(tmp_path):
    """Refused at once: no landmarks are looked for."""
    with lock(beside(tmp_path / "cache"), "mol synth"), pytest.raises(InUseError, match="choose another --out"):
        synthesize(tmp_path / "cache", TINY, detector=lambda _: pytest.fail("began"))
