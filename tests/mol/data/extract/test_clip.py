"""Extraction of one clip: frames, landmarks and flow, and landmarks from a file."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from data_fixtures import dlib_detector
from extract_sets import QUICK, config_of, hide_faces, landmark_files, make_set, second_folder, two_faces, videos

from mol.common.errors import DataError, MediaError
from mol.data.cache import Cache
from mol.data.check import CheckDataConfig, check_data
from mol.data.extract.clip import detector_of
from mol.data.extract.run import extract
from mol.data.extract.settings import ExtractionSettings
from mol.data.manifest import Clip, Manifest, write_manifest
from mol.vision.align import align_clip
from mol.vision.landmarks import landmarks_of_frames
from mol.vision.points import interocular_distance
from mol.vision.tvl1 import TVL1Settings, tvl1_flow


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
    points[2:7] = np.nan if kind == "NaN" else points[2:7]
    kept = points[:2] if kind == "no frame" else points
    subject, frame = ("sub07", 46) if kind == "no clip" else ("sub01", 48)
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
        ("a.npz", 'no array "s/c/frames"'),
        ("b.npz", r"is \(2, 5, 2\); needed: \(2, 68, 2\)"),
    ):
        with pytest.raises(MediaError, match=message):
            extract(config_of(manifest, landmarks=str(tmp_path / name)))


@pytest.mark.parametrize("hidden", [[49], [46, 47], [50, 51, 52, 53], [46, 53]])
def test_frames_in_which_no_face_is_found_are_interpolated_and_noted(tmp_path, hidden):
    manifest = make_set(tmp_path, (8, 8))
    whole = Cache.open(extract(config_of(manifest, "whole")).path)
    hide_faces(second_folder(manifest), hidden)
    result = extract(config_of(manifest))
    cache = Cache.open(result.path)
    assert whole.interpolated == []
    assert cache.interpolated == [{"dataset": "casme2", "subject": "sub02", "clip": "EP01", "frames": hidden}]
    assert f"no face was found in {len(hidden)} frames of 1 clips (sub02/EP01)" in result.warnings[0]
    np.testing.assert_array_equal(cache.landmarks[0], whole.landmarks[0])
    distance = np.linalg.norm(cache.landmarks[1] - whole.landmarks[1], axis=-1).mean(axis=-1)
    assert (distance < 0.1 * interocular_distance(whole.landmarks[1][0])).all()


def test_gaps_of_given_landmarks_are_interpolated_and_noted(tmp_path):
    manifest = make_set(tmp_path, (8,))
    points = landmarks_of_frames(videos()[0][:8], dlib_detector())
    moved = align_clip(videos()[0][:8], points)[1]
    points[6] = np.nan
    for path in landmark_files(tmp_path, {("sub01", "EP01"): points}):
        cache = Cache.open(extract(config_of(manifest, path.suffix[1:], landmarks=str(path))).path)
        assert [clip["frames"] for clip in cache.interpolated] == [[52]]
        assert np.abs(cache.landmarks[0][6] - moved[6]).mean() < 2


def test_a_gap_is_filled_up_to_the_length_that_is_set(tmp_path):
    manifest = make_set(tmp_path, (8, 8))
    hide_faces(second_folder(manifest), [49, 50])
    with pytest.raises(DataError, match=r"no face found in .*reg_img49\.png.*up to 1 frames in a row.*--max-gap"):
        extract(config_of(manifest, max_gap=1))
    assert extract(config_of(manifest, max_gap=2)).clips == 2  # goes on where it stopped


def test_an_interrupted_extraction_keeps_its_notes_and_a_skipped_clip_loses_none(tmp_path):
    manifest = make_set(tmp_path, (8, 8, 8))
    hide_faces(second_folder(manifest), [49])
    hide_faces(manifest.parent / "pictures/sub03/EP01", range(47, 54))
    with pytest.raises(DataError, match="1 of 3 clips cannot be extracted"):
        extract(config_of(manifest))
    result = extract(config_of(manifest, on_error="skip"))
    assert [clip["subject"] for clip in Cache.open(result.path).interpolated] == ["sub02"]
    assert [clip["subject"] for clip in result.skipped] == ["sub03"]
    (finding,) = [one for one in check_data(CheckDataConfig([str(result.path)], workers=1)) if one.kind == "no face"]
    assert finding.what.startswith("in 1 frames of 1 clips no face was found")


def test_largest_of_several_faces_is_taken_on_request(tmp_path):
    manifest = make_set(tmp_path, (8, 8))
    two_faces(second_folder(manifest))
    assert extract(config_of(manifest, several="largest")).clips == 2


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
    assert "in 1 of 1 clips more than 10% of the aligned frame is outside the" in result.warnings[0]


def test_nearly_all_time_goes_to_the_detector_and_the_flow(tmp_path):
    result = extract(config_of(make_set(tmp_path, (17,)), tvl1=TVL1Settings()))
    spent = sum(result.seconds.values())
    assert (result.seconds["face and landmarks"] + result.seconds["TV-L1"]) / spent > 0.9
