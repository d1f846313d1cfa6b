"""Extraction: a manifest becomes a cache, whatever is wrong with some clips and whenever the run is stopped."""

import errno
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_fixtures import dlib_detector
from places import environment

from mol.arguments import read_config
from mol.common.errors import CacheSettingsError, DataError, MediaError, MOLError, SettingsError, StorageError
from mol.data import extract as extract_module
from mol.data.cache import Cache, row_bytes
from mol.data.extract import (
    ExtractConfig,
    command_of,
    describe_plan,
    describe_result,
    extract,
    plan_extraction,
    run_extract,
)
from mol.data.extract_clip import ExtractionSettings, detector_of, plan_clip
from mol.data.manifest import Clip, Manifest, read_manifest, write_manifest
from mol.synth.faces import load_faces
from mol.synth.render import SynthSettings, plan_clips, render_video
from mol.vision.align import align_clip
from mol.vision.landmarks import landmarks_of_frames
from mol.vision.points import interocular_distance
from mol.vision.tvl1 import TVL1Settings, tvl1_flow

QUICK = TVL1Settings(scales=2, warps=1, inner_iterations=5, outer_iterations=2)
FIRST = 46


@cache
def videos() -> list[np.ndarray]:
    """Three people of the ORL set in motion, 17 frames each."""
    settings = SynthSettings(people=3, pictures=1, clips=1, length=(17, 17), seed=3)
    faces = load_faces(people=3, pictures=1, detector=dlib_detector())
    return [render_video(plan, faces[plan.face], settings) for plan in plan_clips(faces, settings)]


def write_pictures(folder: Path, frames: np.ndarray, first: int = FIRST) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"reg_img{number}.png"), frame)


def made_clip(subject: int, length: int, emotion: str = "happiness") -> Clip:
    last = FIRST + length - 1
    where = f"pictures/sub{subject:02d}/EP01"
    return Clip("casme2", f"sub{subject:02d}", "EP01", where, FIRST, FIRST + 4, last, emotion, "6+12", 200.0, "row 2")


def make_set(root: Path, lengths: tuple[int, ...] = (17, 8, 9)) -> Path:
    """A manifest of one clip a person; its pictures go a little beyond the annotated frames."""
    clips = []
    for subject, (length, video) in enumerate(zip(lengths, videos(), strict=False), 1):
        clips.append(made_clip(subject, length, ("happiness", "disgust", "surprise")[subject - 1]))
        write_pictures(root / clips[-1].path, video)
    write_manifest(root / "manifest", Manifest("casme2", root, clips))
    return root / "manifest"


def config_of(manifest: Path, out: str = "cache", **settings) -> ExtractConfig:
    settings = {"workers": 1, "tvl1": QUICK, **settings}
    return ExtractConfig(manifest=str(manifest), out=str(manifest.parent / out), **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def second_folder(manifest: Path) -> Path:
    return manifest.parent / "pictures" / "sub02" / "EP01"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, bytes]:
    """The cache of `make_set` by an undisturbed run in one process."""
    return content(extract(config_of(make_set(tmp_path_factory.mktemp("straight")))).path)


# What comes out


def test_synthetic_clips_in_a_set_s_folders_stay_marked_as_such(tmp_path):
    manifest = read_manifest(make_set(tmp_path, (8,)))
    assert not Cache.open(extract(config_of(tmp_path / "manifest")).path).settings.synthetic_clips
    write_manifest(tmp_path / "manifest", replace(manifest, made={"synthetic": True}))
    made = extract(config_of(tmp_path / "manifest", "synthetic"))
    assert Cache.open(made.path).settings.synthetic_clips


def test_rows_are_those_of_the_chain_done_by_hand(tmp_path):
    manifest = make_set(tmp_path, (17,))
    cache = Cache.open(extract(config_of(manifest)).path)
    used = videos()[0][:16]
    points = landmarks_of_frames(used, detector_of(ExtractionSettings()))
    frames, moved, _ = align_clip(used, points)
    for start in (0, 1):
        np.testing.assert_array_equal(cache.frames[start], frames[start::2])
        np.testing.assert_array_equal(cache.landmarks[start], moved[start::2])
        flow = tvl1_flow(np.ascontiguousarray(frames[start::2]), QUICK)
        np.testing.assert_array_equal(cache.flow[start], flow.astype(np.float16))


def test_index_tells_where_every_row_comes_from(tmp_path):
    cache = Cache.open(extract(config_of(make_set(tmp_path))).path)
    assert cache.settings.kind == "extracted"
    assert cache.classes == ("disgust", "happiness", "surprise")
    assert [(row["subject"], row["start"], row["interval"], row["length"]) for row in cache.rows] == [
        ("sub01", 0, 2, 17),
        ("sub01", 1, 2, 17),
        ("sub02", 0, 1, 8),
        ("sub03", 0, 1, 9),
    ]
    row = cache.rows[1]
    assert row["frames"] == [47, 49, 51, 53, 55, 57, 59, 61]
    assert (row["dataset"], row["clip"], row["onset"], row["apex"], row["offset"]) == ("casme2", "EP01", 46, 50, 62)
    assert (row["emotion"], cache.classes[row["label"]], row["action_units"]) == ("happiness", "happiness", "6+12")


def test_frames_that_are_missing_inside_are_passed_over_and_told(tmp_path):
    manifest = make_set(tmp_path, (17,))
    (tmp_path / "pictures/sub01/EP01/reg_img50.png").unlink()
    result = extract(config_of(manifest))
    row = Cache.open(result.path).rows[0]
    assert (row["length"], row["frames"][:3]) == (16, [46, 48, 51])
    assert "casme2/sub01/EP01 has no picture for 1 of the frames 46 to 62 (50)" in result.warnings[0]


def test_clip_of_a_video_file_has_the_frames_of_its_interval(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, videos()[0].shape[:0:-1], 0)
    for frame in videos()[0]:
        writer.write(frame)
    writer.release()
    clip = Clip("own", "anna", "v", "v.avi", 5, None, 12, "happiness")
    write_manifest(tmp_path / "manifest", Manifest("own", tmp_path, [clip]))
    cache = Cache.open(extract(config_of(tmp_path / "manifest")).path)
    assert cache.rows[0]["frames"] == list(range(5, 13))
    used = videos()[0][5:13]
    frames, _, _ = align_clip(used, landmarks_of_frames(used, dlib_detector()))
    assert np.abs(cache.frames[0].astype(int) - frames).mean() < 4
    write_manifest(tmp_path / "manifest", Manifest("own", tmp_path, [replace(clip, offset=30)]))
    with pytest.raises(DataError, match=r"v\.avi ends before frame"):
        extract(config_of(tmp_path / "manifest", "other"))


def test_at_most_so_many_sub_clips_are_spread_over_the_starts(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(68):
        (folder / f"{number}.jpg").touch()
    manifest = Manifest("own", tmp_path, [])
    clip = Clip("own", "s", "c", "a", 0, None, 67, "others")
    starts = [plan_clip(manifest, clip, ExtractionSettings(subclips=most)).starts for most in (0, 1, 2, 3, 99)]
    assert starts == [tuple(range(8)), (0,), (0, 7), (0, 4, 7), tuple(range(8))]


def test_short_clip_is_lengthened_in_time_on_request(tmp_path):
    manifest = make_set(tmp_path, (5,))
    cache = Cache.open(extract(config_of(manifest, short="interpolate")).path)
    assert cache.rows[0]["frames"] == [46, 46.571, 47.143, 47.714, 48.286, 48.857, 49.429, 50]
    used = videos()[0][:5]
    frames, points, _ = align_clip(used, landmarks_of_frames(used, dlib_detector()))
    ends = [0, -1]
    np.testing.assert_allclose(cache.landmarks[0][ends], points[ends], atol=1)
    assert np.abs(cache.frames[0][ends].astype(int) - frames[ends]).mean() < 3


def test_frames_are_aligned_one_by_one_on_request(tmp_path):
    cache = Cache.open(extract(config_of(make_set(tmp_path, (8,)), align="frame")).path)
    eyes = np.stack([cache.landmarks[0][:, 36:42].mean(axis=1), cache.landmarks[0][:, 42:48].mean(axis=1)])
    np.testing.assert_allclose(eyes[0, :, 1], eyes[1, :, 1], atol=1e-3)


def test_face_of_a_wide_picture_is_found_in_a_smaller_one_and_its_points_in_the_picture_itself():
    picture = cv2.resize(videos()[0][0], None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    whole, small = dlib_detector()(picture)[0], detector_of(ExtractionSettings())(picture)[0]
    error = np.linalg.norm(whole.points - small.points, axis=-1).mean()
    assert error < 0.03 * interocular_distance(whole.points)
    assert len(np.unique(small.points % 1)) == 1  # whole pixels of the large picture, not of the small one


def test_picture_that_is_not_wide_is_searched_as_it_is():
    frame = videos()[0][0]
    plain, limited = dlib_detector()(frame)[0], detector_of(ExtractionSettings())(frame)[0]
    assert plain.box == limited.box
    np.testing.assert_array_equal(plain.points, limited.points)


def test_landmarks_between_detections_stay_on_the_face(tmp_path):
    manifest = make_set(tmp_path, (8,))
    every = Cache.open(extract(config_of(manifest, "every")).path).landmarks[0]
    fourth = Cache.open(extract(config_of(manifest, "fourth", detect_every=4)).path).landmarks[0]
    assert np.linalg.norm(every - fourth, axis=-1).mean() < 0.05 * interocular_distance(every[0])


# Landmarks found elsewhere


def landmark_files(folder: Path, points: dict[tuple[str, str], np.ndarray], first: int = FIRST) -> list[Path]:
    """The same landmarks as CSV and as NPZ."""
    arrays, lines = {}, ["subject,clip,frame," + ",".join(f"x_{i},y_{i}" for i in range(68))]
    for (subject, clip), of_clip in points.items():
        arrays[f"{subject}/{clip}"] = of_clip
        arrays[f"{subject}/{clip}/frames"] = np.arange(first, first + len(of_clip))
        for number, of_frame in enumerate(of_clip, first):
            values = ("" if np.isnan(value) else repr(float(value)) for value in of_frame.ravel())
            lines.append(",".join([subject, clip, str(number), *values]))
    (folder / "points.csv").write_text("\n".join(lines))
    np.savez(folder / "points.npz", **arrays)
    return [folder / "points.csv", folder / "points.npz"]


def test_landmarks_found_elsewhere_take_the_place_of_the_detector(tmp_path):
    manifest = make_set(tmp_path, (8,))
    folder = tmp_path / "pictures/sub01/EP01"
    for path in folder.iterdir():  # nothing that a detector could find
        cv2.imwrite(str(path), np.full((200, 200), 90, np.uint8))
    points = landmarks_of_frames(videos()[0][:8], dlib_detector()) * 0.5
    expected = align_clip(videos()[0][:8], points)[1]
    caches = []
    for path in landmark_files(tmp_path, {("sub01", "EP01"): points}):
        caches.append(Cache.open(extract(config_of(manifest, path.suffix[1:], landmarks=str(path))).path))
        np.testing.assert_array_equal(caches[-1].landmarks[0], expected)
        assert "dlib-bin" not in caches[-1].settings.versions
    assert caches[0].settings.settings["landmarks"] != caches[1].settings.settings["landmarks"]


@pytest.mark.parametrize("kind", ["no frame", "NaN", "no clip"])
def test_frame_without_landmarks_is_named(tmp_path, kind):
    manifest = make_set(tmp_path, (8,))
    points = landmarks_of_frames(videos()[0][:8], dlib_detector())
    points[6] = np.nan if kind == "NaN" else points[6]
    kept = points[:6] if kind == "no frame" else points
    subject, frame = ("sub07", 46) if kind == "no clip" else ("sub01", 52)
    for path in landmark_files(tmp_path, {(subject, "EP01"): kept}):
        with pytest.raises(DataError, match=rf"no landmarks for .*reg_img{frame}\.png"):
            extract(config_of(manifest, path.suffix[1:], landmarks=str(path)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", r"p\.txt: landmarks are read from"),
        ("gone.csv", None, r"gone\.csv does not exist"),
        ("p.csv", "subject,clip,frame\na,b,1\n", "lacks the column x_0"),
        ("p.npz", "no archive", r"p\.npz cannot be read"),
    ],
)
def test_landmarks_file_that_is_none_is_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=message):
        extract(config_of(make_set(tmp_path, (8,)), landmarks=str(tmp_path / name)))


def test_landmarks_archive_of_another_layout_is_refused(tmp_path):
    manifest = make_set(tmp_path, (8,))
    np.savez(tmp_path / "a.npz", **{"s/c": np.zeros((2, 68, 2))})
    np.savez(tmp_path / "b.npz", **{"s/c": np.zeros((2, 5, 2)), "s/c/frames": np.arange(2)})
    for name, message in (
        ("a.npz", 'lacks the array "s/c/frames"'),
        ("b.npz", r"is \(2, 5, 2\); needed: \(2, 68, 2\)"),
    ):
        with pytest.raises(MediaError, match=message):
            extract(config_of(manifest, landmarks=str(tmp_path / name)))


# Clips that cannot be used


def _truncate(folder: Path) -> None:
    path = folder / "reg_img48.png"
    path.write_bytes(path.read_bytes()[:2000])


def _without_face(folder: Path) -> None:
    cv2.imwrite(str(folder / "reg_img49.png"), np.full(videos()[1].shape[1:], 90, np.uint8))


def _two_faces(folder: Path) -> None:
    for path in folder.iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.concatenate([picture, picture], axis=1))


def _other_size(folder: Path) -> None:
    path = folder / "reg_img50.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[2:])


def _remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def _cut_off(folder: Path) -> None:
    for number in range(53, FIRST + 17):
        (folder / f"reg_img{number}.png").unlink()


def _name_twice(folder: Path) -> None:
    (folder / "copy_of_48.png").write_bytes((folder / "reg_img48.png").read_bytes())


FAULTS = [
    (_truncate, r"reg_img48\.png: the PNG breaks off"),
    (_without_face, r"no face found in .*sub02/EP01/reg_img49\.png"),
    (_two_faces, r"2 faces found in .*reg_img46\.png.*take the largest"),
    (_other_size, r"reg_img50\.png is 276×334 pixels and reg_img46\.png is 276×336"),
    (_remove, r"sub02/EP01 does not exist"),
    (_cut_off, r"lacks frame 53, but the clip goes from 46 to 53 by row 2 \(pictures there: 46 to 52\)"),
    (_name_twice, r"copy_of_48\.png and reg_img48\.png .* same frame number 48"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_clip_that_cannot_be_used_costs_no_other_clip(tmp_path, damage, message):
    manifest = make_set(tmp_path, (8, 8, 8))
    damage(second_folder(manifest))
    with pytest.raises(DataError, match=rf"1 of 3 clips(.|\n)*--on-error skip(.|\n)*sub02/EP01: .*{message}"):
        extract(config_of(manifest))
    assert not (tmp_path / "cache").exists()
    result = extract(config_of(manifest, on_error="skip"))
    assert (result.clips, result.rows, result.extracted) == (2, 2, 0)  # the others were kept
    cache = Cache.open(result.path)
    cache.verify()
    assert [row["subject"] for row in cache.rows] == ["sub01", "sub03"]
    assert [(clip["dataset"], clip["subject"], clip["clip"]) for clip in cache.skipped] == [("casme2", "sub02", "EP01")]
    assert "sub02/EP01" in describe_result(result, config_of(manifest))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest", "pictures", "cache"}


def test_repaired_clip_is_all_that_the_next_run_does(tmp_path):
    manifest = make_set(tmp_path, (8, 8, 8))
    folder = second_folder(manifest)
    _remove(folder)
    with pytest.raises(DataError, match="does not exist"):
        extract(config_of(manifest))
    folder.with_name("elsewhere").rename(folder)
    assert extract(config_of(manifest)).extracted == 1
    assert content(tmp_path / "cache") == content(extract(config_of(manifest, "straight")).path)


def test_largest_of_several_faces_is_taken_on_request(tmp_path):
    manifest = make_set(tmp_path, (8, 8))
    _two_faces(second_folder(manifest))
    assert extract(config_of(manifest, several="largest")).clips == 2


def test_clip_that_is_too_short_is_told_with_the_remedy_and_can_be_skipped(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    with pytest.raises(DataError, match=r"sub02/EP01: 7 frames in .*a clip needs 8; short=\"interpolate\""):
        extract(config_of(manifest))
    result = extract(config_of(manifest, on_error="skip"))
    assert (result.clips, len(result.skipped)) == (1, 1)
    assert Cache.open(result.path).skipped == result.skipped


def test_finished_cache_without_its_bad_clips_is_kept_as_it_is(tmp_path):
    manifest = make_set(tmp_path, (8, 8))
    _without_face(second_folder(manifest))
    before = content(extract(config_of(manifest, on_error="skip")).path)
    result = extract(config_of(manifest))
    assert (result.extracted, len(result.skipped)) == (0, 1)
    assert content(result.path) == before
    assert "nothing was done" in describe_result(result, config_of(manifest))


def test_without_any_usable_clip_there_is_no_cache(tmp_path):
    manifest = make_set(tmp_path, (8,))
    _without_face(tmp_path / "pictures/sub01/EP01")
    with pytest.raises(DataError, match=r"none of the 1 clips can be extracted(.|\n)*no face found"):
        extract(config_of(manifest, on_error="skip"))
    with pytest.raises(DataError, match=r"no clip of .*manifest can be extracted(.|\n)*a clip needs 8"):
        extract(config_of(make_set(tmp_path / "short", (5,)), on_error="skip"))


def test_face_that_leaves_the_picture_is_named(tmp_path):
    manifest = make_set(tmp_path, (8,))
    points = landmarks_of_frames(videos()[0][:8], dlib_detector())
    points[3] += [0, 200]
    path = landmark_files(tmp_path, {("sub01", "EP01"): points})[0]
    with pytest.raises(DataError, match=r"the face leaves the picture in .*reg_img49\.png \(1 of 8 frames\)"):
        extract(config_of(manifest, landmarks=str(path)))


def test_tightly_cut_pictures_are_told(tmp_path):
    manifest = make_set(tmp_path, (8,))
    assert extract(config_of(manifest, "uncut")).warnings == []
    result = extract(config_of(manifest, "cut", enlarge=5.0))
    assert "of the aligned frames of 1 of 1 clips lie outside the picture" in result.warnings[0]


def test_manifest_edited_by_hand_is_refused(tmp_path):
    manifest = make_set(tmp_path, (8,))
    table = manifest / "clips.csv"
    table.write_text(table.read_text().replace("happiness", "surprise"))
    with pytest.raises(DataError, match=r"clips\.csv is not what mol prepare wrote"):
        extract(config_of(manifest))


# Stopped, killed, changed


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, straight):
    counts: list[tuple[int, int]] = []
    result = extract(config_of(make_set(tmp_path), workers=2), lambda done, total: counts.append((done, total)))
    assert content(result.path) == straight
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (result.warnings, result.extracted) == ([], 3)
    assert all(result.seconds[stage] > 0 for stage in result.seconds)


def start_extraction(manifest: Path, out: str) -> subprocess.Popen:
    """A process of its own that says how many clips are done."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_extract import *\n"
        "def tell(done, total): print(done, flush=True)\n"
        f"extract(config_of(Path({str(manifest)!r}), {out!r}, workers=2), tell)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes through /proc")
def test_killed_run_goes_on_to_the_same_bytes_and_leaves_no_process(tmp_path, straight):
    manifest = make_set(tmp_path)
    with start_extraction(manifest, "killed") as process:  # parent and workers at once, after the first clip
        while process.stdout.readline().strip() != "1":
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    with start_extraction(manifest, "killed") as process:  # the parent alone, before its next clip
        assert process.stdout.readline().strip() in ("1", "2")
        workers = set()
        while len(workers) < 3 and process.poll() is None:  # two workers and multiprocessing's resource tracker
            workers = children_of(process.pid)
        process.kill()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)
    result = extract(config_of(manifest, "killed"))
    assert result.extracted < 3
    assert content(result.path) == straight


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_run_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path, straight, delay):
    manifest = make_set(tmp_path)
    with start_extraction(manifest, "killed") as process:
        process.stdout.readline()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    assert content(extract(config_of(manifest, "killed")).path) == straight


@pytest.mark.slow
def test_killed_worker_is_told_and_its_clip_done_again(tmp_path, straight):
    manifest = make_set(tmp_path)

    def kill_one(done: int, total: int) -> None:
        if done == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    result = extract(config_of(manifest, workers=2), kill_one)
    assert "a worker process died, probably out of memory" in result.warnings[0]
    assert "extracted again: casme2/" in result.warnings[0]
    assert content(result.path) == straight


def test_processes_that_always_die_end_the_run_with_the_reason(tmp_path):
    manifest = make_set(tmp_path)
    ended = threading.Event()

    def kill_all() -> None:
        while not ended.wait(0.02):
            for process in multiprocessing.active_children():
                process.kill()

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(MOLError, match=r"a worker process died, .*The clips that are extracted are kept"):
            extract(config_of(manifest, workers=2))
    finally:
        ended.set()
        killer.join()


def test_interrupt_leaves_the_command_to_go_on(tmp_path, monkeypatch, capsys):
    manifest = make_set(tmp_path)

    @contextmanager
    def interrupted(description):
        def count(done, total):
            if done == 1:
                signal.raise_signal(signal.SIGINT)

        yield count

    monkeypatch.setattr(extract_module, "counting", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_extract(config_of(manifest, workers=2))
    said = capsys.readouterr().out
    assert "the clips that are extracted are kept. To go on: mol extract" in said
    assert multiprocessing.active_children() == []
    assert extract(config_of(manifest)).extracted == 2


def test_command_line_gives_the_configuration_back(tmp_path):
    config = config_of(tmp_path / "my manifest", several="largest", subclips=2, workers=3)
    assert read_config(ExtractConfig, shlex.split(command_of(config))[2:], "mol extract") == config


def test_other_settings_are_refused_with_the_difference(tmp_path):
    manifest = make_set(tmp_path, (8,))
    before = content(extract(config_of(manifest)).path)
    with pytest.raises(CacheSettingsError, match=r"settings\.enlarge: 2\.5 → 3\.0"):
        extract(config_of(manifest, enlarge=3.0))
    with pytest.raises(CacheSettingsError, match=r"settings\.tvl1\.warps: 1 → 2"):
        extract(config_of(manifest, tvl1=replace(QUICK, warps=2)))
    assert content(tmp_path / "cache") == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_manifest_is_refused_with_the_difference(tmp_path, finished):
    manifest = make_set(tmp_path, (8, 8))
    if not finished:
        _without_face(second_folder(manifest))
        with pytest.raises(DataError):
            extract(config_of(manifest))
    else:
        extract(config_of(manifest))
    made = read_manifest(manifest)
    clips = [replace(made.clips[0], path="pictures/sub02/EP01", apex=None), made.clips[1]]
    write_manifest(manifest, replace(made, clips=clips))
    difference = r'row 0\.path: "pictures/sub01/EP01" → "pictures/sub02/EP01"(.|\n)*row 0\.apex: 50 → null'
    with pytest.raises(CacheSettingsError, match=difference):
        extract(config_of(manifest))


def test_data_set_that_moved_goes_on(tmp_path):
    manifest = make_set(tmp_path / "here", (8,))
    path = extract(config_of(manifest)).path
    (tmp_path / "here" / "pictures").rename(tmp_path / "pictures")
    write_manifest(manifest, replace(read_manifest(manifest), root=tmp_path))
    assert extract(config_of(manifest)).path == path


def test_full_disk_keeps_what_is_extracted(tmp_path, straight, monkeypatch):
    manifest = make_set(tmp_path)

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def seek(self, place):
            self.full = place > 3 * 165888  # the last row of four
            return self.file.seek(place)

        def write(self, view):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(view)

        def close(self):
            self.file.close()

    def fill_disk(done: int, total: int) -> None:
        if done == 0:
            writers[-1]._files["frames"] = FullDisk(writers[-1]._files["frames"])

    writers = []

    class Writer(extract_module.CacheWriter):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            writers.append(self)

    monkeypatch.setattr(extract_module, "CacheWriter", Writer)
    with pytest.raises(
        StorageError, match=r"could not write row 3 .*No space left on device.*run the same command again"
    ):
        extract(config_of(manifest), fill_disk)
    monkeypatch.undo()
    assert extract(config_of(manifest)).extracted == 1
    assert content(tmp_path / "cache") == straight


@pytest.mark.parametrize("leftover", ["cache.kept.partial", "cache.partial"])
def test_run_killed_while_it_left_clips_out_goes_on(tmp_path, leftover):
    manifest = make_set(tmp_path, (8, 8))
    _without_face(second_folder(manifest))
    if leftover == "cache.partial":  # killed after the copy was in its place and before the original was removed
        with pytest.raises(DataError):
            extract(config_of(manifest))
        copy = content(tmp_path / "cache.partial")
        extract(config_of(manifest, on_error="skip"))
        (tmp_path / leftover).mkdir()
        for name, data in copy.items():
            (tmp_path / leftover / name).write_bytes(data)
    else:
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "settings.json").write_text("{")
    extract(config_of(manifest, on_error="skip"))
    Cache.open(tmp_path / "cache").verify()
    assert {path.name for path in tmp_path.iterdir()} == {"manifest", "pictures", "cache"}


# Plan, words and settings


def test_plan_of_a_set_of_the_size_of_casme2_is_the_closed_form(tmp_path):
    (tmp_path / "v.avi").touch()
    clips = [Clip("casme2", f"s{i % 26}", f"c{i}", "v.avi", 0, None, 67, "others") for i in range(255)]
    write_manifest(tmp_path / "manifest", Manifest("casme2", tmp_path, clips))
    plan = plan_extraction(config_of(tmp_path / "manifest"))
    rows = 255 * (68 // 8)
    assert (plan.clips, plan.rows, plan.frames) == (255, rows, rows * 8)
    assert plan.cache_bytes == rows * (8 * 144**2 + 7 * 2 * 144**2 * 2 + 8 * 68 * 2 * 4 + 8) == 1_531_746_240
    assert plan.hours is None  # an empty file shows nothing that could be timed
    assert "v.avi" in plan.failed[0]
    assert not (tmp_path / "cache").exists()


def test_plan_is_the_size_of_the_cache_that_follows_and_estimates_the_time(tmp_path, capsys):
    manifest = make_set(tmp_path)
    plan = plan_extraction(config_of(manifest, workers=4))
    assert plan.timed == 3
    assert plan.hours == pytest.approx(plan.frames * plan.seconds_per_frame / 4 / 3600)
    path = extract(config_of(manifest)).path
    arrays = sum(file.stat().st_size for file in path.glob("*.npy"))
    assert 0 <= arrays - plan.cache_bytes == 4 * 128  # headers
    assert plan.cache_bytes == plan.rows * row_bytes()
    run_extract(config_of(manifest, plan=True))
    said = capsys.readouterr().out
    assert "3 clips, 32 pictures, 4 sub-clips of 8 frames" in said
    assert "cache     2.9 MiB" in said
    assert "time      about" in said


def test_plan_lists_the_clips_that_cannot_be_extracted(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    plan = plan_extraction(config_of(manifest))
    assert (plan.clips, [clip["subject"] for clip in plan.problems]) == (1, ["sub02"])
    assert "1 clips cannot be extracted:\n  sub02/EP01: 7 frames" in describe_plan(plan)


def test_command_says_how_fast_it_was_and_what_comes_next(tmp_path, capsys):
    run_extract(config_of(make_set(tmp_path, (8,))))
    said = capsys.readouterr().out
    assert "1 clips, 1 sub-clips: " in said
    assert "clips/s" in said
    assert "TV-L1" in said
    assert f"next: mol loso {tmp_path / 'cache'} --protocol megc2019 --sets '[casme2]'" in said


def test_nearly_all_time_goes_to_the_detector_and_the_flow(tmp_path):
    result = extract(config_of(make_set(tmp_path, (17,)), tvl1=TVL1Settings()))
    spent = sum(result.seconds.values())
    assert (result.seconds["face and landmarks"] + result.seconds["TV-L1"]) / spent > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"short": "stretch"},
        {"several": "first"},
        {"align": "video"},
        {"upsample": 2},
        {"subclips": -1},
        {"detect_every": 0},
        {"detect_width": -1},
        {"enlarge": 0.0},
        {"workers": -1},
        {"on_error": "ignore"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ExtractConfig(manifest="m", out="c", **wrong)


def test_list_of_skipped_clips_that_is_damaged_is_refused(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    path = extract(config_of(manifest, on_error="skip")).path / "skipped.json"
    assert json.loads(path.read_text())[0]["subject"] == "sub02"
    path.write_text('[{"subject": "sub02"}]')
    with pytest.raises(MOLError, match=r"skipped\.json is not a list of clips"):
        extract(config_of(manifest))
